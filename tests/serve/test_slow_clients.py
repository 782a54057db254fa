"""Clients that take their time on purpose: each is cut off, and what it held is free again."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from served_model import KEY, NAME, QUESTION, Running, eventually
from test_serve_chat import ask

from h1r.serve import connections, solving
from h1r.serve.jobs import Delta


def opened(server: Running) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])), timeout=60)


def post(**body: Any) -> bytes:
    data = json.dumps({"model": NAME, "messages": [{"role": "user", "content": QUESTION}], **body}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {KEY}\r\n"
    return f"{head}Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data


def is_cut_off(one: socket.socket, begun: bytes) -> bool:
    """Whether a connection ends after this part of a request, within the socket's own limit."""
    try:
        one.sendall(begun)
        while one.recv(1000):
            pass
    except ConnectionError:
        pass
    return True


@pytest.mark.parametrize("begun", [b"", b"POST /v1/chat/comp", b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX-A: "])
def test_a_request_that_never_ends_its_headers_is_cut_off(
    server: Running, monkeypatch: pytest.MonkeyPatch, begun: bytes
) -> None:
    with opened(server) as one:
        one.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert one.recv(1000).startswith(b"HTTP/1.1 200")
        monkeypatch.setattr(connections, "HEAD_S", 0.3)
        assert is_cut_off(one, begun or b"G")  # the second request of a connection
    with opened(server) as one:
        assert is_cut_off(one, begun)


def test_a_client_that_hangs_up_in_the_middle_of_its_body_is_no_error_of_the_server(server: Running) -> None:
    requests = server.service.metrics.requests
    gone, failed = (requests.labels("/v1/chat/completions", "none", status) for status in (499, 500))
    before = gone._value.get(), failed._value.get()
    for rest in (b"", post()[:-5]):  # closed, and no chunk where one must be
        with opened(server) as one:
            one.sendall(rest or post().replace(b"Content-Length", b"Transfer-Encoding: chunked\r\nX")[:-5])
    assert eventually(lambda: (gone._value.get(), failed._value.get()) == (before[0] + 2, before[1]))


def test_of_a_client_that_reads_slowly_one_progress_event_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    outcome = object()

    class Events:
        def event(self) -> dict[str, Any]:
            made.append(len(made))
            return {"number": len(made)}

    def solved(_: Any, __: Any, look: Any) -> Any:
        for _ in range(200):
            look(Events())
        return outcome

    async def read() -> list[Any]:
        run = solving.Solving(Any, Any, events=True)  # type: ignore[arg-type]
        await asyncio.sleep(0.2)
        assert made == [0]
        return [one async for one in run]

    monkeypatch.setattr(solving, "solve", solved)
    monkeypatch.setattr(solving, "PERIOD_S", 0.0)
    assert asyncio.run(read()) == [{"number": 1}, outcome]


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


class Endless:
    """A job that has always more to say."""

    num_traces, method, span = 1, "plain", None
    gave_up = False

    async def __aiter__(self) -> AsyncIterator[list[Delta]]:
        while not self.gave_up:
            yield [Delta(0, "content", "x" * 65536)]

    def give_up(self) -> None:
        self.gave_up = True

    def finish(self) -> None:
        self.gave_up = True


def test_a_client_that_reads_nothing_more_of_its_reply_is_cut_off_and_while_it_reads_it_is_not(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs: list[Endless] = []

    async def job(*_: Any) -> Endless:
        jobs.append(Endless())
        return jobs[-1]

    monkeypatch.setattr(server.service.served, "job", job)
    monkeypatch.setattr(connections, "UNREAD_S", 0.5)
    with opened(server) as one:
        one.sendall(post(stream=True))
        until = time.monotonic() + 1.2
        while time.monotonic() < until:
            assert one.recv(1 << 20)
            time.sleep(0.02)
        assert not jobs[0].gave_up
        assert eventually(lambda: jobs[0].gave_up)  # it reads no more
    assert eventually(lambda: server.service.admission.requests == 0)
