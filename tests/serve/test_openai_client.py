"""The calls of OpenAI's own Python client, unmodified."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from served_model import KEY, NAME, QUESTION, Running

openai = pytest.importorskip("openai")

MESSAGES: Any = [{"role": "user", "content": QUESTION}]


@pytest.fixture
def client(server: Running) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0) as found:
        yield found


def test_chat(client: Any) -> None:
    found = client.chat.completions.create(
        model=NAME, messages=MESSAGES, max_completion_tokens=12, n=2, seed=1, temperature=0.8, top_p=0.9, logprobs=True,
        stop=["zzz"],
    )  # fmt: skip
    assert len(found.choices) == 2
    assert found.choices[0].message.role == "assistant"
    assert found.choices[0].logprobs.content[0].logprob <= 0
    assert found.usage.total_tokens == found.usage.prompt_tokens + found.usage.completion_tokens


def test_a_stream_with_usage(client: Any) -> None:
    asked: dict[str, Any] = {"model": NAME, "messages": MESSAGES, "max_tokens": 12, "seed": 1}
    events = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    whole = client.chat.completions.create(**asked)
    assert (
        "".join(one.choices[0].delta.content or "" for one in events if one.choices) == whole.choices[0].message.content
    )
    assert events[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_deepconf_by_every_road_that_the_client_has(client: Any) -> None:
    asked: dict[str, Any] = {"messages": MESSAGES, "max_tokens": 12, "seed": 1}
    by_name = client.chat.completions.create(model=f"{NAME}@deepconf-16", **asked)
    by_body = client.chat.completions.create(model=NAME, extra_body={"deepconf": {"budget": 16}}, **asked)
    by_effort = client.chat.completions.create(model=NAME, reasoning_effort="low", **asked)
    assert by_name.usage.deepconf["traces"] == by_body.usage.deepconf["traces"] == 16
    assert by_name.choices == by_body.choices == by_effort.choices
    events = list(client.chat.completions.create(model=f"{NAME}@deepconf-16", stream=True, **asked))
    assert any(event.model_extra.get("deepconf") for event in events)
    text = "".join(event.choices[0].delta.content or "" for event in events)
    assert text == by_name.choices[0].message.content


def test_completions_and_models(client: Any) -> None:
    found = client.completions.create(model=NAME, prompt=["four", "so"], max_tokens=8, seed=1, logprobs=0)
    assert [one.index for one in found.choices] == [0, 1]
    assert found.choices[0].logprobs.token_logprobs[0] <= 0
    assert client.models.list().data[0].id == NAME
    assert client.models.retrieve(NAME).owned_by == "open-h1r"


def test_responses_whole_and_streamed(client: Any) -> None:
    asked: dict[str, Any] = {"model": NAME, "input": QUESTION, "max_output_tokens": 12, "extra_body": {"seed": 1}}
    whole = client.responses.create(**asked)
    chat = client.chat.completions.create(model=NAME, messages=MESSAGES, max_tokens=12, seed=1)
    assert whole.output_text == chat.choices[0].message.content
    assert whole.usage.output_tokens == chat.usage.completion_tokens
    assert whole.status == {"stop": "completed", "length": "incomplete"}[chat.choices[0].finish_reason]
    events = list(client.responses.create(**asked, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == whole.output_text
    assert [event.type for event in events[:2]] == ["response.created", "response.in_progress"]
    assert events[-1].type == f"response.{whole.status}"
    items = [(e.type.rpartition(".")[2], e.output_index) for e in events if e.type.startswith("response.output_item")]
    assert items == [one for index in range(len(whole.output)) for one in (("added", index), ("done", index))]
    assert events[-1].response.output_text == whole.output_text
    many = client.responses.create(
        model=f"{NAME}@deepconf-16",
        input=[{"role": "user", "content": QUESTION}],
        instructions="Be brief.",
        max_output_tokens=12,
    )
    assert many.usage.deepconf["traces"] == 16
    turns = [{"role": "user", "content": QUESTION}]
    part = {"type": "reasoning_text", "text": "four"}
    thought = {"type": "reasoning", "id": "rs_1", "summary": [], "content": [part]}
    said = [item.model_dump(exclude_none=True) for item in whole.output if item.type == "message"]
    counts = [
        client.responses.create(**{**asked, "input": [*turns, *between, *turns]}).usage.input_tokens
        for between in (said, [thought, *said], [thought])
    ]
    assert counts[0] == counts[1] > counts[2]  # a whole reply may come back; its thinking is left out
    with pytest.raises(openai.BadRequestError):
        client.responses.create(model=NAME, input=[thought])
    with pytest.raises(openai.BadRequestError):
        client.responses.create(model=NAME, input="a", previous_response_id="resp_1")


def test_errors_are_the_client_s_own(server: Running, client: Any) -> None:
    with pytest.raises(openai.BadRequestError) as wrong:
        client.chat.completions.create(model=NAME, messages=MESSAGES, temperature=-1)
    assert wrong.value.param == "temperature"
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="other", messages=MESSAGES)
    stranger = openai.OpenAI(base_url=f"{server.url}/v1", api_key="no", max_retries=0)
    with stranger, pytest.raises(openai.AuthenticationError):
        stranger.models.list()
