"""In front of other servers: DeepConf over their streams, replicas that die, and plain requests passed on."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from scripted_server import Scripted, doubtful, scripted, tokens_of
from served_model import KEY, LIMITS, NAME, QUESTION, Running, eventually, running

from h1r.common.servers import COOLDOWN_S, Servers
from h1r.errors import UserError
from h1r.serve.limits import Limits
from h1r.serve.urls import open_urls

SETTINGS = {
    "scaling.window": 4,
    "scaling.warmup": 6,
    "scaling.budgets": [24],
    "scaling.keep_top": 0.5,
    "scaling.voter": "majority",
}
PLAIN = ("/v1/chat/completions", "plain", 200)
BODY = {"model": "scripted", "messages": [{"role": "user", "content": "What is 6 * 7?"}], "max_tokens": 64, "seed": 3}


@contextlib.contextmanager
def before(*servers: Scripted, **overrides: Any) -> Iterator[Running]:
    with (
        open_urls([one.url for one in servers], {**SETTINGS, **overrides}, Limits()) as served,
        running(served) as found,
    ):
        yield found


@pytest.fixture(scope="module")
def one_in_front() -> Iterator[Running]:
    with scripted() as one, before(one) as server:
        yield server


def ask(server: Running, **changes: Any) -> dict[str, Any]:
    response = server.client.post("/v1/chat/completions", json={**BODY, **changes})
    assert response.status_code == 200, response.text
    return dict(response.json())


def deepconf(server: Running, **options: Any) -> dict[str, Any]:
    return ask(server, deepconf={"budget": 24, "return_traces": True, **options})


def test_a_doubtful_trace_ends_by_closing_its_stream() -> None:
    with scripted(pause_s=0.003) as one, before(one) as server:
        found = deepconf(server)
        said, traces = found["usage"]["deepconf"], found["deepconf"]["traces"]
        assert (said["stopping"], said["answer"], said["method"]) == ("stream", "42", "deepconf")
        for trace in traces:
            pieces = tokens_of(trace["seed"] % (1 << 31))
            if trace["state"] == "stopped":
                assert doubtful(trace["seed"] % (1 << 31))
                assert trace["tokens"] == 4  # a window is full, and it is below the threshold
            else:
                assert trace["tokens"] == len(pieces)
                assert trace["text"] == "".join(piece for piece, _ in pieces)
        stopped = [trace for trace in traces if trace["state"] == "stopped"]
        assert stopped
        assert found["usage"]["completion_tokens"] == sum(trace["tokens"] for trace in traces)
        assert eventually(lambda: one.open_streams == 0)
        assert found["choices"][0]["message"]["content"] == "\\boxed{42}"
        assert found["choices"][0]["message"]["reasoning_content"].startswith("step0 step1")


def test_a_server_with_our_plugin_is_told_when_a_trace_is_doubtful() -> None:
    with scripted(knows_thresholds=True) as one, before(one) as server:
        said = deepconf(server)["usage"]["deepconf"]
        assert (said["stopping"], said["answer"]) == ("engine", "42")
        told = [body.get("vllm_xargs") for body in one.requests if body.get("stream")]
        asked = {"deepconf_threshold": pytest.approx(said["threshold"], abs=1e-3), "deepconf_window": 4}
        assert [one for one in told if one] == [{**asked, "deepconf_top_k": 5}] * (24 - 6)


@pytest.mark.parametrize("other", ["forbids", "knows_thresholds"])
def test_a_server_that_forbids_and_repeats_what_it_does_not_know_is_told_nothing(other: str) -> None:
    """Alone, and beside one that has our plugin."""
    with scripted(forbids=True) as one, scripted(**{other: True}) as two, before(one, two) as server:
        said = deepconf(server)["usage"]["deepconf"]
        assert (said["stopping"], said["answer"]) == ("stream", "42")
        refused = server.client.post(
            "/v1/chat/completions",
            json={**BODY, "model": "scripted@deepconf-8", "vllm_xargs": {"deepconf_threshold": 1.0}},
        )
        assert refused.status_code == 400
        assert "DeepConf finds its own threshold" in refused.text


def test_without_log_probabilities_the_votes_agree_and_the_reply_says_so() -> None:
    with scripted(ranks=0) as one, before(one) as server:
        said = deepconf(server, tau=0.6)["usage"]["deepconf"]
        assert (said["stopping"], said["method"], said["voter"]) == ("consensus", "majority", "majority")
        assert (said["answer"], said["stopped"], said["threshold"]) == ("42", 0, None)
        assert said["stop_reason"] in ("consensus", "warmup consensus")
        assert said["traces"] < 24 or said["states"]["cancelled"] > 0
        said = ask(server, model="scripted@adaptive_consistency-24")["usage"]["deepconf"]
        assert (said["method"], said["answer"], said["stop_reason"]) == ("adaptive_consistency", "42", "consensus")
        for method, lacks in (("cges", "logprobs"), ("no_loops", "token_ids")):
            refused = server.client.post("/v1/chat/completions", json={**BODY, "model": f"scripted@{method}-8"})
            assert refused.status_code == 400
            assert f"method {method} needs {lacks}, which the servers here do not tell" in refused.text


@pytest.mark.parametrize("ranks", [5, 0])
def test_thinking_is_counted_by_tokens_where_they_are_told_and_else_by_characters(ranks: int) -> None:
    with scripted(ranks=ranks, pause_s=0.001) as one, before(one) as server:
        found = deepconf(server, budget=12)
        response = {"model": "scripted", "input": BODY["messages"], "seed": 3, "max_output_tokens": 64}
        other = server.client.post("/v1/responses", json={**response, "deepconf": {"budget": 12}}).json()["usage"]
    expected = 0
    for trace in found["deepconf"]["traces"]:
        text, count = trace["text"], trace["tokens"]
        by_characters = round(count * (text.find("</think>") + len("</think>")) / len(text))
        whole = "</think>" in text
        expected += by_characters if not ranks else count - 3 if whole else count  # `\\boxed{`, the answer, `}`
    usage = found["usage"]
    assert 0 < usage["completion_tokens_details"]["reasoning_tokens"] == expected < usage["completion_tokens"]
    assert other["output_tokens_details"] == usage["completion_tokens_details"]


@pytest.mark.parametrize("ends", ["dies_after", "stops_after"])
def test_replicas_share_the_traces_and_one_that_dies_changes_nothing_and_is_counted_nowhere(ends: str) -> None:
    with scripted() as one, before(one) as server:
        alone = deepconf(server)
    with scripted() as one, scripted() as two, before(one, two) as server:
        together = deepconf(server)
        assert min(len(one.requests), len(two.requests)) >= 8
    with scripted() as one, scripted(**{ends: 5}) as two, before(one, two) as server:
        broken = deepconf(server)
        assert two.requests
        assert server.client.get("/health").json()["servers"][1]["failing"]
        assert eventually(lambda: not any(s.outstanding for s in server.service.served._engine.servers.all))  # type: ignore[attr-defined]
    for found in (together, broken):
        assert [_key(trace) for trace in found["deepconf"]["traces"]] == [_key(t) for t in alone["deepconf"]["traces"]]
        assert found["usage"]["completion_tokens"] == alone["usage"]["completion_tokens"]
        assert found["usage"]["deepconf"]["votes"] == alone["usage"]["deepconf"]["votes"]


def _key(trace: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(trace[name] for name in ("id", "state", "tokens", "confidence", "text", "seed"))


def test_an_address_that_is_given_twice_is_one_server() -> None:
    assert [one.url for one in Servers(["http://a/v1", "http://b/v1/", "http://a/v1/"]).all] == [
        "http://a/v1", "http://b/v1"
    ]  # fmt: skip


def test_who_has_no_key_learns_of_no_server_and_nobody_of_a_password() -> None:
    with scripted() as one:
        one.url = one.url.replace("127.0.0.1", "name:word@127.0.0.1")
        with before(one) as server:
            known, told = server.client.get("/health"), httpx2.get(f"{server.url}/health")
            assert "word" not in known.text
            assert known.json()["servers"] == [{"url": one.url.replace("name:word@", ""), "failing": False}]
            assert told.json() == {"status": "ok", "model": "scripted"}


def test_a_server_that_failed_is_passed_over_and_comes_back() -> None:
    with scripted() as one, scripted(dies_after=1) as two, before(one, two) as server:
        asked_first = len(two.requests)  # what it can do
        for _ in range(2):
            chunks(server)
        failed = len(two.requests)
        assert failed == asked_first + 1
        for _ in range(2):
            chunks(server)
        assert len(two.requests) == failed
        servers = server.service.served._engine.servers.all  # type: ignore[attr-defined]
        servers[1].rests_until -= COOLDOWN_S
        health = server.client.get("/health").json()
        assert [one["failing"] for one in health["servers"]] == [False, True]  # until a request says otherwise
        assert health["status"] == "ok"
        two.dies_after = None
        chunks(server)
        chunks(server)
        assert len(two.requests) > failed


def test_where_all_servers_failed_just_now_a_request_finds_the_one_that_lives() -> None:
    """Under load the dead one, which has nothing outstanding, would be asked again and again."""
    with scripted() as one, scripted() as two, before(one, two) as server:
        servers = server.service.served._engine.servers.all  # type: ignore[attr-defined]
        one.dies_after, servers[1].outstanding = 0, 1 << 30
        for asking in (lambda: chunks(server), lambda: deepconf(server)):
            for each in servers:
                each.rests_until = time.monotonic() + 60
            asking()
        assert servers[1].outstanding == 1 << 30


def test_what_servers_of_ours_tell_of_their_model_is_what_a_request_leaves_open(
    capsys: pytest.CaptureFixture[str],
) -> None:
    own = {"temperature": 0.9, "window": 3, "options": {"certain": 0.9, "file": "/a"}, "of_a_later_version": 1}
    listed = {"owned_by": "open-h1r", "max_model_len": 70_000, "scaling": {**own, "max_tokens": 30_000}}
    other = {**listed, "scaling": {**listed["scaling"], "window": 5, "temperature": 0.8}}
    asked = {**BODY, "max_tokens": None, "deepconf": {"budget": 6}}
    with (
        scripted(listed=listed) as one,
        scripted(listed=other) as two,
        open_urls([one.url, two.url], {"scaling.window": 4}, Limits()) as served,
        running(served) as server,
    ):
        told = server.client.get("/v1/models").json()["data"][0]
        assert (told["max_model_len"], told["numbers"]["max_tokens"]["maximum"]) == (70_000, 70_000)
        scaling = told["scaling"]
        assert (scaling["temperature"], scaling["window"], scaling["options"]) == (0.9, 4, {"certain": 0.9})
        ask(server, **asked)
        assert (one.requests[-1]["temperature"], one.requests[-1]["max_tokens"]) == (0.9, 30_000)
    assert f"{two.url} has another scaling.temperature than {one.url}" in capsys.readouterr().err
    with scripted(listed={**listed, "owned_by": "vllm", "max_model_len": 66_000}) as one, before(one) as server:
        ask(server, **asked)
        assert one.requests[-1]["temperature"] == 0.6
        assert "max_tokens" not in one.requests[-1]  # the recipe's 65536 may not be there behind the prompt
        ask(server, **{**asked, "max_tokens": 65_536})
        assert one.requests[-1]["max_tokens"] == 65_536
    strange = {**listed, "scaling": {**own, "method": "of_nobody_here"}}
    with scripted(listed=strange) as one:
        with pytest.raises(UserError, match=f"the method `of_nobody_here` that {one.url} tells is not"):
            open_urls([one.url], {}, Limits()).__enter__()
        with open_urls([one.url], {"scaling.method": "esc"}, Limits()) as served:
            assert served.models()[0]["scaling"] == told["scaling"] | {
                "method": "esc", "options": {}, "window": 3, "max_tokens": 65_536,
            }  # fmt: skip


def test_servers_that_have_too_much_to_do_are_no_failure_of_theirs() -> None:
    with scripted() as one, before(one) as server:
        one.busy = True
        response = server.client.post("/v1/chat/completions", json=BODY)
        assert (response.status_code, response.headers["retry-after"]) == (429, "7")
        assert response.json()["error"]["type"] == "rate_limit_error"


def chunks(server: Running, **changes: Any) -> list[dict[str, Any]]:
    body = {**BODY, "stream": True, "stream_options": {"include_usage": True}, **changes}
    with server.client.stream("POST", "/v1/chat/completions", json=body) as response:
        lines = [line.removeprefix("data: ") for line in response.iter_lines() if line.startswith("data: ")]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


def test_a_plain_request_is_passed_on_with_what_only_that_server_knows() -> None:
    with scripted() as one, before(one) as server:
        asked = {"tools": [{"type": "function", "function": {"name": "f"}}], "response_format": {"type": "json_object"}}
        found = ask(server, **asked, logit_bias={"1": 2})
        assert found["choices"][0]["message"]["content"] == "".join(piece for piece, _ in tokens_of(3))
        assert one.requests[-1]["tools"] == asked["tools"]
        assert one.requests[-1]["logit_bias"] == {"1": 2}
        response = {"model": "scripted", "input": "a", "seed": 3, "tools": [{"type": "web_search"}]}
        assert server.client.post("/v1/responses", json=response).status_code == 200
        assert one.requests[-1]["tools"] == response["tools"]
        form = {**BODY, "deepconf": {"budget": 12}, "response_format": {"type": "json_object"}}
        refused = server.client.post("/v1/chat/completions", json=form)  # the traces would not have it
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "response_format")
        assert server.client.post("/v1/chat/completions", json={**BODY, "model": "other"}).status_code == 404


def test_an_effort_asks_for_as_many_traces_as_of_a_checkpoint_and_goes_along_where_traces_would_not_do() -> None:
    many = {"tools": [{"type": "function", "function": {"name": "f"}}]}, {"n": 2}, {"response_format": {"type": "json"}}
    picture = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]
    with scripted() as one, before(one) as server:
        said = ask(server, reasoning_effort="low")["usage"]["deepconf"]
        assert (said["method"], said["budget"], said["answer"]) == ("deepconf", 16, "42")
        assert not any("reasoning_effort" in body for body in one.requests)
        response = {"model": "scripted", "input": "What is 6 * 7?", "seed": 3, "reasoning": {"effort": "low"}}
        reply = server.client.post("/v1/responses", json=response).json()
        assert reply["usage"]["deepconf"]["budget"] == 16
        for changes in ({"reasoning_effort": "none"}, *many, {"messages": picture}):
            reply = ask(server, **{"reasoning_effort": "medium", **changes})
            assert "deepconf" not in reply["usage"]
            assert one.requests[-1]["reasoning_effort"] == changes.get("reasoning_effort", "medium")
        refused = server.client.post("/v1/chat/completions", json={**BODY, "reasoning_effort": "infinite"})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "reasoning_effort")


@pytest.mark.parametrize(
    ("path", "changes", "param", "mend"),
    [
        ("completions", {"prompt": "6 * 7 ="}, "prompt", "ask /v1/chat/completions"),
        ("chat/completions", {"n": 2}, "n", "leave n at 1"),
        ("chat/completions", {"tools": [{"type": "function"}]}, "tools", "leave tools out"),
    ],
)
@pytest.mark.parametrize("road", [{"deepconf": {"budget": 8}}, {"model": "scripted@deepconf-8"}], ids=["body", "name"])
def test_what_deepconf_over_servers_cannot_do_is_refused_with_what_to_do(
    one_in_front: Running, road: dict[str, Any], path: str, changes: dict[str, Any], param: str, mend: str
) -> None:
    refused = one_in_front.client.post(f"/v1/{path}", json={**BODY, **road, **changes})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)
    assert mend in refused.json()["error"]["message"]


@pytest.mark.parametrize("ends", [{"dies_after": 0}, {"dies_after": 3}, {"stops_after": 3}])
def test_a_stream_goes_on_elsewhere_where_the_first_server_stopped(ends: dict[str, int]) -> None:
    with scripted(**ends) as one, scripted() as two, before(two, one) as server:
        whole = "".join(piece for piece, _ in tokens_of(3))
        for _ in range(2):  # the turn of the one that dies comes with one of them
            events = chunks(server)
            text = "".join(c["delta"].get("content") or "" for event in events for c in event["choices"])
            assert text == whole
            assert [event["usage"]["completion_tokens"] for event in events if event.get("usage")] == [
                len(tokens_of(3))
            ]
        assert any(body.get("seed") == 3 for body in one.requests)


@pytest.mark.parametrize("stream", [False, True])
def test_what_a_server_behind_refuses_at_once_has_its_status_and_its_code(
    server: Running, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    monkeypatch.setenv("KEY_OF_THE_SERVERS", KEY)
    settings = {"engine.key_variable": "KEY_OF_THE_SERVERS"}
    with open_urls([f"{server.url}/v1"], settings, Limits()) as served, running(served) as front:
        for asked in ({"max_tokens": 1_000_000}, {"max_tokens": 1_000_000, "deepconf": {"budget": 8}}):
            body = {"model": NAME, "messages": [{"role": "user", "content": QUESTION}], "stream": stream, **asked}
            key = {"Authorization": f"Bearer {KEY}"}
            here, there = (one.client.post("/v1/chat/completions", json=body, headers=key) for one in (server, front))
            assert here.status_code == there.status_code == 400, there.text
            assert there.json()["error"]["code"] == here.json()["error"]["code"] == "context_length_exceeded"
            assert "asked" not in there.json()["error"]["message"]


def test_the_only_server_that_stops_leaves_traces_that_do_not_vote() -> None:
    with scripted(stops_after=14) as one, before(one) as server:
        said = deepconf(server)["usage"]["deepconf"]
    assert said["stop_reason"] == "cancelled"
    assert said["states"]["cancelled"] == said["traces"] > 0
    assert said["votes"] == []


def test_servers_that_are_gone_do_not_hold_up_thousands_of_traces() -> None:
    with scripted() as one, before(one) as server:
        one.dies_after = 0
        begun = time.monotonic()
        asked = {**BODY, "deepconf": {"budget": 512, "method": "majority"}}
        reply = server.client.post("/v1/chat/completions", json=asked)
        assert reply.status_code == 502
        assert time.monotonic() - begun < 30
        assert len(one.requests) < 3 * 512


def test_a_character_that_ends_a_line_for_some_is_text_as_any_other() -> None:
    """JSON may hold it as it is, and the scripted server's does."""
    with scripted(says=("one\u2028", "two", " three\x85")) as one, before(one) as server:
        events = chunks(server)
        assert (
            "".join(c["delta"].get("content") or "" for e in events for c in e["choices"]) == "one\u2028two three\x85"
        )


