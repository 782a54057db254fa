"""Chats as data sets have them, as turns: roles, content, thinking and tool calls by whichever names they go.

    turns(value, role)       a column's conversation: a list of turns, each an object or JSON text; all of it as JSON
                             text; an object of lists (`datasets.Sequence`); or one text, a turn of `role`
    shape_of(row)            which columns of a row hold what, where the recipe names none

What fits no shape raises `BadRowError` with the reason: a row is set aside, never read as something else. Every shape
is in docs/guide/data-formats.md.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from h1r.data.curate.io.columns import BadRowError
from h1r.records import Message
from h1r.response.extract import THINK_CLOSE, THINK_OPEN, split_response

ROLES = {
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "model", "bot", "chatgpt"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("tool", "function", "ipython", "observation", "function_response"), "tool"),
    "function_call": "assistant",
}
"""A data set's name of a role, in lower case -> ours."""
CONTENT = ("content", "value", "text")
THINKING = ("thinking", "reasoning_content", "reasoning", "thought")
WEIGHT = ("weight", "train", "loss")
"""Keys of a turn."""
_THOUGHT = ("<|begin_of_thought|>", "<|end_of_thought|>", "<|begin_of_solution|>", "<|end_of_solution|>")
_SCHEMA_ORDER = {name: place for place, name in enumerate(
    ("type", "function", "name", "description", "parameters", "properties", "required"))}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Turn:
    """A message, and 1 or 0 where the data set says whether it carries loss."""

    message: Message
    weight: int | None = None


CHAT_COLUMNS = ("messages", "conversations", "conversation", "dialog")
_QUESTIONS = ("question", "problem", "prompt", "instruction")
_TRACES = (
    ("deepseek_thinking_trajectory", "deepseek_attempt"),  # s1K-1.1
    ("thinking_trajectories", "attempt"),  # s1K
    ("deepseek_reasoning", "deepseek_solution"),  # OpenThoughts with its metadata
    ("gemini_thinking_trajectory", "gemini_attempt"),
    ("reasoning_content", "completion"), ("reasoning", "completion"), ("thinking", "completion"),
    ("reasoning_content", "response"), ("reasoning", "response"), ("thinking", "response"),
    (None, "completion"), (None, "response"),
)  # fmt: skip
"""Columns of (thinking, answer), the first that a row has."""
SHAPE_COLUMNS = tuple(
    dict.fromkeys(
        [*CHAT_COLUMNS, *_QUESTIONS, *(name for pair in _TRACES for name in pair if name),
         "tools", "system", "input", "output"]
    )
)  # fmt: skip
"""What `shape_of` looks at."""


def shape_of(row: Mapping[str, Any]) -> dict[str, str]:
    """Our field -> column of a row whose recipe names neither question nor chat. `BadRowError` when it has neither.

    A whole chat comes before a question with its trace, and that before a question alone.
    """
    has = {name for name in SHAPE_COLUMNS if row.get(name) not in (None, "", [], {})}
    shape: dict[str, str] = {name: name for name in ("tools", "system") if name in has}
    chats = [name for name in CHAT_COLUMNS if name in has]
    if len(chats) > 1:
        raise BadRowError(f"two chats, `{chats[0]}` and `{chats[1]}`; name one as `messages` in `columns`")
    if chats:
        return {"messages": chats[0], **shape}
    asked = next((name for name in _QUESTIONS if name in has), None)
    if asked is None:
        raise BadRowError("no column `question`, and none of a known chat; name them in `columns`")
    for thinking, answer in _TRACES:
        if answer in has and (thinking is None or thinking in has):
            given = {"reasoning": thinking, "completion": answer} if thinking else {"completion": answer}
            return {"prompt": asked, **given, **shape}
    if asked == "instruction" and {"input", "output"} & has:  # Alpaca
        if "input" in has:
            raise BadRowError("an `instruction` with an `input`; join both in one column and name it as `question`")
        return {"prompt": asked, "completion": "output", **shape}
    return {"question": asked, **shape}


def turns(value: Any, role: str | None) -> list[Turn]:
    """The turns of a column (module docstring). role: of a plain text; None: a text is no conversation."""
    plain = role is not None and isinstance(value, str) and not value.lstrip().startswith("[")
    found = None if plain else _listed(value)
    if found is None:
        if not isinstance(value, str) or role is None:
            raise BadRowError(f"a conversation is a list of turns, not {type(value).__name__}")
        found = [{"role": role, "content": value}]
    if not found:
        raise BadRowError("a conversation without turns")
    return [turn for one in found for turn in _turn(one)]


