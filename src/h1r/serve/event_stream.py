"""A reply that is a stream of server-sent events, written by the request's own task beside one that listens.

sse-starlette has four tasks for each reply, and ends them all as soon as the server is told to stop, where requests
still have their time (`run.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

PING_S = 15.0
"""Without an event for so long, a comment is sent, so that nobody between client and server hangs up."""
_PING = b": nothing new\n\n"


class EventStream(Response):
    """`pieces`: whole events, as bytes. Of a client that hangs up they are closed where they stand."""

    media_type = "text/event-stream"

    def __init__(self, pieces: AsyncGenerator[bytes]) -> None:
        self.status_code, self.background = 200, None
        self._pieces = pieces
        self._sent = self._gone = False
        self.init_headers({"Cache-Control": "no-store", "X-Accel-Buffering": "no"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        writer = asyncio.current_task()
        assert writer is not None
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        listener = asyncio.create_task(self._listen(receive, send, writer))
        try:
            async with aclosing(self._pieces) as pieces:
                async for piece in pieces:
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
                    self._sent = True
        except asyncio.CancelledError:
            if not self._gone:
                raise
            writer.uncancel()
            return
        finally:
            listener.cancel()  # and it writes nothing more, wherever it is
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _listen(self, receive: Receive, send: Send, writer: asyncio.Task[None]) -> None:
        """Until the client has hung up, which ends the writer."""
        while True:
            self._sent = False
            try:
                async with asyncio.timeout(PING_S):
                    message = await receive()
            except TimeoutError:
                if not self._sent:
                    await send({"type": "http.response.body", "body": _PING, "more_body": True})
                continue
            if message["type"] == "http.disconnect":
                self._gone = True
                writer.cancel()
                return