@pytest.mark.parametrize(
    "garbled",
    [
        [], {"choices": [5]}, {"choices": [{"index": [0], "delta": {"content": "x"}}]},
        {"choices": [], "usage": 5, "x": float("nan")},
        {"choices": [{"index": 0, "delta": {"content": "\ud800"}, "logprobs": 5}]},
        b'{"choices": ' + b"[" * 200_000,
    ],
    ids=["a list", "a number", "an index", "nan", "half a character", "too deep"],
)  # fmt: skip
def test_a_server_that_writes_what_is_no_completion_is_passed_over(garbled: Any) -> None:
    with scripted(garbles=garbled) as one, scripted() as two, before(one, two) as server:
        whole = "".join(piece for piece, _ in tokens_of(3))
        for _ in range(2):  # the turn of each comes
            server.service.served._engine.servers.all[0].rests_until = 0.0  # type: ignore[attr-defined]
            events = chunks(server)
            assert "".join(c["delta"].get("content") or "" for event in events for c in event["choices"]) == whole
        server.service.served._engine.servers.all[0].rests_until = 0.0  # type: ignore[attr-defined]
        found = deepconf(server)
        assert found["usage"]["deepconf"]["answer"] == "42"
        assert "error" not in {trace["state"] for trace in found["deepconf"]["traces"]}


