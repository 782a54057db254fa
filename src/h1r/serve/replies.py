"""OpenAI's shapes of `/v1/chat/completions` and `/v1/completions`: whole replies, and the chunks of a stream."""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Sequence
from typing import Any

from h1r.common.servers import CUT
from h1r.serve.jobs import Choice, Delta, Event, Raw, Result, Told


class ChatShape:
    """One request's replies. model: as the client named it."""

    prefix, whole_object, chunk_object = "chatcmpl", "chat.completion", "chat.completion.chunk"
    alike = True

    def __init__(self, model: str, include_usage: bool) -> None:
        self._head = {"id": f"{self.prefix}-{secrets.token_hex(12)}", "created": int(time.time()), "model": model}
        self._include_usage = include_usage
        self._offsets: dict[int, int] = {}
        """Of each choice of a stream, the characters of its tokens so far."""
        self._begun: set[int] = set()

    def whole(self, result: Result | Raw) -> dict[str, Any]:
        """The reply of a request that does not stream."""
        if isinstance(result, Raw):
            return result.data
        choices = [self._choice(one) for one in result.choices]
        return {**self._head, "object": self.whole_object, "choices": choices, **ending(result)}

    def chunks(self, event: Event) -> list[dict[str, Any]]:
        """What a stream sends at an event."""
        if isinstance(event, Raw):
            return [event.data]
        if isinstance(event, Delta):
            return [*self._opening(event.index), self._chunk(event.index, *self._delta(event))]
        if isinstance(event, Choice):
            return [*self._opening(event.index), *self._calls(event), self._end(event)]
        if isinstance(event, Result):
            return self._last(event)
        return [*self._opening(0), {**self._chunk(0, self._nothing(), None), "deepconf": event}]

    def _choice(self, one: Choice) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": one.answer, "refusal": None}
        if one.thinking is not None:
            message["reasoning_content"] = one.thinking
        if one.tool_calls:
            message |= {"tool_calls": list(one.tool_calls), "content": one.answer or None}
        logprobs = None if one.tokens is None else chat_logprobs(one.tokens)
        return {"index": one.index, "message": message, "logprobs": logprobs, **_ended(one)}

    def _opening(self, index: int) -> list[dict[str, Any]]:
        """The first chunk of a choice names its role."""
        if index in self._begun:
            return []
        self._begun.add(index)
        return [self._chunk(index, {"delta": {"role": "assistant", "content": ""}}, None)]

    def _delta(self, event: Delta) -> tuple[dict[str, Any], dict[str, Any] | None]:
        return {"delta": {event.name: event.text}}, chat_logprobs(event.tokens) if event.tokens else None

    def _calls(self, event: Choice) -> list[dict[str, Any]]:
        calls = [{"index": number, **call} for number, call in enumerate(event.tool_calls)]
        return [self._chunk(event.index, {"delta": {"tool_calls": calls}}, None)] if calls else []

    def _nothing(self) -> dict[str, Any]:
        return {"delta": {}}

    def _end(self, event: Choice) -> dict[str, Any]:
        return self._chunk(event.index, self._nothing(), None, **_ended(event))

    def _last(self, result: Result) -> list[dict[str, Any]]:
        """Without `include_usage` clients expect choices in every chunk, so that of DeepConf has an empty one."""
        head = {**self._head, "object": self.chunk_object}
        if self._include_usage:
            return [{**head, "choices": [], **ending(result)}]
        if result.deepconf is None:
            return []
        return [{**self._chunk(0, self._nothing(), None), **ending(result)}]

    def _chunk(self, index: int, part: dict[str, Any], logprobs: dict[str, Any] | None, **ended: str) -> dict[str, Any]:
        choice = {"index": index, **part, "logprobs": logprobs, "finish_reason": None, **ended}
        return {**self._head, "object": self.chunk_object, "choices": [choice]}


def _ended(one: Choice) -> dict[str, str]:
    """How a choice ended, for a client; `stop_reason` for a front of ours, which asks for it elsewhere."""
    return {"finish_reason": one.finish_reason, **({"stop_reason": CUT} if one.is_cut else {})}


class CompletionShape(ChatShape):
    """As `ChatShape`, for texts without roles."""

    prefix, whole_object, chunk_object = "cmpl", "text_completion", "text_completion"

    def _choice(self, one: Choice) -> dict[str, Any]:
        logprobs = None if one.tokens is None else completion_logprobs(one.tokens)
        return {"index": one.index, "text": one.answer, "logprobs": logprobs, **_ended(one)}

    def _opening(self, index: int) -> list[dict[str, Any]]:
        return []

    def _delta(self, event: Delta) -> tuple[dict[str, Any], dict[str, Any] | None]:
        if not event.tokens:
            return {"text": event.text}, None
        logprobs = completion_logprobs(event.tokens, begun := self._offsets.get(event.index, 0))
        self._offsets[event.index] = begun + sum(len(one.text) for one in event.tokens)
        return {"text": event.text}, logprobs

    def _nothing(self) -> dict[str, Any]:
        return {"text": ""}


def ending(result: Result) -> dict[str, Any]:
    """What stands at the end of a reply, or of a stream: usage, the seed, the traces that were asked for."""
    found: dict[str, Any] = {"usage": usage_of(result), "seed": result.seed}
    if result.traces is not None:
        found["deepconf"] = {"event": "result", "traces": result.traces}
    return found


def usage_of(result: Result) -> dict[str, Any]:
    """Tokens of every trace."""
    usage: dict[str, Any] = {
        "prompt_tokens": result.prompt_tokens, "completion_tokens": result.completion_tokens,
        "total_tokens": result.prompt_tokens + result.completion_tokens,
        "completion_tokens_details": {"reasoning_tokens": result.reasoning_tokens},
    }  # fmt: skip
    if result.deepconf is not None:
        usage["deepconf"] = result.deepconf
    return usage


def chat_logprobs(tokens: Sequence[Told]) -> dict[str, Any]:
    """`logprobs` of a chat's choice: of the drawn tokens alone, and DeepConf's confidence in each, which stands for the
    likeliest ones (`engine/endpoint/streamed.py` reads it)."""
    return {
        "content": [
            {
                "token": one.text, "logprob": _number(one.logprob), "bytes": list(one.content), "top_logprobs": [],
                "confidence": -_number(-one.confidence),
            }
            for one in tokens
        ],
        "refusal": None,
    }  # fmt: skip


def completion_logprobs(tokens: Sequence[Told], at: int = 0) -> dict[str, Any]:
    """The same for a completion. at: characters of its tokens before these."""
    offsets = []
    for one in tokens:
        offsets.append(at)
        at += len(one.text)
    return {
        "tokens": [one.text for one in tokens], "token_logprobs": [_number(one.logprob) for one in tokens],
        "top_logprobs": None, "text_offset": offsets,
    }  # fmt: skip


def _number(value: float) -> float:
    """JSON has no infinity; OpenAI writes -9999 for what is very unlikely."""
    return value if math.isfinite(value) else -9999.0
