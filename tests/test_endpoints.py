"""Chat servers: turns, limits, retries, and which failures are whose."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest

from chat_server import PATIENCE_S, breaks, chat_server, drips, fails, says
from h1r.common.http import EndpointError, Endpoints, RefusedError, Reply, Usage
from h1r.errors import UserError

HELLO = [{"role": "user", "content": "hello"}]


def ask(urls: list[str], times: int = 1, **options: Any) -> list[Reply]:
    """That many requests at once."""

    async def run() -> list[Reply]:
        endpoints = Endpoints(urls, "model", **{"backoff_s": 0.01, "timeout_s": PATIENCE_S, **options})
        try:
            return await asyncio.gather(*(endpoints.chat(HELLO, temperature=0.0) for _ in range(times)))
        finally:
            await endpoints.close()

    return asyncio.run(run())


def test_a_request_has_the_model_the_messages_the_parameters_and_the_key() -> None:
    with chat_server(says("hi")) as server:
        (reply,) = ask([server.url], api_key="secret")
    assert (reply.text, reply.finish_reason) == ("hi", "stop")
    assert server.requests == [{"model": "model", "messages": HELLO, "temperature": 0.0}]
    assert server.headers[0]["authorization"] == "Bearer secret"


@pytest.mark.parametrize(
    "fault",
    [
        fails(500),
        fails(429, headers={"Retry-After": "0"}),
        fails(503, b"\xff\xfe not text"),
        fails(200, b"no JSON"),
        fails(200, b"[" * 100_000),
        fails(200, b'{"choices": []}'),
        fails(200, b'{"choices": [{"message": {"content": null}}]}'),
        breaks,
        drips,
    ],
    ids=["500", "429", "503", "garbage", "nested", "no choice", "no text", "broken off", "dripping"],
)
def test_what_may_pass_is_tried_again(fault: Any) -> None:
    with chat_server(says("at last"), fault) as server:
        (reply,) = ask([server.url], timeout_s=0.5)
    assert reply.text == "at last"
    assert len(server.requests) == 2


def test_attempts_end() -> None:
    with chat_server(fails(500, b"out of memory")) as server, pytest.raises(EndpointError, match=r"3 attempts.*memory"):
        ask([server.url], attempts=3)
    assert len(server.requests) == 3


def test_a_server_that_is_not_there_is_no_traceback() -> None:
    with pytest.raises(EndpointError, match="no reply after 2 attempts"):
        ask(["http://127.0.0.1:9/v1"], attempts=2)


@pytest.mark.parametrize(
    ("status", "why"), [(401, "key is refused"), (402, "out of credit"), (404, "no such path or model")]
)
def test_what_a_person_has_to_mend_is_said_at_once(status: int, why: str) -> None:
    with chat_server(fails(status)) as server, pytest.raises(UserError, match=why):
        ask([server.url])
    assert len(server.requests) == 1


def test_a_key_that_the_server_repeats_is_in_no_message() -> None:
    with chat_server(fails(401, b"bad key secret-123")) as server, pytest.raises(UserError, match=r"bad key \[key\]"):
        ask([server.url], api_key="secret-123")


def test_rate_limits_count_as_no_attempt_while_there_is_patience() -> None:
    limits = [fails(429, headers={"Retry-After": "0"})] * 6
    with chat_server(says("x"), *limits) as server:
        assert ask([server.url], attempts=2, patience_s=60.0)[0].text == "x"
    with chat_server(says("x"), *limits) as server, pytest.raises(EndpointError, match=r"2 attempts.*429"):
        ask([server.url], attempts=2)


@pytest.mark.parametrize(
    ("answers", "asked", "listed"),
    [
        ([fails(500), fails(429, headers={"Retry-After": "0"})], 3, ["a"]),
        ([fails(503)] * 3, 3, []),
        ([fails(404)], 1, []),
        ([fails(200, b"no JSON")], 1, []),
        ([fails(401)], 1, "the API key is refused"),
    ],
)
def test_models_are_asked_for_by_the_rules_of_requests(answers: list[Any], asked: int, listed: Any) -> None:
    async def run(*urls: str) -> list[str]:
        endpoints = Endpoints(urls, "model", backoff_s=0.01)
        try:
            return [one["id"] for one in await endpoints.models()]
        finally:
            await endpoints.close()

    with chat_server(fails(200, b'{"data": [{"id": "a"}, 5]}'), *answers) as server:
        server.lists = True
        if isinstance(listed, str):
            with pytest.raises(UserError, match=listed):
                asyncio.run(run(server.url))
        else:
            assert asyncio.run(run(server.url)) == listed
        assert len(server.requests) == asked
        assert asyncio.run(run("http://127.0.0.1:9/v1", server.url)) == ["a"]  # of one that is not there, another's


def test_while_a_server_asks_to_wait_no_other_request_goes_to_it() -> None:
    with chat_server(says("x"), fails(429, headers={"Retry-After": "0.4"})) as server:

        async def run() -> tuple[float, int]:
            endpoints = Endpoints([server.url], "model", backoff_s=0.01)
            first = asyncio.ensure_future(endpoints.chat(HELLO))
            while not endpoints._servers.all[0].closed_until:
                await asyncio.sleep(0.005)
            started = time.monotonic()
            await endpoints.chat(HELLO)
            waited = time.monotonic() - started
            await first
            await endpoints.close()
            return waited, len(server.requests)

        waited, requests = asyncio.run(run())
    assert waited > 0.3
    assert requests == 3


def test_the_tokens_of_a_request_are_read_as_servers_state_them() -> None:
    content = {
        "choices": [{"message": {"content": "four"}, "finish_reason": "stop"}],
        "usage": {
            "prompt_tokens": 11, "completion_tokens": 7, "completion_tokens_details": {"reasoning_tokens": 5},
            "prompt_tokens_details": {"cached_tokens": 4},
        },
    }  # fmt: skip
    with chat_server(fails(200, json.dumps(content).encode())) as server:
        (reply,) = ask([server.url])
    assert reply.usage == Usage(11, 7, 5, 4)
    content["usage"] = {"prompt_tokens": "many", "completion_tokens_details": None}
    with chat_server(fails(200, json.dumps(content).encode())) as server:
        (reply,) = ask([server.url])
    assert reply.usage == Usage()


def test_a_refused_prompt_is_not_tried_again() -> None:
    with chat_server(fails(400, b"too long")) as server, pytest.raises(EndpointError, match="status 400: too long"):
        ask([server.url])
    assert len(server.requests) == 1


def test_a_refusal_is_told_from_a_failure_that_may_pass() -> None:
    with chat_server(fails(422)) as server, pytest.raises(RefusedError):
        ask([server.url])
    with chat_server(fails(500)) as server, pytest.raises(EndpointError) as failure:
        ask([server.url], attempts=2)
    assert not isinstance(failure.value, RefusedError)


def test_all_choices_of_a_reply_with_what_was_thought_apart() -> None:
    choices = [
        {"message": {"content": "four", "reasoning_content": "two and two"}, "finish_reason": "stop"},
        {"message": {"content": None, "reasoning": "and so on"}, "finish_reason": "length"},
        {"message": {"content": "five"}},
    ]
    content = json.dumps({"choices": choices, "usage": {"completion_tokens": 99}}).encode()

    async def run(url: str) -> list[Reply]:
        endpoints = Endpoints([url], "model")
        try:
            return await endpoints.choices(HELLO, n=3)
        finally:
            await endpoints.close()

    with chat_server(fails(200, content)) as server:
        replies = asyncio.run(run(server.url))
    assert [(one.text, one.thinking, one.finish_reason) for one in replies] == [
        ("four", "two and two", "stop"), ("", "and so on", "length"), ("five", None, None),
    ]  # fmt: skip
    assert {one.tokens for one in replies} == {None}, "the sum over choices is no choice's"
    assert server.requests[0]["n"] == 3


def test_servers_take_turns() -> None:
    with chat_server(says("a")) as first, chat_server(says("b")) as second:
        replies = ask([first.url, second.url], times=10)
    assert sorted(reply.text for reply in replies) == ["a"] * 5 + ["b"] * 5


def test_a_failing_server_is_passed_over() -> None:
    with chat_server(fails(500)) as first, chat_server(says("b")) as second:

        async def run() -> None:
            endpoints = Endpoints([first.url, second.url], "model", backoff_s=0.01)
            for _ in range(6):
                assert (await endpoints.chat(HELLO)).text == "b"
            await endpoints.close()

        asyncio.run(run())
    assert len(first.requests) == 1


def test_concurrency_is_bounded_on_each_server() -> None:
    def slow(handler: Any, body: Any) -> None:
        time.sleep(0.1)
        says("x")(handler, body)

    with chat_server(slow) as server:
        ask([server.url], times=12, concurrency=3)
    assert 1 < server.most_at_once <= 3


def test_a_slow_server_does_not_hold_what_another_could_answer() -> None:
    def slow(handler: Any, body: Any) -> None:
        time.sleep(0.5)
        says("slow")(handler, body)

    with chat_server(slow) as first, chat_server(says("fast")) as second:

        async def run() -> list[str]:
            endpoints = Endpoints([first.url, second.url], "model", concurrency=1)
            waiting = asyncio.ensure_future(endpoints.chat(HELLO))
            await asyncio.sleep(0.1)
            meanwhile = [(await endpoints.chat(HELLO)).text for _ in range(4)]
            meanwhile.append((await waiting).text)
            await endpoints.close()
            return meanwhile

        assert asyncio.run(run()) == ["fast"] * 4 + ["slow"]


def test_the_wait_that_a_server_asks_for_is_kept_within_the_limit() -> None:
    fault = fails(429, headers={"Retry-After": "0.3"})
    with chat_server(says("x"), fault) as server:
        started = time.monotonic()
        ask([server.url])
        assert time.monotonic() - started >= 0.3
    with chat_server(says("x"), fails(429, headers={"Retry-After": "86400"})) as server:
        started = time.monotonic()
        ask([server.url], max_wait_s=0.1)
        assert time.monotonic() - started < PATIENCE_S


def test_settings_that_cannot_work_are_refused() -> None:
    with pytest.raises(UserError, match="at least one URL"):
        Endpoints([], "model")
    with pytest.raises(UserError, match="no URL"):
        Endpoints(["localhost:8000"], "model")