def conversation(found: Sequence[Turn]) -> list[Turn]:
    """Turns as a conversation: system turns at the start as one, and every turn where its role may stand.
    `BadRowError` where one may not."""
    start = 0
    while start < len(found) and found[start].message.role == "system":
        start += 1
    said = [turn.message.content for turn in found[:start]]
    head = [Turn(Message("system", "\n\n".join(said)))] if said else []
    before = ""
    for place, turn in enumerate(found[start:], start):
        message = turn.message
        if message.role == "system":
            raise BadRowError("a system turn after the start")
        if message.role == before == "assistant":
            raise BadRowError("two assistant turns in a row; is a column mapped twice?")
        if message.role == "assistant" and not before:
            raise BadRowError("the conversation begins with an assistant turn")
        if message.role == "tool" and before not in ("assistant", "tool"):
            raise BadRowError("a tool turn that answers no call")
        last = place == len(found) - 1
        if not (message.content.strip() or (message.thinking or "").strip()) and not last:
            raise BadRowError(f"the {message.role} turn number {place + 1} is empty")
        before = message.role
    return [*head, *found[start:]]


def with_thinking(turn: Turn, thinking: Any) -> Turn:
    """An assistant turn with thinking from a column of its own: text, or a list of one (s1K)."""
    if isinstance(thinking, list) and len(thinking) == 1:
        thinking = thinking[0]
    if thinking is None:
        return turn
    if not isinstance(thinking, str):
        raise BadRowError(f"thinking is {type(thinking).__name__}, not text")
    message = turn.message
    return Turn(_assistant(message.content, [text for text in (message.thinking, thinking) if text]), turn.weight)


def with_plain_thinking(turn: Turn) -> Turn:
    """An assistant turn whose text is a chain of thought without tags: the last paragraph is the answer, or, in one
    paragraph, the last line; what stands before it is thinking. A turn with thinking stays as it is."""
    message = turn.message
    if message.thinking is not None:
        return turn
    for border in ("\n\n", "\n"):
        thinking, found, answer = message.content.strip().rpartition(border)
        if found:
            return Turn(Message("assistant", answer.strip(), thinking.strip()), turn.weight)
    return turn


def without_parts(value: Any) -> Any:
    """The text of content parts; another value as it is."""
    is_parts = isinstance(value, list) and value and all(isinstance(one, dict) and "type" in one for one in value)
    return _content(value)[0] if is_parts else value


def without_nulls(value: Any) -> Any:
    """A value without the nulls that Arrow fills objects with, where other rows have a key; and whole numbers as such,
    whatever other rows have."""
    if isinstance(value, dict):
        return {key: without_nulls(one) for key, one in value.items() if one is not None}
    if isinstance(value, list):
        return [without_nulls(one) for one in value]
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value


def tool_schemas(value: Any) -> Any:
    """Tool schemas from a column: a list of objects, or JSON text, of the list or of each. Objects have their keys in
    one order, which Parquet does not keep."""
    found = _json(value, "`tools`") if isinstance(value, str) else _ordered(without_nulls(value))
    if not isinstance(found, list):
        raise BadRowError("`tools` is no list")
    return [_json(one, "a tool") if isinstance(one, str) else one for one in found]


def _listed(value: Any) -> list[Any] | None:
    """A list of turns, as it may be packed; None for what is none."""
    if isinstance(value, str):
        if not value.lstrip().startswith(("[", "{")):
            return None
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            if '"role"' in value[:400] or '"from"' in value[:400]:
                raise BadRowError("turns as JSON text, cut off or broken") from None
            return None
        return _listed(value) if not isinstance(value, str) else None
    if isinstance(value, dict):
        if nested := next((value[name] for name in CHAT_COLUMNS if name in value), None):
            return _listed(nested)
        if not {"role", "from"} & set(value):
            return None
        if isinstance(value.get("role", value.get("from")), list):
            return _by_rows(value)
        return [value]
    if not isinstance(value, list):
        return None
    rows = [_row(one) for one in value]
    return None if any(row is None for row in rows) else rows


