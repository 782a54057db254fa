r"""The ChatML template of Falcon-H1R, and samples as token ids with the tokens that carry loss.

    <|im_start|>system\n{system prompt}<|im_end|>\n
    <|im_start|>user\n{question}<|im_end|>\n
    <|im_start|>assistant\n<think>\n{thinking}\n</think>\n\n{answer}<|im_end|>\n

The prompt ends after `<|im_start|>assistant\n`: the model writes `<think>` itself. Thinking of turns before the last
user turn is dropped and loss falls on the last turn; in a conversation with tool turns thinking stays and loss falls on
every assistant turn (arXiv 2601.02346, section 2). A tool's result is a user turn in `<tool_response>`.

Prompt and completion are tokenised apart, so that no merge crosses the border: what the trainer sees is what the engine
was given, followed by what it should have sampled. Text that looks like a marker stays text (`control_tokens.py`).

A tokenizer brings its checkpoint's template and, in it, the system prompt. Where the template is not the one below,
conversations are written by it (`foreign_template.py`). docs/guide/chat-templates-and-prompts.md tells the whole.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from h1r.data import foreign_template
from h1r.data.control_tokens import control_tokens, guard, token_ids
from h1r.errors import UserError
from h1r.records import Message, Sample

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

IM_START = "<|im_start|>"
IM_END = "<|im_end|>"
THINK_OPEN = "<think>"
THINK_CLOSE = "</think>"

SYSTEM_PROMPT = (
    "You are Falcon, a helpful AI assistant created by Technology Innovation Institute (TII). To answer the user's "
    "question, you first think about the reasoning process and then provide the user with the answer. The reasoning "
    "process is enclosed within <think> </think> tags, i.e., <think> reasoning process here </think> answer here."
)
"""Used in RL and in the paper's own evaluation (sections 3.4, 4.1)."""

_TOOLS_BEFORE = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>"
)
_TOOLS_AFTER = (
    "\n</tools>\n\nFor each function call, return a JSON object with the function's name and arguments within "
    "<tool_call></tool_call> XML tags:\n<tool_call>\n"
    '{"name": <function-name>, "arguments": <arguments-json-object>}\n</tool_call>'
)

CHAT_TEMPLATE = (
    r"""{%- set default_system = """
    + json.dumps(SYSTEM_PROMPT)
    + r""" %}
{%- if messages and messages[0].role == 'system' %}
    {%- set system = messages[0].content %}
    {%- set turns = messages[1:] %}
{%- else %}
    {%- set system = system_prompt if system_prompt is defined and system_prompt is not none else default_system %}
    {%- set turns = messages %}
{%- endif %}
{%- if tools %}
    {%- set ns_tools = namespace(text='') %}
    {%- for tool in tools %}
        {%- set ns_tools.text = ns_tools.text + '\n' + (tool | tojson) %}
    {%- endfor %}
    {%- set tool_text = """
    + json.dumps(_TOOLS_BEFORE)
    + r""" + ns_tools.text + """
    + json.dumps(_TOOLS_AFTER)
    + r""" %}
    {%- set system = system + '\n\n' + tool_text if system else tool_text %}
{%- endif %}
{%- if system %}
    {{- '<|im_start|>system\n' + system + '<|im_end|>\n' }}
{%- endif %}
{%- set ns = namespace(last_user=-1, has_tools=false) %}
{%- for message in turns %}
    {%- if message.role == 'user' %}{% set ns.last_user = loop.index0 %}{% endif %}
    {%- if message.role == 'tool' %}{% set ns.has_tools = true %}{% endif %}
{%- endfor %}
{%- for message in turns %}
    {%- if message.role == 'assistant' %}
        {%- set content = message.content if message.content else '' %}
        {%- set thinking = message.thinking or message.reasoning_content or '' %}
        {%- if not thinking and '</think>' in content %}
            {%- set thinking = content.split('</think>')[:-1] | join('</think>') %}
            {%- if '<think>' in thinking %}
                {%- set thinking = thinking.split('<think>')[1:] | join('<think>') %}
            {%- endif %}
            {%- set content = content.split('</think>')[-1] %}
        {%- endif %}
        {{- '<|im_start|>assistant\n' }}
        {%- if thinking.strip() and (ns.has_tools or loop.index0 > ns.last_user) %}
            {{- '<think>\n' + thinking.strip() + '\n</think>\n\n' }}
        {%- endif %}
        {{- content.strip() }}
        {%- for call in message.tool_calls or [] %}
            {%- set function = call.function if call.function else call %}
            {{- '\n' if content.strip() or not loop.first else '' }}
            {{- '<tool_call>\n{"name": ' + (function.name | tojson) + ', "arguments": ' }}
            {{- function.arguments if function.arguments is string else function.arguments | tojson }}
            {{- '}\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
    {%- elif message.role == 'tool' %}
        {%- if loop.first or turns[loop.index0 - 1].role != 'tool' %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\n<tool_response>\n' + message.content + '\n</tool_response>' }}
        {%- if loop.last or turns[loop.index0 + 1].role != 'tool' %}
            {{- '<|im_end|>\n' }}
        {%- endif %}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}"""
)
"""The same rules in jinja, for `tokenizer.apply_chat_template`; takes `tools`, and `system_prompt` as an option."""


