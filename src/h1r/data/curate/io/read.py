"""Rows of files and hub data as `Item`s: formats, the column mapping, chats, published pass rates, traces of a problem
in one row or in several.

A row becomes an item, or part of one, or is reported with the reason. Files are streamed but for `json`, which is one
array and is read whole. What a person got wrong in the recipe raises `UserError`.
"""

from __future__ import annotations

import glob
import itertools
import json
import os
import re
from collections.abc import Iterator
from typing import Any

from h1r.common import finish_reasons
from h1r.common.packaged import PREFIX, packaged
from h1r.common.prose import counted
from h1r.common.reading import NESTED, is_deep
from h1r.config import CorpusBenchmark, CorpusSource
from h1r.data.curate.io.chats import (
    Turn,
    conversation,
    shape_of,
    tool_schemas,
    turns,
    with_plain_thinking,
    with_thinking,
    without_nulls,
    without_parts,
)
from h1r.data.curate.io.columns import BadRowError, final_answer, measure, nearest, only_one, plain, reach, value_text
from h1r.data.curate.io.items import ROW_BITS, Given, Item
from h1r.data.curate.io.rows import rows_of
from h1r.errors import UserError
from h1r.records import BadLine, Message, Problem, content_id
from h1r.verify.controls.answers import NO_ANSWER

FIELDS = (
    "question", "answer", "id", "family", "category", "solution", "pass_rate", "prompt", "messages", "system",
    "completion", "reasoning", "reward", "finish_reason", "tools", "tests", "language",
)  # fmt: skip
ASKED = frozenset({"question", "prompt", "messages"})
"""Fields of which a row needs one."""

MAX_BAD = 100_000
"""Bad rows among the rows of one shard at which reading stops: then the mapping is wrong, not the rows."""


def files_of(section: CorpusBenchmark, root: str) -> list[str]:
    """The files a source's path stands for, sorted; a hub data set is one. `UserError` when there is none."""
    if section.kind == "hub":
        return [section.path]
    path = os.path.join(expand(root), expand(section.path))
    found = sorted(glob.glob(path)) if glob.has_magic(path) else [path] * os.path.isfile(path)
    if not found:
        raise UserError(f"corpus source `{section.name}`: no file {path}; check `path` and `corpus.root`")
    return found


def expand(path: str) -> str:
    """The path with environment variables and `~` put in; `h1r:NAME` is a file of the package's `recipes`.

    `UserError` names a variable that is not set.
    """
    if path.startswith(PREFIX):
        return str(packaged("recipes", path.removeprefix(PREFIX)))
    found = os.path.expanduser(os.path.expandvars(path))
    if missing := re.search(r"\$\{?(\w+)", found):
        raise UserError(f"`{path}` needs the environment variable {missing.group(1)}, which is not set; set it")
    return found


