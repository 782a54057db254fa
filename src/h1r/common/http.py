"""A client for OpenAI-compatible chat servers: several of them, in turns, with limits and retries.

    endpoints = Endpoints(["http://127.0.0.1:8000/v1"], model="judge")
    reply = await endpoints.chat([{"role": "user", "content": "..."}], temperature=0.0)
    replies = await endpoints.choices([{"role": "user", "content": "..."}], n=12)

The judge of answers and the teacher of curation both talk to servers through it.

Each request goes to the server with the fewest outstanding, at most `concurrency` at once on each (`servers.py`). A
server that fails to answer is passed over for a while. What may pass (no connection, a broken or late or unreadable
reply, statuses 408, 409, 425, 429 and 5xx) is tried again, `attempts` times in all, after a wait that doubles with each
attempt, or the one that the server asks for. What a person has to mend (401, 402, 403, 404, no credit) raises
`UserError` at once; any other refusal raises `RefusedError`, since it may be the fault of that one prompt. The time
limit is on a whole attempt, so a server that drips bytes does not hold it.

Uses `httpx2`. One object belongs to one event loop.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from h1r.common.prose import counted
from h1r.common.servers import Retries, Server, Servers, authorization, failure_of, one_line_of, retry_after, to_mend
from h1r.errors import UserError

if TYPE_CHECKING:
    import httpx2

T = TypeVar("T")
MAX_REPLY_BYTES = 32 << 20


class EndpointError(Exception):
    """No usable reply: refused for good, or every attempt failed."""


class RefusedError(EndpointError):
    """The server will not answer this request, however often it is asked. `said`: its own words."""

    def __init__(self, sentence: str, said: str = "") -> None:
        super().__init__(sentence)
        self.said = said


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one request, None where the server does not say. `reasoning` are among `completion`, and `cached`
    among `prompt`."""

    prompt: int | None = None
    completion: int | None = None
    reasoning: int | None = None
    cached: int | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """What the model said. `finish_reason` is "stop", "length" or the server's own word; `tokens` were generated (None
    where the server does not say, or counts several replies together). `thinking` is what the server returned apart
    from the answer, as `reasoning_content` or `reasoning`. `usage` is that of the request, all its replies together."""

    text: str
    finish_reason: str | None
    tokens: int | None
    url: str
    thinking: str | None = None
    usage: Usage = Usage()

    @property
    def whole(self) -> str:
        """Thinking and answer as one text, as a model writes it; the thinking of a reply without an answer is open."""
        if not self.thinking:
            return self.text
        return f"<think>\n{self.thinking}" + (f"\n</think>\n\n{self.text}" if self.text else "")


class _PassingError(Exception):
    """A failure that may pass; `wait_s` is what the server asks for, `limited` whether it is a rate limit."""

    def __init__(self, why: str, wait_s: float | None = None, limited: bool = False) -> None:
        super().__init__(why)
        self.wait_s = wait_s
        self.limited = limited


@dataclass(slots=True, eq=False)
class _Connections:
    """Each server has its own: a pool of connections takes time linear in their number for every request."""

    slots: asyncio.Semaphore
    client: httpx2.AsyncClient | None = None


