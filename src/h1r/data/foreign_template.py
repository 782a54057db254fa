"""Conversations as the chat template of somebody else's checkpoint writes them.

The template is asked for the whole conversation, and for its beginnings up to where a turn of the model starts: what
lies between is what the model is to write. Thinking stands in the text of a turn, in `<think>` tags, as a model writes
it; a template that leaves it, or any of the answer, out is refused, since the loss would not see it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from h1r.data.control_tokens import control_tokens
from h1r.errors import UserError
from h1r.records import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_OURS = "{#- the system prompt of the recipe -#}\n"
Tools = Sequence[dict[str, Any]] | None
MEND = "set chat.template to `h1r` to train with our own"


def with_system_prompt(template: str, system_prompt: str) -> str:
    """The template with a system turn for conversations that bring none; it takes the place of an earlier one."""
    if template.startswith(_OURS):
        template = template.removeprefix(_OURS).partition("\n")[2]
    turn = json.dumps({"role": "system", "content": system_prompt}, ensure_ascii=False)
    condition = "{%- if not messages or messages[0].role != 'system' %}"
    return f"{_OURS}{condition}{{%- set messages = [{turn}] + messages %}}{{%- endif -%}}\n{template}"


def prompt_text(tokenizer: PreTrainedTokenizerFast, messages: Sequence[Message], tools: Tools) -> str:
    """The conversation up to where the model begins to write. `UserError` where the template refuses it."""
    return _rendered(tokenizer, messages, tools, True)


def segments(
    tokenizer: PreTrainedTokenizerFast, messages: Sequence[Message], tools: Tools, loss: Sequence[int] | None = None
) -> list[tuple[str, bool]]:
    """(text, carries loss) in order, as `chat._segments`. The last turn is the assistant's.

    `UserError` where what the model is to write cannot be told from what it is given.
    """
    whole = _rendered(tokenizer, messages, tools, False)
    has_tools = any(message.role == "tool" for message in messages)
    last = len(messages) - 1
    found: list[tuple[str, bool]] = []
    at = 0
    for index, message in enumerate(messages):
        carries = loss[index - len(messages)] if loss else has_tools or index == last
        if message.role != "assistant" or not carries:
            continue
        before = _rendered(tokenizer, messages[:index], tools, True)
        after = whole if index == last else _rendered(tokenizer, messages[: index + 1], tools, False)
        if len(before) < at or not (whole.startswith(before) and whole.startswith(after)):
            raise UserError(
                f"the chat template writes the conversation up to turn {index + 1} otherwise once the turn is there; "
                f"what the model is to write cannot be told; {MEND}"
            )
        turn = after[len(before) :]
        for text in (message.thinking or "", message.content):
            if text.strip() not in turn:
                raise UserError(
                    f"the chat template leaves out text of turn {index + 1} ({text.strip()[:40]!r}); {MEND}"
                )
        end = len(before) + _end(tokenizer, turn)[1]
        found += [(whole[at : len(before)], False), (whole[len(before) : end], True)]
        at = end
    return [*found, (whole[at:], False)]


def end_of_turn(tokenizer: PreTrainedTokenizerFast) -> str:
    """The control token that the template ends a turn of the model with. `UserError` where that is none."""
    return _end(tokenizer, _after(tokenizer, [], False)[0])[0]


def reply_text(tokenizer: PreTrainedTokenizerFast, messages: Sequence[Message], closed: bool) -> str:
    """What follows a turn of the model, up to where it writes the next one; its end token first unless `closed`."""
    turn, rest = _after(tokenizer, messages, True)
    name, end = _end(tokenizer, turn)
    return ("" if closed else name) + turn[end:] + rest


def _after(tokenizer: PreTrainedTokenizerFast, messages: Sequence[Message], prompt: bool) -> tuple[str, str]:
    """A turn of the model as the template writes it, and what follows it."""
    asked = [Message("user", "a")]
    answered = [*asked, Message("assistant", "b")]
    before, turn = _rendered(tokenizer, asked, None, True), _rendered(tokenizer, answered, None, False)
    whole = _rendered(tokenizer, [*answered, *messages], None, prompt)
    if not (turn.startswith(before) and whole.startswith(turn)):
        raise UserError(f"the chat template writes earlier turns otherwise once others follow; {MEND}")
    return turn[len(before) :], whole[len(turn) :]


def _end(tokenizer: PreTrainedTokenizerFast, turn: str) -> tuple[str, int]:
    """The last control token of a turn, and where it ends."""
    found = [*control_tokens(tokenizer).markers.finditer(turn)]
    if not found:
        raise UserError(f"the chat template ends the model's turn with no special token of the vocabulary; {MEND}")
    return found[-1].group(), found[-1].end()


def _rendered(tokenizer: PreTrainedTokenizerFast, messages: Sequence[Message], tools: Tools, prompt: bool) -> str:
    from jinja2 import TemplateError

    turns = [{"role": message.role, "content": _content(message)} for message in messages]
    try:
        text = tokenizer.apply_chat_template(
            turns, tools=list(tools) if tools else None, add_generation_prompt=prompt, tokenize=False
        )
    except (TemplateError, TypeError, ValueError, KeyError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"the chat template refuses a conversation ({first}); {MEND}") from None
    assert isinstance(text, str)
    return text


def _content(message: Message) -> str:
    thinking = (message.thinking or "").strip()
    if message.role != "assistant" or not thinking:
        return message.content
    return f"<think>\n{thinking}\n</think>\n\n{message.content.strip()}"
