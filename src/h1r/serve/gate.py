"""What every request passes before a route sees it: who may ask, from where, and how much.

* The key (`H1R_API_KEY`), where the server has one: of everything but `/health` and the page, which asks for it.
* The Host header, on loopback: a page in a browser whose name was pointed at 127.0.0.1 is not let in.
* A JSON content type, and a body of bounded size that comes within `BODY_SECONDS`.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from h1r.serve.errors import ApiError, ClientGoneError
from h1r.serve.limits import Limits
from h1r.serve.page import PAGE_FILES

BODY_SECONDS = 30.0
OPEN = ("/health", *PAGE_FILES)
STRANGER = "h1r.stranger"
"""In a request's scope: whether it came without the key where there is one, to a path that is open to all."""
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


def error_response(error: ApiError) -> JSONResponse:
    """The reply to a request that fails."""
    return JSONResponse(error.body(), error.status, error.headers())


class Gate:
    """In front of `app`. hosts: names that the server answers to; None: any."""

    def __init__(self, app: ASGIApp, key: str | None, hosts: tuple[str, ...] | None) -> None:
        self._app, self._key = app, None if key is None else key.encode()
        self._hosts = None if hosts is None else {*(host.lower() for host in hosts), *_LOOPBACK}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                scope[STRANGER] = not self._check(scope["path"], Headers(scope=scope))
            except ApiError as error:
                await error_response(error)(scope, receive, send)
                return
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        await self._app(scope, receive, send)

    def _check(self, path: str, headers: Headers) -> bool:
        """Whether who asks may know all. Raises `ApiError` for who may not ask."""
        host = headers.get("host", "").lower()
        if self._hosts is not None and host.rpartition(":")[0] not in self._hosts and host not in self._hosts:
            raise ApiError(403, "this server answers to its own address alone", code="unknown_host")
        if self._key is None:
            return True
        kind, _, given = headers.get("authorization", "").partition(" ")
        knows = kind.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self._key)
        if not knows and path not in OPEN:
            raise ApiError(401, "the API key is missing or wrong: Authorization: Bearer KEY", code="invalid_api_key")
        return knows


async def http_error(request: Request, error: Exception) -> Response:
    """Of the framework: no such path, no such method."""
    assert isinstance(error, HTTPException)
    said = {404: "there is no such path", 405: "this path takes another method"}
    found = ApiError(error.status_code, said.get(error.status_code, "the request cannot be read"))
    return JSONResponse(found.body(), error.status_code, dict(error.headers or {}))


async def read_bytes(request: Request, limits: Limits) -> bytes:
    """The body of a request. `ApiError` where it is too large, too slow, or no JSON by its own word; `ClientGoneError`
    where it breaks off."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, "the content type must be application/json")
    too_large = ApiError(413, f"the body is larger than {limits.body_bytes} bytes")
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and len(declared) < 20 and int(declared) > limits.body_bytes:
        raise too_large
    data = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                data += chunk
                if len(data) > limits.body_bytes:
                    raise too_large
    except ClientDisconnect:
        raise ClientGoneError from None
    except TimeoutError:
        raise ApiError(408, f"the body did not come within {BODY_SECONDS:g} s") from None
    return bytes(data)


Handler = Callable[[Request], Awaitable[Response]]


async def until_gone(request: Request) -> None:
    """Returns when the client has hung up. For requests whose body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
