"""A client for OpenAI-compatible chat servers: several of them, in turns, with limits and retries.

    endpoints = Endpoints(["http://127.0.0.1:8000/v1"], model="judge")
    reply = await endpoints.chat([{"role": "user", "content": "..."}], temperature=0.0)
    replies = await endpoints.choices([{"role": "user", "content": "..."}], n=12)

The judge of answers and the teacher of curation both talk to servers through it.

Requests go round the servers, at most `concurrency` at once on each. A server that fails to answer is passed over for
a while. What may pass (no connection, a broken or late or unreadable reply, statuses 408, 409, 429 and 5xx) is tried
again, `attempts` times in all, after a wait that doubles with each attempt, or the one that the server asks for. What a
person has to mend (401, 403, 404) raises `UserError` at once; any other refusal raises `RefusedError`, since it may be
the fault of that one prompt. The time limit is on a whole attempt, so a server that drips bytes does not hold it.

Uses `httpx2`. One object belongs to one event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import random
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from h1r.errors import UserError

if TYPE_CHECKING:
    import httpx2

MAX_REPLY_BYTES = 32 << 20
COOLDOWN_S = 5.0
_PASSING = frozenset((408, 409, 429))
_TO_MEND = {401: "the API key is refused", 403: "the API key may not do this", 404: "there is no such path or model"}


class EndpointError(Exception):
    """No usable reply: refused for good, or every attempt failed."""


class RefusedError(EndpointError):
    """The server will not answer this request, however often it is asked."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What the model said. `finish_reason` is "stop", "length" or the server's own word; `tokens` were generated (None
    where the server does not say, or counts several replies together). `thinking` is what the server returned apart
    from the answer, as `reasoning_content` or `reasoning`."""

    text: str
    finish_reason: str | None
    tokens: int | None
    url: str
    thinking: str | None = None


@dataclass(slots=True, eq=False)
class _Server:
    url: str
    slots: asyncio.Semaphore
    client: httpx2.AsyncClient | None = None
    """Each server has its own: a pool of connections takes time linear in their number for every request."""
    rests_until: float = 0.0
    failures: int = 0


class _PassingError(Exception):
    """A failure that may pass; `wait_s` is what the server asks for."""

    def __init__(self, why: str, wait_s: float | None = None) -> None:
        super().__init__(why)
        self.wait_s = wait_s


@dataclass(slots=True, eq=False)
class Endpoints:
    """Servers at `urls` (with their `/v1`) that all serve `model`. Times are seconds; see the module for the rules."""

    urls: Sequence[str]
    model: str
    api_key: str | None = None
    concurrency: int = 32
    timeout_s: float = 60.0
    attempts: int = 5
    backoff_s: float = 0.5
    max_wait_s: float = 30.0
    _servers: list[_Server] = field(init=False, default_factory=list)
    _turn: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        if not self.urls or not self.model:
            raise UserError("a chat endpoint needs at least one URL and a model name")
        if importlib.util.find_spec("httpx2") is None:
            raise UserError("asking a chat server needs httpx2; run `pip install 'open-h1r[judge]'`")
        for url in self.urls:
            if not url.startswith(("http://", "https://")):
                raise UserError(f"the endpoint `{url}` is no URL; it looks like http://host:8000/v1")
            self._servers.append(_Server(url.rstrip("/"), asyncio.Semaphore(self.concurrency)))

    async def chat(self, messages: Sequence[dict[str, str]], **params: Any) -> Reply:
        """One reply with text; `params` are further keys of the request.

        Raises `EndpointError` (`RefusedError` when asking again is no use), or `UserError` for a setting.
        """
        return (await self._replies({"model": self.model, "messages": list(messages), **params}, text_needed=True))[0]

    async def choices(self, messages: Sequence[dict[str, str]], **params: Any) -> list[Reply]:
        """Every reply to one request, at least one: as many as its `n`, where the server can do that. A choice without
        content, as when thinking met the token limit, has the text "". Raises as `chat` does."""
        return await self._replies({"model": self.model, "messages": list(messages), **params}, text_needed=False)

    async def _replies(self, body: dict[str, Any], text_needed: bool) -> list[Reply]:
        why = ""
        for attempt in range(self.attempts):
            server = self._next()
            async with server.slots:
                try:
                    replies = await self._ask(server, body, text_needed)
                except _PassingError as failure:
                    server.failures += 1
                    server.rests_until = time.monotonic() + COOLDOWN_S
                    why, wait_s = f"{server.url}: {failure}", failure.wait_s
                else:
                    server.failures, server.rests_until = 0, 0.0
                    return replies
            if attempt + 1 < self.attempts:
                await asyncio.sleep(self._wait(attempt, wait_s))
        raise EndpointError(f"no reply after {self.attempts} attempts, the last at {why}")

    async def close(self) -> None:
        """Closes the connections."""
        for server in self._servers:
            client, server.client = server.client, None
            if client is not None:
                await client.aclose()

    def _next(self) -> _Server:
        """The servers in turn: first those with a free slot, and those that failed just now last."""
        now = time.monotonic()
        order = self._servers[self._turn :] + self._servers[: self._turn]
        server = min(order, key=lambda one: (one.rests_until > now, one.slots.locked()))
        self._turn = (self._servers.index(server) + 1) % len(self._servers)
        return server

    def _wait(self, attempt: int, asked_s: float | None) -> float:
        """Doubling, with a random part so that what failed together does not come back together."""
        wait = self.backoff_s * 2**attempt * random.uniform(0.5, 1.0) if asked_s is None else asked_s
        return min(wait, self.max_wait_s)

    async def _ask(self, server: _Server, body: dict[str, Any], text_needed: bool) -> list[Reply]:
        import httpx2

        try:
            async with asyncio.timeout(self.timeout_s), self._post(server, body) as response:
                content = b""
                async for chunk in response.aiter_bytes():
                    content += chunk
                    if len(content) > MAX_REPLY_BYTES:
                        raise EndpointError(f"{server.url}: a reply of more than {MAX_REPLY_BYTES} bytes")
        except TimeoutError:
            raise _PassingError(f"no whole reply within {self.timeout_s:g} s") from None
        except httpx2.HTTPError as error:
            raise _PassingError(f"{type(error).__name__}: {error}"[:200]) from None
        if response.status_code in _TO_MEND:
            detail = _detail(content)
            raise UserError(f"{server.url} with model `{self.model}`: {_TO_MEND[response.status_code]}{detail}")
        if response.status_code in _PASSING or response.status_code >= 500:
            raise _PassingError(f"status {response.status_code}{_detail(content)}", _retry_after(response))
        if response.status_code != 200:
            raise RefusedError(f"{server.url}: status {response.status_code}{_detail(content)}")
        return _read(content, server.url, text_needed)

    @contextlib.asynccontextmanager
    async def _post(self, server: _Server, body: dict[str, Any]) -> AsyncIterator[httpx2.Response]:
        import httpx2

        if server.client is None:
            headers = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}
            limits = httpx2.Limits(max_connections=self.concurrency, max_keepalive_connections=self.concurrency)
            server.client = httpx2.AsyncClient(timeout=None, limits=limits, headers=headers)
        async with server.client.stream("POST", f"{server.url}/chat/completions", json=body) as response:
            yield response


def _read(content: bytes, url: str, text_needed: bool) -> list[Reply]:
    """The replies in a chat completion; what is none may pass."""
    try:
        found = json.loads(content)
        choices = [(choice["message"], choice.get("finish_reason")) for choice in found["choices"]]
        parts = [(message.get("content"), message.get("reasoning_content") or message.get("reasoning"), reason)
                 for message, reason in choices]  # fmt: skip
        tokens = (found.get("usage") or {}).get("completion_tokens")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise _PassingError("the reply is no chat completion") from None
    if not parts:
        raise _PassingError("the reply has no choice")
    replies = []
    for text, thinking, reason in parts:
        if not isinstance(text, str) and (text_needed or text is not None):
            raise _PassingError("the reply has no text")
        replies.append(
            Reply(
                text or "",
                reason if isinstance(reason, str) else None,
                tokens if isinstance(tokens, int) and len(parts) == 1 else None,
                url,
                thinking if isinstance(thinking, str) else None,
            )
        )
    return replies


def _detail(content: bytes) -> str:
    text = " ".join(content[:2000].decode(errors="replace").split())[:200]
    return f": {text}" if text else ""


def _retry_after(response: httpx2.Response) -> float | None:
    """The seconds of a Retry-After header; a date is not read."""
    value = response.headers.get("retry-after", "").strip()
    return float(value) if value.replace(".", "", 1).isdigit() else None