def test_a_trace_with_a_number_that_fits_nowhere_goes_on_elsewhere() -> None:
    token = {"token": "x", "logprob": -(10**400), "top_logprobs": []}
    garbled = {"choices": [{"index": 0, "delta": {"content": "x"}, "logprobs": {"content": [token]}}]}
    with scripted(garbles=garbled) as one, scripted() as two, before(two, one) as server:
        found = deepconf(server)
        assert found["usage"]["deepconf"]["answer"] == "42"
        assert "error" not in {trace["state"] for trace in found["deepconf"]["traces"]}


def test_a_client_that_hangs_up_closes_the_streams_behind() -> None:
    with scripted(pause_s=0.05) as one, before(one) as server:
        for changes in ({}, {"deepconf": {"budget": 24}}):
            body = {**BODY, "stream": True, **changes}
            with server.client.stream("POST", "/v1/chat/completions", json=body) as response:
                next(response.iter_lines())
                assert eventually(lambda: one.open_streams > 0)
            assert eventually(lambda: one.open_streams == 0, 10)
        assert server.service.admission.requests == 0
        assert one.broken >= 2


def test_a_server_whose_every_replica_is_gone_is_a_clear_error() -> None:
    with scripted() as one, before(one) as server:
        one.dies_after = 0
        response = server.client.post("/v1/chat/completions", json={**BODY, "deepconf": {"budget": 12}})
        assert response.status_code == 502
        assert response.json()["error"]["code"] == "engine_failed"
        events = server.client.post("/v1/chat/completions", json={**BODY, "stream": True}).text
        assert '"error"' in events
        assert "[DONE]" not in events