class Reader:
    """Reads one file of a source. Bad rows go to `bad`, in order, as they are met; those with a question of more than
    `max_question_chars` (0: none) among them."""

    def __init__(self, section: CorpusBenchmark, path: str, number: int, max_question_chars: int = 0) -> None:
        if unknown := sorted(set(section.columns) - set(FIELDS)):
            raise UserError(f"corpus source `{section.name}`: `columns` has no field `{unknown[0]}`; "
                            f"{nearest(unknown[0], FIELDS)}")  # fmt: skip
        if "messages" in section.columns and {"prompt", "completion"} & set(section.columns):
            raise UserError(
                f"corpus source `{section.name}`: `columns` names `messages`, which are whole conversations, and parts "
                "of one; leave out one or the other"
            )
        self._finds_shape = isinstance(section, CorpusSource) and not ASKED & set(section.columns)
        if not self._finds_shape and not ASKED & set(section.columns):
            section = section.model_copy(update={"columns": {"question": "question", **section.columns}})
        self.section = section
        self.path = path
        self.bad: list[BadLine] = []
        self._first = number << ROW_BITS
        self._max_chars = max_question_chars
        self._source = section if isinstance(section, CorpusSource) else None
        self._pattern = self._source and self._source.question_pattern
        if self._pattern:
            try:
                groups = re.compile(self._pattern).groups
            except re.error as error:
                raise UserError(
                    f"corpus source `{section.name}`: `question_pattern` does not compile: {error}"
                ) from None
            if groups < 1:
                raise UserError(f"corpus source `{section.name}`: `question_pattern` needs a group around the question")

    def items(self) -> Iterator[Item]:
        """The items of the file; a `group_by` source gives one for each run of rows with the same key."""
        if self._source and self._source.group_by:
            yield from self._grouped(self._source.group_by)
            return
        for number, row in self._rows():
            if (item := self._item(number, row)) is not None:
                yield item

    def _grouped(self, column: str) -> Iterator[Item]:
        for _, rows in itertools.groupby(self._rows(), lambda pair: json.dumps(_get(pair[1], column), default=str)):
            found = [item for number, row in rows if (item := self._item(number, row)) is not None]
            if found:
                found[0].traces = [trace for item in found for trace in item.traces]
                yield found[0]

    def _rows(self) -> Iterator[tuple[int, dict[str, Any]]]:
        for number, row in rows_of(self.section, self.path, self._finds_shape):
            if isinstance(row, BadLine):
                self.bad.append(row)
            else:
                yield number, row
            if len(self.bad) >= MAX_BAD:
                raise UserError(
                    f"{self.path}: {counted(len(self.bad), 'row')} up to row {number:,} cannot be read, the "
                    f"first since "
                    f"{self.bad[0].why}; mend `columns` or the file"
                )

    def _item(self, number: int, row: dict[str, Any]) -> Item | None:
        try:
            item = self._read(number, row)
            if is_deep(item.problem.metadata):  # which may have come out of text
                raise BadRowError(NESTED)
            return item
        except (BadRowError, RecursionError) as error:
            why = NESTED if isinstance(error, RecursionError) else str(error)
            self.bad.append(BadLine(self.path, number, why, json.dumps(row, default=str)[:2000]))
            return None

    def _read(self, number: int, row: dict[str, Any]) -> Item:
        section = self.section
        columns = {**shape_of(row), **section.columns} if self._finds_shape else section.columns
        values = {field: _number(reach(row, column)) for field, column in columns.items()}
        values |= {field: measure(values[field]) for field in ("pass_rate", "reward") if field in values}
        values |= {field: plain(values[field]) for field in ("pass_rate", "reward", "tests") if field in values}
        if "question" in values:
            values["question"] = without_parts(values["question"])
        if "answer" in values:
            values["answer"] = only_one(without_parts(values["answer"]))
        text = {field: value_text(values[field], columns[field]) for field in _TEXTS if field in values}
        prompt, answered = self._turns(values, text.get("system", ""))
        question = text.get("question") or _asked(prompt)
        if self._max_chars and len(question) > self._max_chars:
            raise BadRowError(f"a question of more than {self._max_chars:,} characters (`corpus.max_question_chars`)")
        if self._pattern:
            match = re.search(self._pattern, question)
            if match is None:
                raise BadRowError("the question does not match `question_pattern`")
            question = match.group(1)
            prompt = [Turn(Message("user", question))] if prompt else []
        question = self._stripped(question)
        if prompt and prompt[-1].message.role == "user" and not self._pattern:
            prompt[-1] = Turn(Message("user", self._stripped(prompt[-1].message.content)))
        answer = text.get("answer", "")
        if answer.strip().lower() in NO_ANSWER:
            answer = ""
        if answer.strip():
            answer = final_answer(answer, columns.get("solution") == columns["answer"])
        metadata: dict[str, Any] = {}
        if text.get("solution", "").strip():
            metadata["solution"] = text["solution"]
        if values.get("tests"):
            metadata["tests"] = values["tests"]
        language = text.get("language", "") or (self._source.language if self._source else None) or ""
        if language:
            metadata["language"] = language
        metadata |= _metadata(row, section.metadata)
        problem = Problem(
            id=f"{section.name}:{text['id']}" if text.get("id") else content_id(question),
            question=question,
            answer=answer,
            verifier=section.verifier,
            family=text.get("family") or section.name,
            category=text.get("category") or (self._source.domain if self._source else "held out"),
            source=section.name,
            metadata=metadata,
        )
        item = Item(self._first + number, problem, section.name, "", "sft")
        if self._source:
            item.domain, item.use, item.language = self._source.domain, self._source.use, language
            item.pass_rate, item.rollouts = self._pass_rate(values.get("pass_rate")), self._source.rollouts
            if values.get("tools") not in (None, "", "[]", []):
                metadata["tools"] = tool_schemas(values["tools"])
            if not prompt:
                prompt = [*_system(text.get("system", "")), Turn(Message("user", question))]
            item.traces = self._traces(prompt, answered, values)
        return item

    def _turns(self, values: dict[str, Any], system: str) -> tuple[list[Turn], list[Turn]]:
        """The turns before the answer, and the answer's where these are one conversation."""
        if "messages" in values:
            found = conversation([*_system(system), *turns(values["messages"], None)])
            if found[-1].message.role == "assistant":
                return found[:-1], found[-1:]
            if self._source and self._source.use == "sft":
                raise BadRowError(f"the conversation ends with a {found[-1].message.role} turn")
            return found, []
        if "prompt" not in values:
            return [], []
        return conversation([*_system(system), *turns(values["prompt"], "user")]), []

    def _stripped(self, question: str) -> str:
        question = question.strip()
        for instruction in self._source.strip if self._source else ():
            question = question.removesuffix(instruction.strip()).rstrip()
        return question

    def _pass_rate(self, value: Any) -> float | None:
        assert self._source is not None
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise BadRowError(f"pass rate {value!r} is no number")
        kind = self._source.pass_rate_as
        rate = value / 100 if kind.endswith("percent") else float(value)
        if not 0 <= rate <= 1:
            raise BadRowError(f"pass rate {value!r} is out of range for `pass_rate_as` = {kind}")
        return 1 - rate if kind.startswith("failed") else rate

    def _traces(self, prompt: list[Turn], answered: list[Turn], values: dict[str, Any]) -> list[Given]:
        """The traces of a row: none, one, or one for each entry of a list of completions."""
        completion, rewards, reasons = values.get("completion"), [values.get("reward")], [values.get("finish_reason")]
        if answered:
            if self._source and self._source.chain_of_thought == "plain":
                answered = [with_plain_thinking(turn) for turn in answered]
            return [_given(prompt, answered, rewards[0], reasons[0])]
        if completion is None:
            return []
        thoughts = [values.get("reasoning")]
        if isinstance(completion, list) and not (completion and isinstance(completion[0], dict)):
            rewards, reasons = (_for_each(values.get(name), name, completion) for name in ("reward", "finish_reason"))
            thoughts = _for_each(values.get("reasoning"), "reasoning", completion)
        else:
            completion = [completion]
        found = []
        for one, thought, reward, reason in zip(completion, thoughts, rewards, reasons, strict=True):
            said = turns(one, "assistant")
            if said[0].message.role != "assistant":
                raise BadRowError(
                    f"the completion begins with a {said[0].message.role} turn; name a whole conversation as `messages`"
                )
            last = with_thinking(said[-1], thought)
            if self._source and self._source.chain_of_thought == "plain":
                last = with_plain_thinking(last)
            found.append(_given(prompt, [*said[:-1], last], reward, reason))
        return found


