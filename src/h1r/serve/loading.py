"""What the server answers before its model is there, which takes as long as importing torch and reading the weights.

The page is there at once, and `/health` says "loading" (503). Whatever else is asked waits, and is answered as soon as
it can be: nobody has to ask twice. It waits for `PATIENCE_S`, or what it prefers (`Prefer: wait=SECONDS`, RFC 7240): a
front with other servers to ask has no wish to wait. Where the model cannot be loaded, those who wait are told, and the
server ends.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from h1r.serve.errors import ApiError, ClientGoneError
from h1r.serve.gate import OPEN, error_response, http_error
from h1r.serve.limits import Limits
from h1r.serve.page import page_routes

PATIENCE_S = 300.0
_WAIT = re.compile(r"(?:^|[\s,;])wait=(\d{1,6})(?![\w.])", re.IGNORECASE)
FAILED = ApiError(503, "the model could not be loaded, and the server ends; its log says why", code="loading_failed")
CLOSING = ApiError(503, "the server is shutting down", code="shutting_down", retry_after_s=10)


class Loading:
    """The application of `begin`, once there is one. Belongs to the event loop."""

    def __init__(self, limits: Limits) -> None:
        self.waiting = 0
        self._limits = limits
        self._app: ASGIApp | None = None
        self._why = CLOSING
        self._settled = asyncio.Event()
        self._meanwhile = Starlette(
            routes=[*page_routes(), Route("/health", _health)], exception_handlers={HTTPException: http_error}
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app
        if app is None and scope["path"] in OPEN:
            app = self._meanwhile
        elif app is None:
            receive = held = Held(receive, self._limits.body_bytes)
            try:
                app = await self._loaded(held, patience_of(Headers(scope=scope)))
            except ApiError as error:
                app = error_response(error)
            except ClientGoneError:
                return
        await app(scope, receive, send)

    def begin(self, app: ASGIApp) -> None:
        """From now on this application answers, those who wait first."""
        if not self._settled.is_set():
            self._app = app
            self._settled.set()

    def end(self, why: ApiError = CLOSING) -> None:
        """Nothing will be loaded any more, which is what those who wait are told. Does nothing after `begin`."""
        if not self._settled.is_set():
            self._why = why
            self._settled.set()

    async def _loaded(self, held: Held, patience_s: float) -> ASGIApp:
        if self.waiting >= self._limits.requests:
            said = "the model is being loaded, and others wait for it; ask again in a while"
            raise ApiError(429, said, code="rate_limit_exceeded", retry_after_s=5)
        self.waiting += 1
        gone, settled = asyncio.ensure_future(held.until_gone()), asyncio.ensure_future(self._settled.wait())
        try:
            await asyncio.wait((gone, settled), timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
            if gone.done():
                raise ClientGoneError
        finally:
            self.waiting -= 1
            gone.cancel()
            settled.cancel()
        if not self._settled.is_set():
            raise ApiError(503, "the model is being loaded; ask again in a while", None, "loading", 5)
        if self._app is None:
            raise self._why
        return self._app


class Held:
    """What comes of a request while it waits: kept for the application that it waits for, up to `most` bytes."""

    def __init__(self, receive: Receive, most: int) -> None:
        self._receive, self._most = receive, most
        self._kept: deque[Message] = deque()

    async def __call__(self) -> Message:
        return self._kept.popleft() if self._kept else await self._receive()

    async def until_gone(self) -> None:
        """Returns when the client has hung up. Of one that sends more than `most` it is not known."""
        size = 0
        while size <= self._most:
            self._kept.append(message := await self._receive())
            if message["type"] == "http.disconnect":
                return
            size += len(message.get("body", b""))
        await asyncio.Event().wait()


def patience_of(headers: Headers) -> float:
    """Seconds that a request may wait."""
    found = _WAIT.search(headers.get("prefer", "")[:200])
    return PATIENCE_S if found is None else min(PATIENCE_S, float(found[1]))


async def _health(request: Request) -> Response:
    return JSONResponse({"status": "loading"}, 503)