def _row(value: Any) -> dict[str, Any] | None:
    """A turn as an object, from JSON text too."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    return value if isinstance(value, dict) and {"role", "from"} & set(value) else None


def _by_rows(value: dict[str, Any]) -> list[dict[str, Any]]:
    columns = {key: one for key, one in value.items() if one is not None}
    sizes = {len(one) if isinstance(one, list) else -1 for one in columns.values()}
    if len(sizes) != 1 or -1 in sizes:
        raise BadRowError("an object of lists of other lengths is no conversation")
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _turn(given: dict[str, Any]) -> list[Turn]:
    turn = without_nulls(given)
    name = turn.get("role", turn.get("from"))
    role = ROLES.get(str(name).lower())
    if role is None:
        raise BadRowError(f"a turn of the role {str(name)[:40]!r}; known are {', '.join(ROLES)}")
    values = [turn[key] for key in CONTENT if key in turn]
    if len(values) > 1 and any(one != values[0] for one in values):
        raise BadRowError("a turn with two contents")
    calls = turn.get("tool_calls") or []
    calls = _json(calls, "`tool_calls`") if isinstance(calls, str) else calls
    calls = [calls] if isinstance(calls, dict) else calls
    if not isinstance(calls, list):
        raise BadRowError("`tool_calls` is no list")
    calls = list(calls)
    if turn.get("function_call"):
        calls.append(turn["function_call"])
    if name == "function_call":
        calls, values = [*calls, *values], []
    content, inside = _content(values[0]) if values else ("", [])
    weight = _weight(turn)
    if role != "assistant":
        if calls:
            raise BadRowError(f"tool calls in a turn of the role {role}")
        if not values:
            raise BadRowError(f"a {role} turn without content")
        return [Turn(Message(role, content), weight)]  # type: ignore[arg-type]
    thinking = [turn[key] for key in THINKING if turn.get(key)] + inside
    message = _assistant(content, thinking)
    for call in calls:
        message.content = f"{message.content}\n{_call(call)}".strip()
    return [Turn(message, weight)]


def _assistant(content: str, thinking: Sequence[Any]) -> Message:
    """An assistant turn. Thinking in the content is taken apart, that of OpenThoughts, too."""
    if not all(isinstance(one, str) for one in thinking):
        raise BadRowError("thinking is no text")
    if any(mark in content for mark in _THOUGHT):
        for mark, tag in zip(_THOUGHT, (THINK_OPEN, THINK_CLOSE, "", ""), strict=True):
            content = content.replace(mark, tag, 1)
    found = list(thinking)
    if THINK_OPEN in content or THINK_CLOSE in content:
        response = split_response(content)
        found.append(response.thinking or "")
        content = response.answer or ""
    if len({one.strip() for one in found}) > 1:
        raise BadRowError("thinking in two places that differ")
    return Message("assistant", content.strip(), found[0].strip() if found else None)


def _content(value: Any) -> tuple[str, list[str]]:
    """The text of a turn's content, and the thinking among its parts."""
    if isinstance(value, str):
        return value, []
    text, thinking = [], []
    for part in value if isinstance(value, list) else [value]:
        if isinstance(part, str):
            text.append(part)
            continue
        kind = part.get("type", "text") if isinstance(part, dict) else type(part).__name__
        if kind in ("thinking", "reasoning"):
            thinking.append(part.get(kind, part.get("text", "")))
        elif kind in ("text", "input_text", "output_text") and isinstance(part.get("text"), str):
            text.append(part["text"])
        else:
            raise BadRowError(f"a part of the type {str(kind)[:40]!r} in a turn; only text is read")
    return "".join(text), ["".join(map(str, thinking))] if thinking else []


def _weight(turn: dict[str, Any]) -> int | None:
    given = next((turn[key] for key in WEIGHT if key in turn), None)
    if given is not None and given not in (0, 1):
        raise BadRowError(f"the weight {given!r} of a turn is neither 0 nor 1")
    return None if given is None else int(given)


def _call(call: Any) -> str:
    """A tool call as the chat template writes it."""
    call = _json(call, "a tool call") if isinstance(call, str) else call
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise BadRowError("a tool call needs a function with a name")
    arguments = function.get("arguments") or {}
    arguments = _json(arguments, "a tool call's arguments") if isinstance(arguments, str) else _ordered(arguments)
    if not isinstance(arguments, dict):
        raise BadRowError("a tool call's arguments are no object")
    try:
        text = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
    except ValueError:
        raise BadRowError("a tool call's arguments hold NaN or Infinity, which JSON has not") from None
    return f'<tool_call>\n{{"name": {json.dumps(function["name"])}, "arguments": {text}}}\n</tool_call>'


def _json(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise BadRowError(f"{what}: no JSON, cut off or broken") from None


def _ordered(value: Any) -> Any:
    """Keys in the order in which schemas are written, others by name."""
    if isinstance(value, dict):
        keys = sorted(value, key=lambda key: (_SCHEMA_ORDER.get(key, len(_SCHEMA_ORDER)), key))
        return {key: _ordered(value[key]) for key in keys}
    return [_ordered(one) for one in value] if isinstance(value, list) else value
