"""The engine over an OpenAI-compatible API, against a server that answers, limits and fails to order."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from chat_server import Answer, ChatServer, breaks, chat_server, fails, says, send
from h1r.common import http
from h1r.common.http import Endpoints, _PassingError
from h1r.common.servers import Retries, Server
from h1r.config import EndpointSection, EngineSection
from h1r.engine.choose import open_engine
from h1r.engine.endpoint.engine import HOPELESS, EndpointEngine
from h1r.engine.protocol import ChatPrompt, SamplingParams
from h1r.engine.requests import is_unanswerable
from h1r.errors import UserError

ASKED = [ChatPrompt((), [{"role": "user", "content": f"question {n}"}]) for n in range(3)]


def replies(message: dict[str, Any], reason: str | None = "stop", usage: dict[str, Any] | None = None) -> Answer:
    choice = {"message": {"role": "assistant", **message}, "finish_reason": reason}
    return lambda handler, body: send(handler, 200, json.dumps({"choices": [choice], "usage": usage}).encode())


@contextmanager
def engine_of(*servers: ChatServer, own: dict[str, Any] | None = None, **keys: Any) -> Iterator[EndpointEngine]:
    own = {"model": "m", "attempts": 3, **(own or {})}
    section = EngineSection(
        kind="endpoint", urls=[server.url for server in servers], endpoint=EndpointSection(**own), **keys
    )
    with open_engine(section, None, pytest.fail) as engine:
        assert isinstance(engine, EndpointEngine)
        engine._endpoints.backoff_s = 0.01
        yield engine


def test_a_request_is_the_messages_and_the_sampling_and_a_reply_a_trace() -> None:
    usage = {"prompt_tokens": 9, "completion_tokens": 6, "completion_tokens_details": {"reasoning_tokens": 4}}
    said = replies({"content": "Four.", "reasoning_content": "two and two"}, usage=usage)
    params = SamplingParams(n=2, temperature=0.5, top_p=0.9, max_tokens=40, seed=7, stop=("END",))
    with chat_server(said) as server, engine_of(server, own={"parameters": {"reasoning_effort": "high"}}) as engine:
        traces = engine.generate(ASKED[:1], params)
    first = next(body for body in server.requests if body["seed"] == 7)
    assert first == {
        "model": "m", "messages": [{"role": "user", "content": "question 0"}], "temperature": 0.5, "top_p": 0.9,
        "max_tokens": 40, "seed": 7, "stop": ["END"], "reasoning_effort": "high",
    }  # fmt: skip
    assert [(trace.prompt_index, trace.sample_index, trace.seed) for trace in traces] == [(0, 0, 7), (0, 1, 8)]
    assert traces[0].text == "<think>\ntwo and two\n</think>\n\nFour."
    assert traces[0].usage == {"prompt_tokens": 9, "completion_tokens": 6, "reasoning_tokens": 4}
    assert (traces[0].num_tokens, traces[0].token_ids, traces[0].confidences) == (6, [], [])


def test_whose_answers_they_are_does_not_hang_on_a_port_or_on_the_order_of_servers() -> None:
    def of(*urls: str) -> str:
        return EngineSection(kind="endpoint", urls=list(urls)).answers_of

    assert of("http://127.0.0.1:8000/v1") == of("http://localhost:9000/v1/") == of("http://[::1]/v1") == "localhost/v1"
    assert of("http://b:1/v1", "https://A/v1", "http://b:2/v1") == "a/v1,b/v1"
    assert of("https://gate/x/v1") != of("https://gate/y/v1") != of("https://gate2/y/v1")


def test_where_the_weights_lie_is_asked_for_until_the_server_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = json.dumps({"data": [{"id": "m", "root": "/weights/a"}]}).encode()
    asked: list[str] = []

    async def fetch(self: Endpoints, server: Server, method: str, path: str) -> tuple[int, bytes, None]:
        asked.append(path)
        self.backoff_s = 0.0
        if len(asked) < 3:
            raise _PassingError("reset")
        return 200, listed, None

    monkeypatch.setattr(Endpoints, "_fetch", fetch)
    with engine_of(own={"same_as": "there/v1"}, url="http://127.0.0.1:1/v1") as engine:
        assert engine.answers_of == {"address": "there/v1", "root": "/weights/a"}


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("stop", "stop"), ("end_turn", "stop"), (None, "stop"), ("tool_calls", "stop"), ("content_filter", "stop"),
        ("length", "length"), ("max_tokens", "length"), ("MAX_TOKENS", "length"), ("abort", "error"),
    ],
)  # fmt: skip
def test_finish_reasons_of_servers_have_ours(said: str | None, reason: str) -> None:
    with chat_server(replies({"content": "x"}, said)) as server, engine_of(server) as engine:
        (trace,) = engine.generate(ASKED[:1], SamplingParams())
    assert trace.finish_reason == reason


def test_thinking_that_met_the_limit_is_no_answer() -> None:
    said = replies({"content": None, "reasoning": "so it is 4"}, "length")
    with chat_server(said) as server, engine_of(server) as engine:
        (trace,) = engine.generate(ASKED[:1], SamplingParams())
    assert (trace.text, trace.finish_reason) == ("<think>\nso it is 4", "length")


def test_resets_and_5xx_and_limits_are_asked_again_and_a_failure_is_that_traces_alone() -> None:
    faults = [breaks, fails(502), fails(429, headers={"Retry-After": "0"}), breaks, fails(400, b"no such thing")]
    with (
        chat_server(says("x"), *faults) as server,
        engine_of(server, own={"attempts": 4}, max_sequences=1) as engine,
    ):
        traces = engine.generate(ASKED, SamplingParams())
    assert [trace.finish_reason for trace in traces] == ["error", "stop", "stop"]
    assert "no such thing" in (traces[0].error or "")


def limited(context: int, prompt: int) -> Answer:
    """A vLLM server's limit."""

    def answer(handler: Any, body: dict[str, Any]) -> None:
        if (asked := body["max_tokens"]) > context - prompt:
            why = (
                f"'max_tokens' or 'max_completion_tokens' is too large: {asked}. This model's maximum context length "
                f"is {context} tokens and your request has {prompt} input tokens ({asked} > {context} - {prompt})."
            )
            fails(400, json.dumps({"error": {"message": why}}).encode())(handler, body)
        else:
            replies({"content": "x"}, usage={"prompt_tokens": prompt})(handler, body)

    return answer