def test_over_two_servers_of_ours_each_trace_is_that_of_one_with_no_setting_of_the_front(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the token at which it is stopped, whose place a front knows from the confidences that ours tell."""
    asked = {
        "model": NAME, "messages": [{"role": "user", "content": QUESTION}], "seed": 1 << 40,
        "deepconf": {"verifier": "first-character", "return_traces": "tokens", "budget": 24},
    }  # fmt: skip
    monkeypatch.setenv("KEY_OF_THE_SERVERS", KEY)
    with running(server.service.served, LIMITS) as second:
        key = {"Authorization": f"Bearer {KEY}"}
        with (
            open_urls(
                [f"{one.url}/v1" for one in (server, second)], {"engine.key_variable": "KEY_OF_THE_SERVERS"}, Limits()
            ) as served,
            running(served) as front,
        ):
            listed = [one.client.get("/v1/models", headers=key).json()["data"] for one in (server, front)]
            assert listed[0][0]["scaling"] == listed[1][0]["scaling"]
            assert [one["id"] for one in listed[0]] == [one["id"] for one in listed[1]]
            answers, owner = {}, server.service.served.owners()[0]
            for name, one in (("alone", server), ("together", front)):
                before_it = owner.tokens
                reply = one.client.post("/v1/chat/completions", json=asked, headers=key)
                assert reply.status_code == 200, reply.text
                answers[name] = reply.json()
                # What the engine drew is what is counted: it ends a doubtful trace itself, where the front closes it.
                spent = answers[name]["usage"]["completion_tokens"]
                assert eventually(lambda began=before_it, spent=spent: owner.tokens - began == spent)
            assert min(one.service.metrics.requests.labels(*PLAIN)._value.get() for one in (server, second)) >= 8
    alone, together = answers["alone"], answers["together"]
    assert together["usage"]["completion_tokens_details"] == alone["usage"]["completion_tokens_details"]
    assert together["usage"]["deepconf"]["stopping"] == "engine"
    assert together["usage"]["deepconf"]["stopped"] > 0
    told = ("state", "tokens", "confidence", "finish_reason", "answer", "weight", "seed", "confidences", "text")
    for name in told:
        assert [one[name] for one in together["deepconf"]["traces"]] == [
            one[name] for one in alone["deepconf"]["traces"]
        ]
    same = ("threshold", "votes", "answer", "states", "tokens_by_state", "selected_trace", "stop_reason")
    for name in same:
        assert together["usage"]["deepconf"][name] == alone["usage"]["deepconf"][name]
    assert together["choices"][0]["message"] == alone["choices"][0]["message"]
