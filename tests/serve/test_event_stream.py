"""A stream as ASGI sees it: its end, a client that hangs up, one that waits, and a server that ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from h1r.serve import event_stream
from h1r.serve.event_stream import EventStream


class Client:
    """What a server of ASGI gives an application: `hang_up` is set where the client has."""

    def __init__(self) -> None:
        self.hang_up = asyncio.Event()
        self.sent: list[dict[str, Any]] = []
        self.closed = False

    async def receive(self) -> dict[str, Any]:
        await self.hang_up.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    async def pieces(self, *texts: bytes, endless: bool = False) -> AsyncGenerator[bytes]:
        try:
            for text in texts:
                yield text
                await asyncio.sleep(0)
            if endless:
                await asyncio.Event().wait()
        finally:
            self.closed = True

    def asked(self, *texts: bytes, endless: bool = False) -> asyncio.Task[None]:
        stream = EventStream(self.pieces(*texts, endless=endless))
        return asyncio.create_task(stream({"type": "http"}, self.receive, self.send))

    @property
    def body(self) -> list[tuple[bytes, bool]]:
        return [(one["body"], one["more_body"]) for one in self.sent[1:]]


def test_a_stream_ends_with_its_pieces_and_nothing_is_left_running() -> None:
    async def ask() -> None:
        client = Client()
        await client.asked(b"a", b"b")
        headers = dict(client.sent[0]["headers"])
        assert client.sent[0]["status"] == 200
        assert headers[b"content-type"].startswith(b"text/event-stream")
        assert headers[b"cache-control"] == b"no-store"
        assert client.body == [(b"a", True), (b"b", True), (b"", False)]
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(ask())


def test_a_client_that_hangs_up_ends_what_it_asked_for_at_once_and_nothing_more_is_sent() -> None:
    async def ask() -> None:
        client = Client()
        task = client.asked(b"a", endless=True)
        await asyncio.sleep(0.01)
        client.hang_up.set()
        await asyncio.wait_for(task, 5)
        assert client.closed
        assert client.body == [(b"a", True)]

    asyncio.run(ask())


def test_a_server_that_ends_its_requests_cancels_a_stream_as_any_other() -> None:
    async def ask() -> None:
        client = Client()
        task = client.asked(b"a", endless=True)
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert client.closed

    asyncio.run(ask())


def test_a_stream_that_has_nothing_to_say_sends_comments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "PING_S", 0.02)

    async def ask() -> None:
        client = Client()
        task = client.asked(b"a", endless=True)
        while len(client.body) < 3:
            await asyncio.sleep(0.01)
        assert {body for body, _ in client.body[1:]} == {b": nothing new\n\n"}
        client.hang_up.set()
        await task

    asyncio.run(ask())
