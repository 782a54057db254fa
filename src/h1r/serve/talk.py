"""A conversation with what `h1r serve` serves: by a model in this process, or over HTTP with any server.

    with open_talker("h1r:small", None, {}) as talker:
        conversation = Conversation(talker)
        for piece in conversation.ask("What is 12 + 30 - 7?"):       Piece (text), or dict (a DeepConf progress event)
            ...

Both ways give the chunks of `/v1/chat/completions` with `stream`, so that one in this process is that of the server.
A turn whose pieces are not read to their end leaves no mark in the conversation. The thinking is not sent back.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from h1r.common.prose import counted
from h1r.common.servers import api_key
from h1r.config import resolve
from h1r.engine.server.events import UNREADABLE, Refused, ServerRequest, get_json
from h1r.errors import UserError
from h1r.evals.answers import recipe_of
from h1r.run.directory import knows_turns, prompt_of
from h1r.serve.errors import ApiError
from h1r.serve.jobs import Event, Job
from h1r.serve.limits import Limits
from h1r.serve.listing import most_traces
from h1r.serve.local import Local
from h1r.serve.model import open_model
from h1r.serve.replies import ChatShape
from h1r.serve.reply_text import Splitter, parts_of
from h1r.serve.wanted import read_body


class Talker(Protocol):
    """Who answers. model: its name. deepconf: whether it takes DeepConf as an option. most: traces of one question;
    None where that is not known."""

    model: str
    deepconf: bool
    most: int | None
    alone: bool
    """Whether it has learnt single questions, and no conversations."""

    def chunks(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Those of a streamed reply. `UserError` for a request that is refused, and a server that fails."""
        ...


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of the reply, as the model wrote it."""

    text: str
    thinking: bool


@dataclass
class Conversation:
    """The turns so far, whole ones. budget: traces of DeepConf for each question; 0: one plain trace. options: further
    keys of every request. alone: each question is asked without the turns before it."""

    talker: Talker
    budget: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    messages: list[dict[str, str]] = field(default_factory=list)
    usage: dict[str, Any] = field(default_factory=dict)
    """Of the last reply."""
    alone: bool = False

    def refusal(self, budget: int) -> str | None:
        """Why so many traces cannot be asked for; None where they can, as far as is known."""
        if budget and not self.talker.deepconf:
            return "this server has no DeepConf; put one that has in front of it: h1r serve URL"
        if self.talker.most is not None and budget > self.talker.most:
            return f"at most {counted(self.talker.most, 'trace')} vote on an answer here"
        return None

    def ask(self, question: str) -> Iterator[Piece | dict[str, Any]]:
        """The reply as it comes; progress events of DeepConf are told as they are. Raises as `Talker.chunks`."""
        asked = [*([] if self.alone else self.messages), {"role": "user", "content": question}]
        body: dict[str, Any] = {"model": self.talker.model, "messages": asked, "stream": True, **self.options}
        body["stream_options"] = {"include_usage": True}
        if self.budget:
            if why := self.refusal(self.budget):
                raise UserError(why)
            body["deepconf"] = {"budget": self.budget}
        self.usage, reading = {}, _Reading()
        for chunk in self.talker.chunks(body):
            self.usage = chunk.get("usage") or self.usage
            progress = chunk.get("deepconf")
            if isinstance(progress, dict) and progress.get("event") == "progress":
                yield progress
            yield from reading.take(chunk)
        thinking, answer = parts_of(reading.content)
        yield from map(_piece, reading.splitter.rest(thinking, answer))
        self.messages = [*asked, {"role": "assistant", "content": answer}]


class _Reading:
    """The text of one reply. A server may tell the thinking apart, or leave it in the content between its tags."""

    def __init__(self) -> None:
        self.content, self.splitter = "", Splitter()

    def take(self, chunk: Mapping[str, Any]) -> Iterator[Piece]:
        """What a chunk adds."""
        for choice in chunk.get("choices") or ():
            delta = choice.get("delta") or {}
            if thought := delta.get("reasoning_content") or delta.get("reasoning"):
                yield Piece(str(thought), True)
            if said := delta.get("content"):
                self.content += str(said)
                yield from map(_piece, self.splitter.push(str(said)))


def _piece(told: tuple[str, str]) -> Piece:
    return Piece(told[1], told[0] == "reasoning_content")


@contextmanager
def open_talker(what: str, model: str | None, overrides: dict[str, Any]) -> Iterator[Talker]:
    """A checkpoint, run directory or hub id in this process, or the server at an address (with `/v1`). model: of a
    server that has several. overrides: of recipe keys. `UserError` for what cannot be asked."""
    if what.startswith(("http://", "https://")):
        yield OverHttp(what, model, api_key(resolve({"name": "defaults"}, overrides, "--set").engine.key_variable))
        return
    recipe = recipe_of(what, overrides)
    limits = Limits()
    with open_model(what, what, recipe) as found, asyncio.Runner() as runner:
        yield InProcess(Local(found, limits), what, limits, runner)


class InProcess:
    """See `Talker`: a job of the server's, without the server."""

    deepconf = True

    def __init__(self, served: Local, model: str, limits: Limits, runner: asyncio.Runner) -> None:
        self.model, self._served, self._limits, self._runner = model, served, limits, runner
        self.most: int | None = limits.budget
        self.alone = prompt_of(model) == "{question}" and not knows_turns(model)

    def chunks(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """See `Talker.chunks`."""
        try:
            job = self._runner.run(self._begun(body))
        except ApiError as error:
            raise UserError(str(error)) from None
        events, shape = aiter(job), ChatShape(self.model, include_usage=True)
        try:
            while found := self._runner.run(_next(events)):
                for event in found:
                    yield from shape.chunks(event)
        except ApiError as error:
            raise UserError(str(error)) from None
        finally:
            job.give_up()

    async def _begun(self, body: dict[str, Any]) -> Job:
        return await self._served.job(read_body(body, "chat", self._limits), body, "chat")


async def _next(events: AsyncIterator[Sequence[Event]]) -> Sequence[Event] | None:
    return await anext(events, None)


class OverHttp:
    """See `Talker`. Asks the server once for its models."""

    alone = False

    def __init__(self, url: str, model: str | None, key: str | None) -> None:
        self._url, self._key = url.rstrip("/"), key
        try:
            listed = get_json(f"{self._url}/models", key=key)["data"]
            names = [str(one["id"]) for one in listed]
        except (Refused, OSError, *UNREADABLE) as error:
            why = error or type(error).__name__
            raise UserError(f"{url} lists no models ({why}); give the address with /v1") from None
        if model is None and not names:
            raise UserError(f"{url} lists no models; name one with --model")
        self.model = model or names[0]
        self.deepconf = any(one.startswith(f"{self.model}@deepconf") for one in names)
        self.most = most_traces(next((one for one in listed if one["id"] == self.model), {}))

    def chunks(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """See `Talker.chunks`."""
        request = ServerRequest(f"{self._url}/chat/completions", key=self._key)
        try:
            for chunk in request.events(body):
                if isinstance(chunk, dict):
                    yield chunk
        except (Refused, OSError, *UNREADABLE) as error:
            raise UserError(f"{self._url} failed: {error or type(error).__name__}") from None
        finally:
            request.close()
