"""`/v1/responses`, as much of it as clients use for one answer: no stored state, no tools of the server's."""

from __future__ import annotations

import secrets
import time
from typing import Any

from h1r.serve.errors import ApiError
from h1r.serve.jobs import Choice, Delta, Event, Raw, Result
from h1r.serve.replies import usage_of
from h1r.serve.wanted import Body


def messages_from(found: dict[str, Any]) -> list[Any]:
    """`input` and `instructions` as the messages of a chat. `ApiError` for what has no place there."""
    given = found.get("input")
    if isinstance(given, str) and given:
        items: list[Any] = [{"role": "user", "content": given}]
    elif isinstance(given, list) and (left := [one for one in given if not _is_thinking(one)]):
        items = left
    else:
        raise ApiError(400, "input is neither a text nor a list of messages, or it is empty", "input")
    for item in items:
        if isinstance(item, dict) and item.get("type", "message") != "message":
            raise ApiError(400, "input holds an item that is no message", "input")
    for name in ("previous_response_id", "conversation", "background"):
        if found.get(name):
            raise ApiError(400, f"this server keeps no responses, so there is no {name}", name, "unsupported_parameter")
    instructions = found.get("instructions")
    if instructions is not None and not isinstance(instructions, str):
        raise ApiError(400, "instructions is no text", "instructions")
    return [*([{"role": "system", "content": instructions}] if instructions else []), *items]


def _is_thinking(item: Any) -> bool:
    """Of a reply that came back whole: thinking is no part of the next turn."""
    return isinstance(item, dict) and item.get("type") == "reasoning"


def refuse_unknown_of_response(found: dict[str, Any]) -> None:
    """`ApiError` for what an engine of our own cannot follow in a response; as `wanted.refuse_unknown`."""
    text = found.get("text")
    form = text.get("format") if isinstance(text, dict) else text
    if form is not None and not (isinstance(form, dict) and form.get("type") == "text"):
        raise ApiError(400, "a response here is plain text; leave text.format out", "text", "unsupported_parameter")
    if found.get("tools"):
        said = "a response here calls no tools; ask /v1/chat/completions, or leave them out"
        raise ApiError(400, said, "tools", "unsupported_parameter")


class ResponsesShape:
    """One request's replies, as `replies.ChatShape`."""

    alike = False
    """Each event has its number."""

    def __init__(self, body: Body) -> None:
        self._head = {
            "id": f"resp_{secrets.token_hex(16)}", "object": "response", "created_at": int(time.time()),
            "model": body.model, "instructions": body.instructions, "temperature": body.temperature,
            "top_p": body.top_p, "max_output_tokens": body.max_tokens, "parallel_tool_calls": False,
            "tool_choice": "none", "tools": [], "error": None, "incomplete_details": None, "metadata": {},
        }  # fmt: skip
        self._ids = {kind: f"{kind}_{secrets.token_hex(16)}" for kind in ("rs", "msg")}
        self._number = 0
        self._begun: dict[str, int] = {}
        """Of each kind of item, its place in the output."""
        self._text: dict[str, str] = {}
        self._created = False

    def whole(self, result: Result | Raw) -> dict[str, Any]:
        """The reply of a request that does not stream."""
        if isinstance(result, Raw):
            return result.data
        (choice,) = result.choices
        cut = choice.finish_reason == "length"
        found = {
            **self._head, "status": "incomplete" if cut else "completed", "output": self._output(choice),
            "usage": _usage(result), "seed": result.seed,
        }  # fmt: skip
        if cut:
            found["incomplete_details"] = {"reason": "max_output_tokens"}
        if result.traces is not None:
            found["deepconf"] = {"event": "result", "traces": result.traces}
        return found

    def chunks(self, event: Event) -> list[dict[str, Any]]:
        """What a stream sends at an event."""
        if isinstance(event, Raw):
            return [event.data]
        sent = []
        if not self._created:
            self._created = True
            sent = [self._event(f"response.{kind}", response=self._running()) for kind in ("created", "in_progress")]
        if isinstance(event, Delta):
            return sent + self._delta(event)
        if isinstance(event, Choice):
            return sent + self._done()
        if isinstance(event, Result):
            whole = self.whole(event)
            return [*sent, self._event(f"response.{whole['status']}", response=whole)]
        return [*sent, self._event("response.in_progress", response=self._running(), deepconf=event)]

    def _running(self) -> dict[str, Any]:
        return {**self._head, "status": "in_progress", "output": []}

    def _event(self, kind: str, **values: Any) -> dict[str, Any]:
        self._number += 1
        return {"type": kind, "sequence_number": self._number - 1, **values}

    def _delta(self, event: Delta) -> list[dict[str, Any]]:
        kind = "rs" if event.name == "reasoning_content" else "msg"
        sent = self._open(kind)
        self._text[kind] += event.text
        name = "response.reasoning_text.delta" if kind == "rs" else "response.output_text.delta"
        logprobs: dict[str, Any] = {} if kind == "rs" else {"logprobs": []}
        return [*sent, self._event(name, delta=event.text, **self._place(kind), **logprobs)]

    def _place(self, kind: str) -> dict[str, Any]:
        return {"item_id": self._ids[kind], "output_index": self._begun[kind], "content_index": 0}

    def _open(self, kind: str) -> list[dict[str, Any]]:
        """Begins an item, after the end of the one before."""
        if kind in self._begun:
            return []
        sent = self._close()
        self._begun[kind], self._text[kind] = len(self._begun), ""
        item = {**_item(kind, self._ids[kind], ""), "content": [], "status": "in_progress"}
        sent.append(self._event("response.output_item.added", output_index=self._begun[kind], item=item))
        if kind == "msg":
            sent.append(self._event("response.content_part.added", **self._place(kind), part=_part("")))
        return sent

    def _close(self) -> list[dict[str, Any]]:
        """Ends the item that was begun last, if there is one."""
        kind = next(reversed(self._begun), None)
        if kind is None:
            return []
        text, sent = self._text[kind], []
        if kind == "rs":
            sent.append(self._event("response.reasoning_text.done", text=text, **self._place(kind)))
        else:
            sent.append(self._event("response.output_text.done", text=text, logprobs=[], **self._place(kind)))
            sent.append(self._event("response.content_part.done", part=_part(text), **self._place(kind)))
        item = _item(kind, self._ids[kind], text)
        return [*sent, self._event("response.output_item.done", output_index=self._begun[kind], item=item)]

    def _done(self) -> list[dict[str, Any]]:
        return self._open("msg") + self._close()

    def _output(self, choice: Choice) -> list[dict[str, Any]]:
        thought = [_item("rs", self._ids["rs"], choice.thinking)] if choice.thinking else []
        said = _item("msg", self._ids["msg"], choice.answer)
        return [*thought, {**said, "status": "incomplete"} if choice.finish_reason == "length" else said]


def _item(kind: str, number: str, text: str) -> dict[str, Any]:
    if kind == "rs":
        content = [{"type": "reasoning_text", "text": text}]
        return {"id": number, "type": "reasoning", "summary": [], "content": content, "status": "completed"}
    return {"id": number, "type": "message", "role": "assistant", "status": "completed", "content": [_part(text)]}


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _usage(result: Result) -> dict[str, Any]:
    usage = usage_of(result)
    found: dict[str, Any] = {
        "input_tokens": usage["prompt_tokens"], "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": result.reasoning_tokens},
        "total_tokens": usage["total_tokens"],
    }  # fmt: skip
    return found if result.deepconf is None else {**found, "deepconf": result.deepconf}
