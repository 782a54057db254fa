"""Requests that nobody should send: each is answered by its 4xx in OpenAI's form, and nothing else happens."""

from __future__ import annotations

import codecs
import dataclasses
import io
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from served_model import KEY, LIMITS, Running, eventually, running
from test_serve_chat import ask

from h1r.serve.errors import ApiError
from h1r.serve.limits import Admission
from h1r.serve.local import Local
from h1r.serve.logs import RequestLog
from h1r.serve.model import Model
from h1r.serve.wanted import NotWritableError, json_object

REQUESTS = [json.loads(line) for line in (Path(__file__).parent / "hostile_requests.jsonl").read_text().splitlines()]
ASKED = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
BY_HTTP = {
    "a length that is no number", "a negative length", "two lengths", "headers without end", "a line that is no HTTP",
    "a length and chunks", "a chunk whose length is none", "a null in a header", "no host",
}  # fmt: skip
"""What the HTTP layer refuses before anything of ours: with a 400 of its own, or by hanging up."""


@pytest.fixture(scope="module")
def logged(model: Model) -> Iterator[tuple[Running, io.StringIO]]:
    lines = io.StringIO()
    with running(Local(model, LIMITS), LIMITS, RequestLog(stream=lines)) as server:
        yield server, lines


def request_bytes(one: dict[str, Any], port: int) -> bytes:
    """The request as it goes over the wire. `@` stands for a part that is repeated."""

    def filled(text: str) -> str:
        return text.replace("@", one["repeat"][0] * one["repeat"][1]) if "repeat" in one else text

    if "raw" in one:
        body = codecs.escape_decode(filled(one["raw"]).encode())[0]
    else:
        body = filled(json.dumps({**ASKED, **one["change"]})).encode()
    assert isinstance(body, bytes)
    headers = {
        "Host": f"127.0.0.1:{port}", "Authorization": f"Bearer {KEY}", "Content-Type": "application/json",
        "Content-Length": str(len(body)), "Connection": "close", **one.get("headers", {}),
    }  # fmt: skip
    lines = [f"{name}: {filled(value)}" for name, value in headers.items() if value is not None]
    if "line" in one:
        lines = [line for line in lines if not line.startswith("Content-Length")] + one["line"]
    path = filled(one.get("path", "/v1/chat/completions"))
    head = "\r\n".join([f"{one.get('method', 'POST')} {path} HTTP/1.1", *lines, "", ""])
    return head.encode("latin-1", errors="replace") + body


def answer(data: bytes, port: int) -> tuple[int | None, bytes]:
    """Status and body of the reply; None where the server hung up without one."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        reply = b""
        try:
            connection.sendall(data)
            while chunk := connection.recv(65536):
                reply += chunk
        except ConnectionError:
            pass
    head, _, body = reply.partition(b"\r\n\r\n")
    return (int(head.split()[1]) if head else None), body


@pytest.mark.parametrize("one", REQUESTS, ids=lambda one: one["name"])
def test_it_is_a_clean_refusal(logged: tuple[Running, io.StringIO], one: dict[str, Any]) -> None:
    server, _ = logged
    port = int(server.url.rpartition(":")[2])
    status, body = answer(request_bytes(one, port), port)
    if one["name"] in BY_HTTP:
        assert status in (400, 431, None)
        return
    assert status == one["expect"], body
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert len(error["message"]) <= 500
    assert "Traceback" not in error["message"]
    assert KEY not in body.decode()


def test_afterwards_it_answers_as_before_and_has_logged_no_request_as_it_came(
    logged: tuple[Running, io.StringIO],
) -> None:
    server, lines = logged
    assert len(REQUESTS) >= 60
    assert ask(server)["choices"][0]["finish_reason"] in ("stop", "length")
    assert server.service.admission.requests == 0
    assert server.service.served.owners()[0].load == (0, 0)
    said = [json.loads(line) for line in lines.getvalue().splitlines()]
    assert said
    assert not {"request", "prompt", "messages"} & set().union(*said)
    assert "rm -rf" not in lines.getvalue()
    assert "passwd" not in lines.getvalue()
    assert KEY not in lines.getvalue()


def test_more_traces_than_all_requests_may_have_are_too_many_for_one() -> None:
    admission = Admission(LIMITS)
    with pytest.raises(ApiError) as refused:
        admission.enter(LIMITS.traces + 1)
    assert (refused.value.status, admission.requests) == (400, 0)
    admission.enter(LIMITS.traces)


def test_too_much_at_once_is_told_to_come_again(model: Model) -> None:
    few, held = dataclasses.replace(LIMITS, requests=1), threading.Event()
    with running(Local(model, few), few) as server:
        model.owner.post(lambda: held.wait(30) and None)  # the engine stands still
        try:
            with server.client.stream("POST", "/v1/chat/completions", json={**ASKED, "stream": True}):
                refused = server.client.post("/v1/chat/completions", json=ASKED)
        finally:
            held.set()
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert eventually(lambda: server.service.admission.requests == 0)
        assert ask(server)["choices"]


@pytest.mark.parametrize("depth", [101, 5_000, 200_000])
def test_a_body_that_nests_too_deep_is_told_so_however_deep_it_is(depth: int) -> None:
    with pytest.raises(NotWritableError, match="has lists and objects more than 100 deep"):
        json_object(b'{"model":' + b"[" * depth + b"]" * depth + b"}")