def _for_each(value: Any, field: str, completions: list[Any]) -> list[Any]:
    """A value for each completion: a list of as many, or None for all."""
    if value is None:
        return [None] * len(completions)
    if not isinstance(value, list) or len(value) != len(completions):
        raise BadRowError(f"{len(completions)} completions need a list of as many in the column of `{field}`")
    return value


def _given(prompt: list[Turn], answer: list[Turn], reward: Any, finish_reason: Any) -> Given:
    found = conversation([*prompt, *answer])
    messages = [turn.message for turn in found]
    if messages[-1].role != "assistant":
        raise BadRowError("the completion does not end with an assistant turn")
    if reward is not None and not isinstance(reward, bool | int | float):
        raise BadRowError(f"reward {reward!r} is no number")
    reason = finish_reasons.finish_reason(value_text(finish_reason, "finish_reason"))
    if messages[-1].thinking is not None and not messages[-1].content:
        reason = "unclosed" if reason in ("", "stop") else reason
    weights = None
    if any(turn.weight is not None for turn in found):
        weights = [int(turn.message.role == "assistant" and turn.weight != 0) for turn in found]
    return Given(messages, None if reward is None else float(reward), reason, turn_weights=weights)


def _system(text: str) -> list[Turn]:
    return [Turn(Message("system", text))] if text.strip() else []


_TEXTS = ("question", "answer", "id", "family", "category", "solution", "language", "system")


def _number(value: Any) -> Any:
    """A column's value; a whole number as such, whatever other rows have. Lists and objects stay as they are: nulls and
    floats in tests mean what they say, and of chats and tools their own readers remove what Arrow filled in."""
    return value if isinstance(value, list | dict) else without_nulls(value)


def _metadata(row: dict[str, Any], columns: dict[str, str]) -> dict[str, Any]:
    """The values by the names that a verifier knows; those of optional columns may be missing."""
    found = {}
    for name, column in columns.items():
        try:
            found[name] = plain(_number(reach(row, column.removesuffix("?"))))
        except BadRowError:
            if not column.endswith("?"):
                raise
    return found


def _get(row: dict[str, Any], column: str) -> Any:
    try:
        return reach(row, column)
    except BadRowError:
        return None


def _asked(prompt: list[Turn]) -> str:
    """What the person of a conversation said: the text by which it is compared with others."""
    return "\n\n".join(turn.message.content for turn in prompt if turn.message.role == "user")