def test_an_answer_has_as_many_tokens_as_the_server_has_left_and_it_is_said_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with chat_server(limited(100, 30)) as server, engine_of(server, max_sequences=1) as engine:
        traces = engine.generate(ASKED[:2], SamplingParams(n=2, max_tokens=500))
    assert [trace.finish_reason for trace in traces] == ["stop"] * 4
    assert [trace.room for trace in traces] == [70] * 4
    assert [body["max_tokens"] for body in server.requests] == [500, 70, 70, 99, 70, 70]
    assert capsys.readouterr().err.count("max_tokens = 500 is more than the server has") == 1
    with chat_server(limited(100, 120)) as server, engine_of(server) as engine:
        (trace,) = engine.generate(ASKED[:1], SamplingParams(max_tokens=50))
    assert is_unanswerable(trace.error)


@pytest.mark.parametrize(
    ("refusal", "then"),
    [
        ("max_tokens is too large: 500. This model supports at most 64 completion tokens", {"max_tokens": 64}),
        ("max_tokens: 500 > 64, which is the maximum allowed number of output tokens for m", {"max_tokens": 64}),
        (
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens'.",
            {"max_completion_tokens": 500},
        ),
    ],
)
def test_refusals_of_other_servers_are_understood(refusal: str, then: dict[str, int]) -> None:
    with chat_server(says("x"), fails(400, refusal.encode())) as server, engine_of(server) as engine:
        (trace,) = engine.generate(ASKED[:1], SamplingParams(max_tokens=500))
    assert trace.text == "x"
    assert {key: value for key, value in server.requests[1].items() if key.startswith("max_")} == then


