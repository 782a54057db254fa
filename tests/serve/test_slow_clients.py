"""Clients that take their time on purpose: each is cut off, and what it held is free again."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest
from served_model import KEY, NAME, QUESTION, Running, eventually
from test_serve_chat import ask

from h1r.serve import connections


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_S", 0.3)
    monkeypatch.setattr(connections, "UNREAD_S", 0.3)


def opened(server: Running) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])), timeout=60)


def post(**body: Any) -> bytes:
    data = json.dumps({"model": NAME, "messages": [{"role": "user", "content": QUESTION}], **body}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {KEY}\r\n"
    return f"{head}Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("begun", [b"", b"POST /v1/chat/comp", b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX-A: "])
def test_a_request_that_never_ends_its_headers_is_cut_off(server: Running, begun: bytes) -> None:
    with opened(server) as one:
        one.sendall(begun)
        assert one.recv(1000) == b""  # within the socket's own limit
    with opened(server) as one:  # and the second request of a connection, too
        one.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert one.recv(1000).startswith(b"HTTP/1.1 200")
        one.sendall(begun or b"G")
        while one.recv(1000):
            pass


@pytest.mark.usefixtures("impatient")
def test_a_request_that_takes_longer_than_its_headers_may_is_answered(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEAD_S", 0.05)
    assert ask(server, max_tokens=200, n=8)["usage"]["completion_tokens"] > 0


@pytest.mark.usefixtures("impatient")
def test_a_reader_that_never_reads_frees_its_traces(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = server.service.served.owners()[0]
    monkeypatch.setattr(owner.engine._scheduler, "eos_token_ids", ())  # type: ignore[union-attr]
    with opened(server) as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        one.sendall(post(stream=True, n=16, max_tokens=4000, temperature=5, logprobs=True))
        assert eventually(lambda: server.service.admission.requests == 1)
        assert eventually(lambda: server.service.admission.requests == 0 and owner.load == (0, 0), 120)
        seen = b""
        try:
            while piece := one.recv(1 << 16):
                seen += piece
        except ConnectionError:
            pass
        assert b"[DONE]" not in seen
    assert ask(server)["choices"]


def test_a_client_that_closes_its_half_has_hung_up(server: Running) -> None:
    owner = server.service.served.owners()[0]
    with opened(server) as one:
        one.sendall(post(stream=True, n=8, max_tokens=3000, temperature=5))
        one.recv(100)
        one.shutdown(socket.SHUT_WR)
        assert eventually(lambda: server.service.admission.requests == 0 and owner.load == (0, 0))
    assert ask(server)["choices"]


def test_more_connections_than_there_may_be_are_told_so_and_the_others_go_on(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = server._server.config
    monkeypatch.setattr(config, "limit_concurrency", 6)
    held = [opened(server) for _ in range(6)]
    try:
        with opened(server) as one:
            one.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert one.recv(1000).startswith(b"HTTP/1.1 503")
    finally:
        for one in held:
            one.close()
    assert eventually(lambda: ask(server)["choices"])
