"""A plain request as another server answers it: passed on as it came, and begun anew elsewhere where the server fails.

A request gets a seed where it has none. So another server of the same model writes the same once more; what the client
has already is left out of it. Where it writes something else the stream ends with an error, and never with a text that
two servers wrote.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Any

import httpx2

from h1r.common.servers import Server, Servers, authorization, failure_of, retry_after, to_mend, was_cut
from h1r.engine.server.events import MAX_LINE_BYTES, UNREADABLE
from h1r.serve.errors import ApiError
from h1r.serve.jobs import Raw
from h1r.serve.retold import ENDS, FAILURES, Retold
from h1r.serve.spans import RequestSpan
from h1r.serve.wanted import NotWritableError, json_object

ATTEMPTS = 4
SILENCE_S = 600.0
"""Without a byte for so long, a server counts as gone."""


class _Passing(Exception):  # noqa: N818 - another server may answer
    def __init__(self, why: str, asked_s: float | None = None, limited: bool = False) -> None:
        super().__init__(why)
        self.asked_s, self.limited = asked_s, limited


class PassedOn:
    """See `jobs.Job`. path: of the interface, after `/v1`. weight: tokens that it may take."""

    method = "plain"
    span: RequestSpan | None = None

    def __init__(
        self,
        servers: Servers,
        client: httpx2.AsyncClient,
        path: str,
        body: dict[str, Any],
        key: str | None,
        weight: int,
    ) -> None:
        self._servers, self._client, self._path, self._body = servers, client, path, body
        self._headers, self._weight = {**authorization(key), **servers.headers}, weight
        self.num_traces = int(body.get("n") or 1)
        self._retold = Retold()
        self._ended = False

    async def __aiter__(self) -> AsyncIterator[Sequence[Raw]]:
        why, limited, tried = "", None, list[Server]()
        for attempt in range(1, ATTEMPTS + 1):
            if tried and len({*tried}) == len(self._servers.all):
                await asyncio.sleep(min(0.1 * 2**attempt, 2.0))
            server = self._servers.take(weight=self._weight, tried=tried)
            tried.append(server)
            failed: bool | None = None
            asked_s = None
            headers = dict(self._headers)
            span = None if self.span is None else self.span.attempt(f"{server.url}/{self._path}", headers)
            try:
                async for found in self._events(server, headers):
                    yield found
                failed = False
                return
            except ApiError:
                failed = False
                raise
            except (_Passing, httpx2.HTTPError) as error:
                failed, why = True, str(error) or type(error).__name__
                asked_s = error.asked_s if isinstance(error, _Passing) else None
                limited = (asked_s or 1.0) if isinstance(error, _Passing) and error.limited else None
            finally:
                self._servers.give_back(server, failed, asked_s, self._weight)
                if span is not None:
                    span.set_attribute("h1r.failed", bool(failed))
                    span.end()
            if self._ended:
                return
            if limited is not None and all(one.pause_s for one in self._servers.all):
                break
        if limited is not None:
            said = "the servers behind this one have too much to do; ask again in a while"
            raise ApiError(429, said, code="rate_limit_exceeded", retry_after_s=limited)
        raise ApiError(502, f"no server answered: {why}", code="backend_failed")

    def give_up(self) -> None:
        """Whoever stops reading closes the connection."""

    def finish(self) -> None:
        """There is nothing to end it with but its end."""
        self._ended = True

    async def _events(self, server: Server, headers: dict[str, str]) -> AsyncIterator[Sequence[Raw]]:
        """The chunks of a stream, those that came together in one, or the whole reply."""
        url = f"{server.url}/{self._path}"
        self._retold.begin()
        async with self._client.stream(
            "POST", url, json=self._body, headers=headers, timeout=httpx2.Timeout(SILENCE_S, connect=10.0)
        ) as response:
            if response.status_code >= 400:
                self._refused(response, await response.aread())
            if not self._body.get("stream"):
                whole = _object(await response.aread())
                self._refuse_cut(whole)
                yield [Raw(whole)]
                return
            left = b""
            async for read in response.aiter_bytes():  # JSON may hold what httpx takes for the end of a line
                *lines, left = (left + read).split(b"\n")
                if len(left) > MAX_LINE_BYTES:
                    raise _Passing(f"the server writes a line of more than {MAX_LINE_BYTES} bytes")
                found: list[Raw] = []
                done, error = False, None
                try:
                    done = self._read(lines, found)
                except (_Passing, ApiError) as raised:
                    error = raised
                if found:
                    yield found
                if error is not None:
                    raise error
                if done or self._ended:
                    return
            raise _Passing("the answer broke off without an end")

    def _read(self, lines: Sequence[bytes], found: list[Raw]) -> bool:
        """Adds what lines of a stream say that the client does not have; whether they end it."""
        for line in lines:
            if not line.startswith(b"data:"):
                continue
            text = line.removeprefix(b"data:").strip()
            if text == b"[DONE]":
                return True
            data = _object(text)
            kind = str(data.get("type", ""))
            if "error" in data or kind in FAILURES:
                raise _Passing("the server failed in the middle of its answer")
            try:
                self._refuse_cut(data)
                left = self._retold.unsaid(data)
            except UNREADABLE:
                raise _Passing("the reply is no completion") from None
            if left is not None:
                found.append(Raw(left))
            if kind in ENDS:
                return True
        return False

    def _refuse_cut(self, data: dict[str, Any]) -> None:
        """Raises for an answer that ended because its server stops, where there is another server."""
        if len(self._servers.all) > 1 and any(map(was_cut, data.get("choices") or ())):
            raise _Passing("the server stopped in the middle of its answer")

    def _refused(self, response: httpx2.Response, content: bytes) -> None:
        """Raises what a status of 400 and more means."""
        status, failure = response.status_code, failure_of(response.status_code, content[:2000])
        if failure in ("passing", "limited"):
            asked_s = retry_after(response.headers.get("retry-after"))
            raise _Passing(f"status {status}", asked_s, failure == "limited")
        if failure == "to mend" and status != 404:
            raise ApiError(502, f"the server behind this one: {to_mend(status)}", code="backend_refused")
        message, param, code = "the server behind this one refused the request", None, None
        with suppress(_Passing, KeyError, TypeError):
            error = _object(content)["error"]
            message, param, code = str(error["message"]), error.get("param"), error.get("code")
        param, code = (one if isinstance(one, str) else None for one in (param, code))
        raise ApiError(status, message, param, code)


def _object(data: bytes) -> dict[str, Any]:
    try:
        return json_object(data)
    except NotWritableError as error:
        raise _Passing(f"the reply {error}") from None
