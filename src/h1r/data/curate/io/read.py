"""Rows of files and hub data as `Item`s: formats, the column mapping, chats, published pass rates, traces of a problem
in one row or in several.

A row becomes an item, or part of one, or is reported with the reason. Files are streamed but for `json`, which is one
array and is read whole. What a person got wrong in the recipe raises `UserError`.
"""

from __future__ import annotations

import glob
import gzip
import itertools
import json
import os
import re
from collections.abc import Iterator
from typing import Any, TextIO

from h1r.config import CorpusBenchmark, CorpusSource
from h1r.data.curate.io.columns import BadRowError, final_answer, nearest, plain, prefixes, reach, value_text
from h1r.data.curate.io.items import ROW_BITS, Given, Item
from h1r.errors import UserError
from h1r.records import BadLine, Message, Problem, content_id
from h1r.verify.controls.answers import NO_ANSWER
from h1r.verify.response.extract import split_response

FIELDS = (
    "question", "answer", "id", "family", "category", "solution", "pass_rate", "prompt", "completion", "reward",
    "finish_reason", "tools", "tests", "language",
)  # fmt: skip
ROLES = ("system", "user", "assistant", "tool")

Row = tuple[int, dict[str, Any] | BadLine]
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
    """The path with environment variables and `~` put in; `UserError` names one that is not set."""
    found = os.path.expanduser(os.path.expandvars(path))
    if missing := re.search(r"\$\{?(\w+)", found):
        raise UserError(f"`{path}` needs the environment variable {missing.group(1)}, which is not set; set it")
    return found


class Reader:
    """Reads one file of a source. Bad rows go to `bad`, in order, as they are met."""

    def __init__(self, section: CorpusBenchmark, path: str, number: int) -> None:
        if unknown := sorted(set(section.columns) - set(FIELDS)):
            raise UserError(f"corpus source `{section.name}`: `columns` has no field `{unknown[0]}`; "
                            f"{nearest(unknown[0], FIELDS)}")  # fmt: skip
        if not {"question", "prompt"} & set(section.columns):
            section = section.model_copy(update={"columns": {"question": "question", **section.columns}})
        self.section = section
        self.path = path
        self.bad: list[BadLine] = []
        self._first = number << ROW_BITS
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
        seen: set[str] = set()
        for key, rows in itertools.groupby(self._rows(), lambda pair: json.dumps(_get(pair[1], column), default=str)):
            if key in seen:
                raise UserError(
                    f"{self.path}: rows with `{column}` = {key} stand in two places; sort the file by `{column}`"
                )
            seen.add(key)
            found = [item for number, row in rows if (item := self._item(number, row)) is not None]
            if found:
                found[0].traces = [trace for item in found for trace in item.traces]
                yield found[0]

    def _rows(self) -> Iterator[tuple[int, dict[str, Any]]]:
        reader = {"jsonl": _jsonl, "json": _json_array, "parquet": _parquet, "hub": _hub}[self.section.kind]
        for number, row in reader(self.section, self.path):
            if isinstance(row, BadLine):
                self.bad.append(row)
            else:
                yield number, row
            if len(self.bad) >= MAX_BAD:
                raise UserError(
                    f"{self.path}: {len(self.bad):,} rows up to row {number:,} cannot be read, the first since "
                    f"{self.bad[0].why}; mend `columns` or the file"
                )

    def _item(self, number: int, row: dict[str, Any]) -> Item | None:
        try:
            return self._read(number, row)
        except BadRowError as error:
            self.bad.append(BadLine(self.path, number, str(error), json.dumps(row, default=str)[:2000]))
            return None

    def _read(self, number: int, row: dict[str, Any]) -> Item:
        columns, section = self.section.columns, self.section
        values = {field: reach(row, column) for field, column in columns.items()}
        values |= {field: plain(values[field]) for field in ("pass_rate", "reward", "tests") if field in values}
        text = {field: value_text(values[field], columns[field]) for field in _TEXTS if field in values}
        prompt = _messages(values["prompt"], "user") if "prompt" in values else []
        question = text.get("question") or _asked(prompt)
        if self._pattern:
            match = re.search(self._pattern, question)
            if match is None:
                raise BadRowError("the question does not match `question_pattern`")
            question = match.group(1)
            prompt = [Message("user", question)] if prompt else []
        question = self._stripped(question)
        if prompt and prompt[-1].role == "user" and not self._pattern:
            prompt[-1] = Message("user", self._stripped(prompt[-1].content))
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
                metadata["tools"] = _tools(values["tools"])
            item.traces = self._traces(prompt or [Message("user", question)], values)
        return item

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

    def _traces(self, prompt: list[Message], values: dict[str, Any]) -> list[Given]:
        """The traces of a row: none, one, or one for each entry of a list of completions."""
        completion = values.get("completion")
        if completion is None:
            return []
        if isinstance(completion, list) and not (completion and isinstance(completion[0], dict)):
            rewards, reasons = (_for_each(values.get(name), name, completion) for name in ("reward", "finish_reason"))
        else:
            completion, rewards, reasons = [completion], [values.get("reward")], [values.get("finish_reason")]
        return [_given(prompt, *one) for one in zip(completion, rewards, reasons, strict=True)]


def _for_each(value: Any, field: str, completions: list[Any]) -> list[Any]:
    """A value for each completion: a list of as many, or None for all."""
    if value is None:
        return [None] * len(completions)
    if not isinstance(value, list) or len(value) != len(completions):
        raise BadRowError(f"{len(completions)} completions need a list of as many in the column of `{field}`")
    return value


