"""JSON and server-sent events over HTTP, with a request that another thread can end. Standard library only."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from h1r.common.servers import authorization, one_line_of, retry_after, to_mend

UNREADABLE = (ValueError, LookupError, TypeError, AttributeError, RecursionError, OverflowError)
"""What reading an answer raises whose server says something else than it should: no JSON or too deep a one, another
shape, numbers that fit nowhere."""
MAX_LINE_BYTES, MAX_ANSWER_BYTES = 32 << 20, 256 << 20
"""Of an event, and of an answer that comes whole: logits of the prompt, weights' checksums."""
TIMEOUT = 600.0
"""Seconds without a byte from the server, after which it counts as gone."""
_MAX_SAID_BYTES = 1 << 20
UNKNOWN_ARGUMENT = "h1r_known_to_nobody"
"""Of `vllm_xargs`: a server that refuses it by its name refuses all that it does not know, with what it says."""


class Refused(Exception):  # noqa: N818 - an answer, with a status that says no
    """The server answered with an error; the message is its own. status: of HTTP, 200 for an error in a stream of
    events. asked_s: for how long the server asks not to be asked."""

    def __init__(self, message: str, status: int = 200, asked_s: float | None = None) -> None:
        super().__init__(message)
        self.status, self.asked_s = status, asked_s


class ServerRequest:
    """One request to `url`, with the server's key where it wants one, and further headers. `close` may be called from
    any thread and ends a read in progress."""

    def __init__(
        self, url: str, timeout: float = TIMEOUT, key: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        parts = urlsplit(url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connection = kind(parts.hostname or "", parts.port, timeout=timeout)
        self._key, self._headers = key, headers or {}
        self._path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")

    def send(self, body: Any = None) -> http.client.HTTPResponse:
        """Posts `body` as JSON, or gets without one. Raises `Refused` for a status of 400 and more, `OSError` when the
        server is not there or goes away."""
        try:
            data = None if body is None else json.dumps(body).encode()
            headers = {"Content-Type": "application/json", **authorization(self._key), **self._headers}
            self._connection.request("GET" if data is None else "POST", self._path, data, headers)
            response = self._connection.getresponse()
            if response.status >= 400:
                said = response.read(_MAX_SAID_BYTES)
                if response.status in (401, 403):
                    said = f"{to_mend(response.status)}; [engine] key_variable names what holds it".encode()
                why = self._without_key(_message(said)) or f"status {response.status} {response.reason}"
                raise Refused(why, response.status, retry_after(response.getheader("Retry-After")))
        except http.client.HTTPException as error:
            raise OSError(f"{type(error).__name__}: {error}") from None
        return response

    def events(self, body: Any) -> Iterator[Any]:
        """The events that the server answers with, until its `[DONE]`. Raises as `send`, `Refused` for an event that is
        an error, and what is `UNREADABLE`."""
        response = self.send(body)
        try:
            while line := response.readline(MAX_LINE_BYTES + 1):
                if len(line) > MAX_LINE_BYTES:
                    raise OSError(f"a line of more than {MAX_LINE_BYTES} bytes")
                if not line.startswith(b"data:"):
                    continue
                text = line.removeprefix(b"data:").strip()
                if text == b"[DONE]":
                    return
                event = json.loads(text)
                if "error" in event:
                    raise Refused(self._without_key(_message(text)))
                yield event
            raise OSError("the answer broke off without an end")
        except (http.client.HTTPException, AttributeError) as error:
            # http.client loses its file object when the connection is closed under it.
            raise OSError(f"{type(error).__name__}: {error}") from None

    def _without_key(self, message: str) -> str:
        """Some servers repeat the key that they refuse."""
        return message.replace(self._key, "[key]") if self._key else message

    def close(self) -> None:
        """Ends the connection. Twice does no harm."""
        sock = self._connection.sock
        if sock is not None:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                return
        self._connection.close()


def get_json(url: str, body: Any = None, timeout: float = TIMEOUT, key: str | None = None) -> Any:
    """One answer as JSON. Raises as `ServerRequest.send`, and what is `UNREADABLE`."""
    request = ServerRequest(url, timeout, key)
    try:
        content = request.send(body).read(MAX_ANSWER_BYTES + 1)
        if len(content) > MAX_ANSWER_BYTES:
            raise OSError(f"an answer of more than {MAX_ANSWER_BYTES} bytes")
        return json.loads(content)
    finally:
        request.close()


def _message(data: bytes) -> str:
    try:
        value = json.loads(data)
    except UNREADABLE:
        return one_line_of(data)
    inner = value.get("error", value) if isinstance(value, dict) else value
    # vLLM's own errors have a message, its web framework's a detail.
    found = inner.get("message", inner.get("detail")) if isinstance(inner, dict) else None
    return str(found or inner)[:500]