def chat_template(system_prompt: str | None = None) -> str:
    """`CHAT_TEMPLATE` with the default system turn that `render` gives with this `system_prompt`: for the tokenizer of
    a model that was trained on such prompts."""
    default = SYSTEM_PROMPT if system_prompt is None else system_prompt
    return CHAT_TEMPLATE.replace(json.dumps(SYSTEM_PROMPT), json.dumps(default, ensure_ascii=False), 1)


@lru_cache(64)
def own_system_prompt(template: str) -> str | None:
    """The default system prompt of a jinja template that `chat_template` wrote, "" for none; None of another one."""
    before, after = CHAT_TEMPLATE.split(json.dumps(SYSTEM_PROMPT), 1)
    if not (template.startswith(before) and template.endswith(after)):
        return None
    try:
        found = json.loads(template[len(before) : -len(after)])
    except ValueError:
        return None
    return found if isinstance(found, str) else None


def is_foreign(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Whether the tokenizer has a chat template that is not ours."""
    template = getattr(tokenizer, "chat_template", None)
    return bool(template) and (not isinstance(template, str) or own_system_prompt(template) is None)


def end_of_turn(tokenizer: PreTrainedTokenizerFast) -> int:
    """The token that ends a turn of the model in the conversations that are written with this tokenizer.

    `UserError` where its template ends a turn with no single token of the vocabulary.
    """
    name = foreign_template.end_of_turn(tokenizer) if is_foreign(tokenizer) else IM_END
    _need_markers(tokenizer)
    found = tokenizer.convert_tokens_to_ids(name)
    assert isinstance(found, int)
    return found


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids and, of the same length, 1 for a token that is to be predicted with loss, else 0."""

    token_ids: list[int]
    loss_mask: list[int]


def render(
    messages: Sequence[Message], system_prompt: str | None = None, tools: Sequence[dict[str, Any]] | None = None
) -> str:
    """The conversation as text. A leading system message takes the place of `system_prompt` (None: the paper's, "":
    no system turn); `tools` are JSON schemas, listed in the system turn."""
    return "".join(text for text, _ in _segments(messages, system_prompt, tools))


def conversation_ids(
    tokenizer: PreTrainedTokenizerFast,
    messages: Sequence[Message],
    system_prompt: str | None = None,
    tools: Sequence[dict[str, Any]] | None = None,
) -> list[int]:
    """The prompt of any conversation, up to where the model begins to write, as token ids.

    A leading system message takes the place of `system_prompt`, and this that of the tokenizer's own template (None:
    none given). "" asks our template for no system turn; another one then writes what it writes without. Raises
    `UserError` for a tokenizer without the template's markers, and for a conversation that its template refuses.
    """
    messages, system_prompt, tools = _guarded(tokenizer, messages, system_prompt, tools)
    if is_foreign(tokenizer):
        text = foreign_template.prompt_text(tokenizer, messages, tools)
    else:
        text = render(messages, system_prompt, tools) + f"{IM_START}assistant\n"
    return token_ids(tokenizer, [text])[0]


def open_thinking(tokenizer: PreTrainedTokenizerFast, prompt: Sequence[int]) -> str:
    """What the end of a prompt begins of the model's thinking: `<think>` and the blanks after it where the tokenizer's
    template opens it, else "". A trace's text is read with it in front: without, one that ends while it thinks would
    be an answer."""
    if not is_foreign(tokenizer):
        return ""
    end = str(tokenizer.decode(list(prompt[-16:]), skip_special_tokens=False))
    return end[end.rfind(THINK_OPEN) :] if end.rstrip().endswith(THINK_OPEN) else ""


def reply_ids(tokenizer: PreTrainedTokenizerFast, messages: Sequence[Message], closed: bool) -> list[int]:
    """What follows a turn that the model has written, up to where it writes the next one: replies by a user or a tool.

    closed: whether the model's turn ended with its own end token (`end_of_turn`). Earlier turns stay as they are,
    thinking included.
    """
    messages, _, _ = _guarded(tokenizer, messages, "", None)
    if is_foreign(tokenizer):
        text = foreign_template.reply_text(tokenizer, messages, closed)
    else:
        text = ("" if closed else IM_END) + "\n" + render(messages, "") + f"{IM_START}assistant\n"
    return token_ids(tokenizer, [text])[0]


def prompt_ids(tokenizer: PreTrainedTokenizerFast, question: str, system_prompt: str | None = None) -> list[int]:
    """The prompt of a one-question conversation as token ids. See `conversation_ids`."""
    return conversation_ids(tokenizer, [Message("user", question)], system_prompt)


def encode_sample(tokenizer: PreTrainedTokenizerFast, sample: Sample, system_prompt: str | None = None) -> Encoded:
    """One sample as ids and loss mask. See `encode_samples`."""
    return encode_samples(tokenizer, [sample], system_prompt)[0]


def encode_samples(
    tokenizer: PreTrainedTokenizerFast, samples: Iterable[Sample], system_prompt: str | None = None
) -> list[Encoded]:
    r"""Samples as ids and loss masks, in one batched call of the tokenizer.

    Loss falls on the last assistant turn, with tool turns on each: its text and its `<|im_end|>`, not its header. The
    ids end with the last `<|im_end|>`, where generation ends. `sample.metadata["tools"]` are its tool schemas, and
    `["loss_turns"]`, where given, has 1 for each message that carries loss, else 0; the ids end with the last of these.
    `system_prompt` as in `conversation_ids`, which says what raises, besides a sample without a final assistant turn.
    """
    segments: list[list[tuple[str, bool]]] = []
    foreign = is_foreign(tokenizer)
    for sample in samples:
        if not sample.messages or sample.messages[-1].role != "assistant":
            raise UserError(f"sample `{sample.problem_id}` does not end with an assistant turn; add one or drop it")
        parts = _guarded(tokenizer, sample.messages, system_prompt, sample.metadata.get("tools"))
        loss = sample.metadata.get("loss_turns")
        if foreign:
            pieces = _merged(foreign_template.segments(tokenizer, parts[0], parts[2], loss))
        else:
            pieces = _merged(_segments(*parts, loss))
        if not pieces[-1][1]:
            pieces.pop()  # what follows the last turn: nobody samples it
        segments.append(pieces)
    ids = iter(token_ids(tokenizer, [text for pieces in segments for text, _ in pieces]))
    encoded = []
    for pieces in segments:
        ids_of_sample: list[int] = []
        loss_mask: list[int] = []
        for (_, has_loss), piece_ids in zip(pieces, ids, strict=False):
            ids_of_sample += piece_ids
            loss_mask += [int(has_loss)] * len(piece_ids)
        encoded.append(Encoded(ids_of_sample, loss_mask))
    return encoded


def _guarded(
    tokenizer: PreTrainedTokenizerFast,
    messages: Sequence[Message],
    system_prompt: str | None,
    tools: Sequence[dict[str, Any]] | None,
) -> tuple[list[Message], str | None, Sequence[dict[str, Any]] | None]:
    """The parts of a conversation with their text guarded, as the tokenizer's template is to write them."""
    _need_markers(tokenizer)
    messages = list(messages)
    leading = bool(messages) and messages[0].role == "system"
    if is_foreign(tokenizer):
        if system_prompt and not leading:
            messages.insert(0, Message("system", system_prompt))
    elif system_prompt is None and not leading and (template := getattr(tokenizer, "chat_template", None)):
        system_prompt = own_system_prompt(template)
    guarded = [
        dataclasses.replace(one, content=guard(tokenizer, one.content), thinking=guard(tokenizer, one.thinking))
        for one in messages
    ]
    return guarded, guard(tokenizer, system_prompt), guard(tokenizer, tools)


def _need_markers(tokenizer: PreTrainedTokenizerFast) -> None:
    """`UserError` for a vocabulary in which our template's markers would fall into pieces."""
    if not hasattr(type(tokenizer), "added_tokens_decoder") or is_foreign(tokenizer):
        return
    if missing := [name for name in (IM_START, IM_END) if name not in control_tokens(tokenizer).ids]:
        raise UserError(
            f"the tokenizer has no special token {missing[0]}, which the chat template is written with; `h1r curate` "
            "adds it to the tokenizer of a run, and `h1r sft` to the model, or give a tokenizer that has it"
        )


def _merged(segments: Iterable[tuple[str, bool]]) -> list[tuple[str, bool]]:
    """Neighbours of the same kind as one text, as the engine would tokenise them."""
    merged: list[tuple[str, bool]] = []
    for text, has_loss in segments:
        if merged and merged[-1][1] == has_loss:
            merged[-1] = (merged[-1][0] + text, has_loss)
        else:
            merged.append((text, has_loss))
    return merged


def _segments(
    messages: Sequence[Message],
    system_prompt: str | None,
    tools: Sequence[dict[str, Any]] | None,
    loss: Sequence[int] | None = None,
) -> list[tuple[str, bool]]:
    """(text, carries loss) in order; the texts joined are the rendered conversation. loss: of the messages from the
    last one backwards; a leading system message may have none."""
    system = SYSTEM_PROMPT if system_prompt is None else system_prompt
    if messages and messages[0].role == "system":
        system, messages = messages[0].content, messages[1:]
    if tools:
        listed = "".join("\n" + json.dumps(tool, ensure_ascii=False) for tool in tools)
        system = "\n\n".join(filter(None, (system, _TOOLS_BEFORE + listed + _TOOLS_AFTER)))
    segments = [(f"{IM_START}system\n{system}{IM_END}\n", False)] if system else []
    roles = [message.role for message in messages]
    last_user = max((index for index, role in enumerate(roles) if role == "user"), default=-1)
    has_tools = "tool" in roles
    for index, message in enumerate(messages):
        if message.role == "assistant":
            body = _assistant_text(message, keep_thinking=has_tools or index > last_user)
            segments.append((f"{IM_START}assistant\n", False))
            from_end = index - len(messages)
            segments.append((body + IM_END, bool(loss[from_end]) if loss else has_tools or from_end == -1))
            segments.append(("\n", False))
        elif message.role == "tool":
            opening = "" if index and roles[index - 1] == "tool" else f"{IM_START}user"
            closing = "" if roles[index + 1 : index + 2] == ["tool"] else f"{IM_END}\n"
            segments.append((f"{opening}\n<tool_response>\n{message.content}\n</tool_response>{closing}", False))
        else:
            segments.append((f"{IM_START}{message.role}\n{message.content}{IM_END}\n", False))
    return segments


def _assistant_text(message: Message, keep_thinking: bool) -> str:
    """The turn's text. Thinking that stands in the content, as a model wrote it, is found there."""
    thinking, content = message.thinking or "", message.content
    if not thinking and THINK_CLOSE in content:
        before, _, content = content.rpartition(THINK_CLOSE)
        thinking = before.partition(THINK_OPEN)[2] if THINK_OPEN in before else before
    block = f"{THINK_OPEN}\n{thinking.strip()}\n{THINK_CLOSE}\n\n" if keep_thinking and thinking.strip() else ""
    return block + content.strip()