@dataclass(slots=True, eq=False)
class Endpoints:
    """Servers at `urls` (with their `/v1`) that all serve `model`. Times are seconds; see the module for the rules, and
    `servers.Retries` for `patience_s`."""

    urls: Sequence[str]
    model: str
    api_key: str | None = field(default=None, repr=False)
    concurrency: int = 32
    timeout_s: float = 60.0
    attempts: int = 5
    backoff_s: float = 0.5
    max_wait_s: float = 30.0
    patience_s: float = 0.0
    unlisted: str = field(init=False, default="")
    _servers: Servers = field(init=False)
    _connections: dict[str, _Connections] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        if not self.urls or not self.model:
            raise UserError("a chat endpoint needs at least one URL and a model name")
        if importlib.util.find_spec("httpx2") is None:
            raise UserError("asking a chat server needs httpx2; run `pip install 'open-h1r[judge]'`")
        self._servers = Servers(self.urls)

    async def chat(self, messages: Sequence[dict[str, str]], **params: Any) -> Reply:
        """One reply with text; `params` are further keys of the request.

        Raises `EndpointError` (`RefusedError` when asking again is no use), or `UserError` for a setting.
        """
        return (await self._replies({"model": self.model, "messages": list(messages), **params}, text_needed=True))[0]

    async def choices(self, messages: Sequence[dict[str, str]], **params: Any) -> list[Reply]:
        """Every reply to one request, at least one: as many as its `n`, where the server can do that. A choice without
        content, as when thinking met the token limit, has the text "". Raises as `chat` does."""
        return await self._replies({"model": self.model, "messages": list(messages), **params}, text_needed=False)

    async def models(self) -> list[dict[str, Any]]:
        """What `/models` of a server lists; empty where it lists nothing, and `unlisted` says why. Raises `UserError`
        for a setting."""
        try:
            content = await self._answered(self._listed, attempts=3)
            return [one for one in json.loads(content)["data"] if isinstance(one, dict)]
        except (EndpointError, ValueError, KeyError, TypeError, RecursionError) as error:
            self.unlisted = str(error) if isinstance(error, EndpointError) else "what it says is no list"
            return []

    async def _replies(self, body: dict[str, Any], text_needed: bool) -> list[Reply]:
        return await self._answered(lambda server: self._ask(server, body, text_needed), self.attempts)

    async def _answered(self, ask: Callable[[Server], Awaitable[T]], attempts: int) -> T:
        """What a server answers, by the rules of the module."""
        retries = Retries(attempts, self.backoff_s, self.max_wait_s, self.patience_s)
        started, failures, tried = time.monotonic(), 0, 0
        failing: list[Server] = []
        while True:
            server = self._servers.take(tried=failing)
            failed, asked_s = False, None
            try:
                async with self._connections_to(server).slots:
                    if (pause := min(server.pause_s, self.max_wait_s)) > 0:
                        await asyncio.sleep(pause)
                    return await ask(server)
            except _PassingError as error:
                failed, asked_s, failures = True, error.wait_s, failures + 1
                failing.append(server)
                if not (error.limited and time.monotonic() - started < self.patience_s):
                    tried += 1
                if tried >= attempts:
                    why = f"no reply after {counted(failures, 'attempt')}, the last at {server.url}: {error}"
                    raise EndpointError(why) from None
            finally:
                self._servers.give_back(server, failed, asked_s)
            await asyncio.sleep(retries.wait_s(failures, asked_s))

    async def close(self) -> None:
        """Closes the connections."""
        for connections in self._connections.values():
            client, connections.client = connections.client, None
            if client is not None:
                await client.aclose()

    def _connections_to(self, server: Server) -> _Connections:
        if server.url not in self._connections:
            self._connections[server.url] = _Connections(asyncio.Semaphore(self.concurrency))
        return self._connections[server.url]

    async def _listed(self, server: Server) -> bytes:
        status, content, wait_s = await self._fetch(server, "GET", "/models")
        failure = failure_of(status, content[:2000])
        if failure in ("passing", "limited"):
            raise _PassingError(f"status {status}", wait_s, failure == "limited")
        if status in (401, 402, 403):
            raise self._to_mend(server, status, content)
        return content

    async def _ask(self, server: Server, body: dict[str, Any], text_needed: bool) -> list[Reply]:
        status, content, wait_s = await self._fetch(server, "POST", "/chat/completions", body)
        failure = failure_of(status, content[:2000])
        if failure == "to mend":
            raise self._to_mend(server, status, content)
        if failure in ("passing", "limited"):
            raise _PassingError(f"status {status}{self._detail(content)}", wait_s, failure == "limited")
        if status != 200:
            said = content[:4000].decode(errors="replace")
            raise RefusedError(f"{server.url}: status {status}{self._detail(content)}", said)
        return _read(content, server.url, text_needed)

    def _to_mend(self, server: Server, status: int, content: bytes) -> UserError:
        return UserError(f"{server.url} with model `{self.model}`: {to_mend(status)}{self._detail(content)}")

    def _detail(self, content: bytes) -> str:
        """What the server said, but for the key, which some repeat."""
        text = one_line_of(content[:2000])
        if self.api_key:
            text = text.replace(self.api_key, "[key]")
        return f": {text[:200]}" if text else ""

    async def _fetch(
        self, server: Server, method: str, path: str, body: dict[str, Any] | None = None
    ) -> tuple[int, bytes, float | None]:
        """Status, content and the wait that is asked for; what may pass raises `_PassingError`."""
        import httpx2

        connections = self._connections_to(server)
        if connections.client is None:
            limits = httpx2.Limits(max_connections=self.concurrency, max_keepalive_connections=self.concurrency)
            headers = authorization(self.api_key)
            connections.client = httpx2.AsyncClient(timeout=None, limits=limits, headers=headers)
        try:
            async with (
                asyncio.timeout(self.timeout_s),
                connections.client.stream(method, f"{server.url}{path}", json=body) as response,
            ):
                content = bytearray()
                async for chunk in response.aiter_bytes():
                    content += chunk
                    if len(content) > MAX_REPLY_BYTES:
                        raise EndpointError(f"{server.url}: a reply of more than {MAX_REPLY_BYTES} bytes")
        except TimeoutError:
            raise _PassingError(f"no whole reply within {self.timeout_s:g} s") from None
        except httpx2.HTTPError as error:
            raise _PassingError(f"{type(error).__name__}: {error}"[:200]) from None
        return response.status_code, bytes(content), retry_after(response.headers.get("retry-after"))


def _read(content: bytes, url: str, text_needed: bool) -> list[Reply]:
    """The replies in a chat completion; what is none may pass."""
    try:
        found = json.loads(content)
        choices = [(choice["message"], choice.get("finish_reason")) for choice in found["choices"]]
        parts = [(message.get("content"), message.get("reasoning_content") or message.get("reasoning"), reason)
                 for message, reason in choices]  # fmt: skip
        usage = _usage(found.get("usage") or {})
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
                usage.completion if len(parts) == 1 else None,
                url,
                thinking if isinstance(thinking, str) else None,
                usage,
            )
        )
    return replies


def _usage(found: dict[str, Any]) -> Usage:
    def number(value: Any) -> int | None:
        return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None

    of_prompt, of_answer = (found.get(f"{part}_tokens_details") or {} for part in ("prompt", "completion"))
    # DeepSeek and xAI say it at the top level.
    reasoning = of_answer.get("reasoning_tokens", found.get("reasoning_tokens"))
    cached = of_prompt.get("cached_tokens", found.get("prompt_cache_hit_tokens"))
    prompt, completion = found.get("prompt_tokens"), found.get("completion_tokens")
    return Usage(number(prompt), number(completion), number(reasoning), number(cached))
