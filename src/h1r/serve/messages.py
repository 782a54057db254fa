"""OpenAI's messages as the project's, and tool calls in the text of a model as OpenAI's."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

from h1r.records import Message
from h1r.serve.errors import ApiError

_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
TOOL_CALL = "<tool_call>"
_END_OF_CALL = "</tool_call>"


def messages_of(found: Sequence[Any]) -> list[Message]:
    """The conversation of a request. `ApiError` for what is none."""
    return [_message(one, f"messages.{index}") for index, one in enumerate(found)]


def _message(found: Any, where: str) -> Message:
    if not isinstance(found, dict):
        raise ApiError(400, f"{where} is no object", where)
    role = found.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise ApiError(400, f"{where}.role is none of {', '.join(_ROLES)}", f"{where}.role")
    content = _text(found.get("content"), f"{where}.content")
    thinking = found.get("reasoning_content")
    if thinking is not None and not isinstance(thinking, str):
        raise ApiError(400, f"{where}.reasoning_content is no text", f"{where}.reasoning_content")
    if role == "assistant":
        content += "".join(_call_text(call, f"{where}.tool_calls") for call in _list(found, "tool_calls", where))
    checked(content, where)
    return Message(_ROLES[role], content, checked(thinking, where) if thinking else None)  # type: ignore[arg-type]


def _text(content: Any, where: str) -> str:
    """A text, or the texts of parts."""
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise ApiError(400, f"{where} is neither a text nor a list of parts", where)
    texts = []
    for part in content:
        text = part.get("text") if isinstance(part, dict) else None
        if not isinstance(text, str) or part.get("type") not in ("text", "input_text", "output_text"):
            raise ApiError(400, f"{where} has a part that is no text, and this model reads text alone", where)
        texts.append(text)
    return "".join(texts)


def checked(text: str, where: str) -> str:
    """The text, where it is one: half of a surrogate pair cannot be written as UTF-8."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ApiError(400, f"{where} holds half of a surrogate pair, which is no character", where) from None
    return text


def _list(found: dict[str, Any], key: str, where: str) -> list[Any]:
    value = found.get(key) or []
    if not isinstance(value, list):
        raise ApiError(400, f"{where}.{key} is no list", f"{where}.{key}")
    return value


def _call_text(call: Any, where: str) -> str:
    """A call as the chat template writes it."""
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise ApiError(400, f"{where} holds what is no call of a function", where)
    arguments = function.get("arguments", "{}")
    written = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return f'\n<tool_call>\n{{"name": {json.dumps(function["name"])}, "arguments": {written}}}\n</tool_call>'


def _between(text: str) -> Iterator[str]:
    """What stands between each mark of a call and the mark that ends it."""
    begin = text.find(TOOL_CALL)
    while begin >= 0 and (end := text.find(_END_OF_CALL, begin)) >= 0:
        yield text[begin + len(TOOL_CALL) : end]
        begin = text.find(TOOL_CALL, end)


def tool_calls_in(text: str) -> tuple[str, list[dict[str, Any]]]:
    """The text before the first call, and all calls in OpenAI's form. What cannot be read as a call stays text."""
    calls = []
    for written_call in _between(text):
        try:
            found = json.loads(written_call)
            name, arguments = found["name"], found.get("arguments", {})
        except (ValueError, KeyError, TypeError, RecursionError):
            return text, []
        if not isinstance(name, str):
            return text, []
        written = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        function = {"name": name, "arguments": written}
        calls.append({"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": function})
    return (text[: text.index(TOOL_CALL)].rstrip(), calls) if calls else (text, [])