def test_an_account_without_credit_stops_with_a_sentence_after_what_was_answered() -> None:
    kept: list[str] = []
    with (
        chat_server(fails(402, b"please pay"), *[says("x")] * 5) as server,
        engine_of(server, max_sequences=2) as engine,
        pytest.raises(UserError, match="out of credit: please pay"),
    ):
        kept.extend(trace.text for trace in engine.stream(ASKED, SamplingParams(n=10)))
    assert kept == ["x"] * 5
    assert len(server.requests) <= 5 + 2


def test_a_server_that_answers_nothing_is_given_up() -> None:
    with (
        chat_server(fails(400, b"seed is unknown")) as server,
        engine_of(server, max_sequences=4) as engine,
        pytest.raises(UserError, match=r"first 16 requests failed.*seed is unknown.*leave_out"),
    ):
        engine.generate(ASKED, SamplingParams(n=100))
    assert len(server.requests) <= HOPELESS + 4


def test_as_many_requests_as_allowed_are_on_their_way_and_servers_share_them() -> None:
    def slow(handler: Any, body: Any) -> None:
        time.sleep(0.05)
        says("x")(handler, body)

    with (
        chat_server(slow) as first,
        chat_server(slow) as second,
        engine_of(first, second, max_sequences=6) as engine,
    ):
        assert len(engine.generate(ASKED, SamplingParams(n=8))) == 24
    assert max(first.most_at_once, second.most_at_once) <= 3
    assert abs(len(first.requests) - len(second.requests)) <= 6


def test_what_needs_tokens_is_refused() -> None:
    section = EngineSection(kind="endpoint", url="http://127.0.0.1:9/v1", endpoint=EndpointSection(model="m"))
    with pytest.raises(UserError, match="RL, DeepConf"), open_engine(section, object(), pytest.fail):
        pass
    with chat_server(says("x")) as server, engine_of(server) as engine:
        with pytest.raises(UserError, match="RL, DeepConf"):
            engine.generate([[1, 2]], SamplingParams())
        with pytest.raises(UserError, match="RL, DeepConf"):
            engine.generate(ASKED, SamplingParams(confidence_threshold=1.0))


def test_the_key_is_in_the_header_and_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "secret-9")
    with (
        chat_server(fails(401, b"secret-9 is wrong")) as server,
        engine_of(server, key_variable="SOME_KEY") as engine,
        pytest.raises(UserError) as refused,
    ):
        engine.generate(ASKED, SamplingParams())
    assert server.headers[0]["authorization"] == "Bearer secret-9"
    assert "secret" not in str(refused.value)
    assert "secret" not in repr(engine._endpoints)


def test_a_prompt_joins_the_stream_in_progress_and_another_leaves_it() -> None:
    with chat_server(says("x")) as server, engine_of(server, max_sequences=1) as engine:
        found = []
        for trace in engine.stream(ASKED[:2], SamplingParams(n=2)):
            found.append((trace.prompt_index, trace.sample_index))
            if found == [(0, 0)]:
                assert engine.add(ASKED[2], SamplingParams()) == 2
                assert engine.cancel(1) == []
        assert found == [(0, 0), (0, 1), (2, 0)]
        with pytest.raises(RuntimeError, match="no stream"):
            engine.add(ASKED[2], SamplingParams())


def test_a_server_that_is_not_there_is_told_of_before_it_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(http, "Retries", lambda attempts, _, *rest: Retries(attempts, 0.0, *rest))
    section = EngineSection.model_validate(
        {"kind": "endpoint", "url": "http://127.0.0.1:9/v1", "endpoint": {"model": "x"}}
    )
    EndpointEngine(section).close()
    said = capsys.readouterr().err
    assert re.match(
        r"http://127\.0\.0\.1:9/v1 lists no models \(no reply .*\); asked all the same: check the addr", said
    )
