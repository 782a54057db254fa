"""`/v1/chat/completions` and `/v1/completions` on the native engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from served_model import KEY, NAME, QUESTION, Running

from h1r.engine.native.engine import NativeEngine
from h1r.engine.protocol import SamplingParams
from h1r.evals.answers import generate
from h1r.serve.model import Model
from h1r.serve.reply_text import Splitter, parts_of

ASKED = {"model": NAME, "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 16, "seed": 3}


def ask(server: Running, path: str = "/v1/chat/completions", **changes: Any) -> dict[str, Any]:
    response = server.client.post(path, json={**ASKED, **changes})
    assert response.status_code == 200, response.text
    return dict(response.json())


def chunks(server: Running, path: str = "/v1/chat/completions", **changes: Any) -> list[dict[str, Any]]:
    with server.client.stream("POST", path, json={**ASKED, **changes, "stream": True}) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line.removeprefix("data: ") for line in response.iter_lines() if line.startswith("data: ")]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


def test_answers_are_those_of_generate_on_the_same_seeds(server: Running, run: Path) -> None:
    found = ask(server, n=3)
    traces = generate(str(run), [QUESTION], SamplingParams(n=3, max_tokens=16, seed=3, temperature=1.0))
    assert [choice["message"]["content"] for choice in found["choices"]] == [parts_of(t.text)[1] for t in traces]
    assert [choice["index"] for choice in found["choices"]] == [0, 1, 2]
    assert found["usage"]["completion_tokens"] == sum(trace.num_tokens for trace in traces)
    assert found["usage"]["total_tokens"] == found["usage"]["prompt_tokens"] + found["usage"]["completion_tokens"]
    reasons = {"stop": "stop", "length": "length"}
    assert [choice["finish_reason"] for choice in found["choices"]] == [reasons[t.finish_reason] for t in traces]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_a_stream_says_what_the_whole_reply_says(server: Running, path: str) -> None:
    prompt = {"prompt": QUESTION} if path == "/v1/completions" else {}
    logprobs: Any = 0 if prompt else True
    whole = ask(server, path, n=3, logprobs=logprobs, **prompt)
    events = chunks(server, path, n=3, logprobs=logprobs, stream_options={"include_usage": True}, **prompt)
    assert events[-1]["choices"] == []
    assert events[-1]["usage"] == whole["usage"]
    for choice in whole["choices"]:
        mine = [one for event in events[:-1] for one in event["choices"] if one["index"] == choice["index"]]
        assert mine[-1]["finish_reason"] == choice["finish_reason"]
        assert {one["finish_reason"] for one in mine[:-1]} <= {None}
        if prompt:
            assert "".join(one["text"] for one in mine) == choice["text"]
        else:
            message = choice["message"]
            assert "".join(one["delta"].get("content", "") for one in mine) == message["content"]
            thought = "".join(one["delta"].get("reasoning_content", "") for one in mine)
            assert thought == message.get("reasoning_content", "")
            told = [one for m in mine if m["logprobs"] for one in m["logprobs"]["content"]]
            assert told == choice["logprobs"]["content"]
            assert all(one["confidence"] > 0 for one in told)


def test_a_stop_string_ends_the_text_before_it_and_is_told_by_no_stream(server: Running) -> None:
    text = ask(server)["choices"][0]["message"]["content"]
    stop = text[2:4]
    assert stop
    found = ask(server, stop=stop)["choices"][0]
    assert (found["message"]["content"], found["finish_reason"]) == (text[: text.index(stop)].lstrip(), "stop")
    told = "".join(one["choices"][0]["delta"].get("content", "") for one in chunks(server, stop=[stop]))
    assert told == found["message"]["content"]


def test_greedy_needs_no_seed_and_a_missing_seed_is_told(server: Running) -> None:
    greedy = {"temperature": 0, "seed": None}
    assert ask(server, **greedy)["choices"] == ask(server, **greedy)["choices"]
    drawn = ask(server, seed=None)
    again = ask(server, seed=drawn["seed"])
    assert again["choices"] == drawn["choices"]
    assert ask(server, seed=None)["seed"] != drawn["seed"]


def test_several_prompts_of_text_and_of_tokens_are_answered_in_order(server: Running) -> None:
    both = ask(server, "/v1/completions", prompt=["so it is", "four"], n=2)
    assert [choice["index"] for choice in both["choices"]] == [0, 1, 2, 3]
    alone = ask(server, "/v1/completions", prompt="four", n=2)
    assert [one["text"] for one in both["choices"][2:]] == [one["text"] for one in alone["choices"]]
    ids = server.service.served._model.tokenizer.encode("four", add_special_tokens=False)  # type: ignore[attr-defined]
    assert ask(server, "/v1/completions", prompt=ids, n=2)["choices"] == alone["choices"]


def test_models_and_health_and_metrics(server: Running) -> None:
    names = [one["id"] for one in server.client.get("/v1/models").json()["data"]]
    assert names[0] == NAME
    assert f"{NAME}@deepconf-64" in names
    assert server.client.get(f"/v1/models/{NAME}").json()["id"] == NAME
    assert server.client.get("/v1/models/other").status_code == 404
    assert server.client.get("/health", headers={"Authorization": ""}).json()["status"] == "ok"
    before = server.client.get("/metrics").text
    assert server.client.get("/metrics", headers={"Authorization": "Bearer no"}).status_code == 401
    ask(server)
    line = 'h1r_requests_total{method="plain",route="/v1/chat/completions",status="200"}'

    def count(page: str) -> float:
        return next((float(one.split()[-1]) for one in page.splitlines() if one.startswith(line)), 0.0)

    assert count(server.client.get("/metrics").text) == count(before) + 1
    assert KEY not in before


def test_thinking_is_told_apart_whole_and_in_pieces() -> None:
    text = "<think>\nLet me see.\n\nYes.\n</think>\n\n\\boxed{4} is <it> "
    assert parts_of(text) == ("Let me see.\n\nYes.", "\\boxed{4} is <it> ")
    for size in (1, 2, 3, 7, len(text)):
        splitter = Splitter()
        told = {"reasoning_content": "", "content": ""}
        for start in range(0, len(text), size):
            for name, piece in splitter.push(text[start : start + size]):
                told[name] += piece
        for name, piece in splitter.rest(*parts_of(text)):
            told[name] += piece
        assert told == {"reasoning_content": "Let me see.\n\nYes.", "content": "\\boxed{4} is <it> "}


def test_a_tool_call_is_told_as_one_and_its_text_is_not() -> None:
    from h1r.serve.messages import tool_calls_in

    text = 'I ask.\n<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
    before, (call,) = tool_calls_in(text)
    assert (before, call["function"]) == ("I ask.", {"name": "add", "arguments": '{"a": 1}'})
    assert tool_calls_in("<tool_call>{broken}</tool_call>") == ("<tool_call>{broken}</tool_call>", [])
    splitter = Splitter(tools=True)
    assert "".join(piece for one in text for _, piece in splitter.push(one)) == "I ask."


def test_the_next_turn_of_a_chat_goes_on_from_the_last_prompt_with_the_same_answer(
    server: Running, model: Model
) -> None:
    """Bit for bit what a server says that has not seen the turns before."""
    engine = model.owner.engine
    assert isinstance(engine, NativeEngine)
    turns: list[dict[str, str]] = []
    for question in ("What is 2 + 2?", "And four more?", "And then?"):
        turns.append({"role": "user", "content": question})
        body = {"model": NAME, "messages": [*turns], "seed": 3, "max_tokens": 12, "logprobs": True}
        reused = model.owner.call(lambda: engine.kept.reused_tokens)
        (choice,) = server.client.post("/v1/chat/completions", json=body).json()["choices"]
        if len(turns) > 1:
            assert model.owner.call(lambda: engine.kept.reused_tokens) > reused
        turns.append({"role": "assistant", "content": choice["message"]["content"]})
        model.owner.call(engine.kept.clear)
        assert server.client.post("/v1/chat/completions", json=body).json()["choices"] == [choice]