def _given(prompt: list[Message], completion: Any, reward: Any, finish_reason: Any) -> Given:
    turns = [*prompt, *_messages(completion, "assistant")]
    if not turns or turns[-1].role != "assistant":
        raise BadRowError("the completion does not end with an assistant turn")
    if reward is not None and not isinstance(reward, bool | int | float):
        raise BadRowError(f"reward {reward!r} is no number")
    reason = value_text(finish_reason, "finish_reason")
    if turns[-1].thinking is not None and not turns[-1].content:
        reason = reason or "unclosed"
    return Given(turns, None if reward is None else float(reward), reason)


_TEXTS = ("question", "answer", "id", "family", "category", "solution", "language")


def _metadata(row: dict[str, Any], columns: dict[str, str]) -> dict[str, Any]:
    """The values by the names that a verifier knows; those of optional columns may be missing."""
    found = {}
    for name, column in columns.items():
        try:
            found[name] = plain(reach(row, column.removesuffix("?")))
        except BadRowError:
            if not column.endswith("?"):
                raise
    return found


def _get(row: dict[str, Any], column: str) -> Any:
    try:
        return reach(row, column)
    except BadRowError:
        return None


def _asked(prompt: list[Message]) -> str:
    """What the person of a conversation said: the text by which it is compared with others."""
    return "\n\n".join(message.content for message in prompt if message.role == "user")


def _messages(value: Any, role: str) -> list[Message]:
    """Chat turns of a column: text is one turn of `role`. Thinking in an assistant turn is taken apart."""
    if isinstance(value, str):
        value = [{"role": role, "content": value}]
    if not isinstance(value, list) or not all(isinstance(turn, dict) for turn in value):
        raise BadRowError("a prompt or completion is text or a list of turns")
    return [_message(turn) for turn in value]


def _message(turn: dict[str, Any]) -> Message:
    role, content = turn.get("role"), turn.get("content") or ""
    if role not in ROLES or not isinstance(content, str):
        raise BadRowError(f"a turn needs a role ({', '.join(ROLES)}) and text as its content")
    if role != "assistant":
        return Message(role, content)
    thinking = turn.get("thinking") or turn.get("reasoning_content")
    if not thinking and ("<think>" in content or "</think>" in content):
        response = split_response(content)
        thinking, content = response.thinking or "", response.answer or ""
    for call in turn.get("tool_calls") or []:
        content = f"{content}\n{_call(call)}".strip()
    return Message("assistant", content.strip(), None if thinking is None else str(thinking).strip())


def _call(call: Any) -> str:
    """A tool call as the chat template writes it."""
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise BadRowError("a tool call needs a function with a name")
    arguments = function.get("arguments") or {}
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return f'<tool_call>\n{{"name": {json.dumps(function["name"])}, "arguments": {text}}}\n</tool_call>'


def _tools(value: Any) -> Any:
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError:
        raise BadRowError("`tools` is no JSON") from None


def _open(path: str) -> TextIO:
    try:
        if path.endswith(".gz"):
            return gzip.open(path, "rt", encoding="utf-8", errors="replace")
        return open(path, encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}; check the path") from None


def _jsonl(section: CorpusBenchmark, path: str) -> Iterator[Row]:
    with _open(path) as handle:
        for number, text in enumerate(handle, 1):
            try:
                row = json.loads(text)
            except (ValueError, RecursionError) as error:
                yield number, BadLine(path, number, f"not JSON ({error})" if text.strip() else "empty", text[:2000])
                continue
            yield number, row if isinstance(row, dict) else BadLine(path, number, "not an object", text[:2000])


def _json_array(section: CorpusBenchmark, path: str) -> Iterator[Row]:
    with _open(path) as handle:
        try:
            rows = json.load(handle)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}: not JSON ({error}); is its `kind` jsonl?") from None
    if not isinstance(rows, list):
        raise UserError(f"{path}: not an array but {type(rows).__name__}; a `json` source is an array of objects")
    for number, row in enumerate(rows, 1):
        yield number, row if isinstance(row, dict) else BadLine(path, number, "not an object", str(row)[:2000])


def _parquet(section: CorpusBenchmark, path: str) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    wanted = [*section.columns.values(), *filter(None, [getattr(section, "group_by", None)])]
    wanted += [column.removesuffix("?") for column in section.metadata.values()]
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: not a Parquet file ({error}); check the path and `kind`") from None
    with file:
        names = file.schema_arrow.names
        roots = sorted({next((p for p in prefixes(c) if p in names), c.split(".")[0]) for c in wanted})
        if missing := [root for root in roots if root not in names]:
            raise UserError(f"{path}: no column `{missing[0]}`; {nearest(missing[0], names)} in `columns`")
        number = 0
        for batch in file.iter_batches(batch_size=512, columns=roots):
            for row in batch.to_pylist():
                number += 1
                yield number, row


def _hub(section: CorpusBenchmark, path: str) -> Iterator[Row]:
    try:
        import datasets
    except ImportError:
        raise UserError(
            f"corpus source `{section.name}`: the hub needs `datasets`; run `pip install open-h1r[hub]`"
        ) from None
    try:
        rows = datasets.load_dataset(path, section.subset, split=section.split, streaming=True)
    except Exception as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"cannot open hub data set {path} (subset {section.subset}, split {section.split}): {first}; check path, "
            f"subset, split and the network"
        ) from error
    yield from enumerate(rows, 1)
