"""Problems from JSONL, Parquet and hub data: rows are streamed, and the recipe's `columns` name what is what.

Every row either becomes a problem or is recorded as a `BadLine` with the reason; none is skipped silently. A missing
file, a missing column (of data with a schema) or a file without one usable row raises `UserError`.
"""

from __future__ import annotations

import contextlib
import difflib
import itertools
import json
import random
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from h1r.config import FileSource
from h1r.errors import UserError
from h1r.records import BadLine, Problem, content_id, read_lines

SHUFFLE_BUFFER = 4096
"""Rows of a file held for shuffling: a file in order of difficulty must not put all hard problems into one set."""

FIELDS = ("question", "answer", "id", "family", "category", "solution")


class FileStream:
    """Rows of a file or data set, shuffled within a window of `SHUFFLE_BUFFER` rows."""

    def __init__(self, section: FileSource, seed: int, bad: list[BadLine]) -> None:
        unknown = sorted(set(section.columns) - set(FIELDS))
        if unknown:
            raise UserError(f"problems.sources: `columns` has no field `{unknown[0]}`; {nearest(unknown[0], FIELDS)}")
        self.name = section.path
        self._section = section
        self._seed = seed
        self._bad = bad
        self._columns = {"question": "question", "answer": "answer", **section.columns}

    def problems(self) -> Iterator[Problem]:
        return _shuffled(self._in_order(), self._seed)

    def _in_order(self) -> Iterator[Problem]:
        rows = {"jsonl": _jsonl_rows, "parquet": _parquet_rows, "hub": _hub_rows}[self._section.kind]
        usable = 0
        for number, row, text in rows(self._section, tuple(self._columns.values()), self._bad):
            try:
                problem = self._problem(row)
            except BadRowError as error:
                self._bad.append(BadLine(self.name, number, str(error), text()[:2000]))
                continue
            usable += 1
            yield problem
        if not usable:
            set_aside = [line for line in self._bad if line.path == self.name]
            first = f" (line {set_aside[0].line}: {set_aside[0].why})" if set_aside else ""
            raise UserError(f"{self.name}: no usable line{first}; check the file and `columns`")

    def _problem(self, row: dict[str, Any]) -> Problem:
        values = {field: value_text(reach(row, column), column) for field, column in self._columns.items()}
        for field in ("question", "answer"):
            if not values[field].strip():
                raise BadRowError(f"column `{self._columns[field]}` is empty")
        answer = final_answer(values["answer"], self._columns.get("solution") == self._columns["answer"])
        if not answer:
            raise BadRowError(f"column `{self._columns['answer']}` has no final answer")
        return Problem(
            id=values.get("id") or content_id(values["question"]),
            question=values["question"],
            answer=answer,
            verifier=self._section.verifier,
            family=values.get("family") or self._section.family,
            category=values.get("category") or self._section.category,
            source=self.name,
            metadata={"solution": values["solution"]} if values.get("solution", "").strip() else {},
        )


class BadRowError(Exception):
    """One row cannot be used; the text says why."""


Row = tuple[int, dict[str, Any], Callable[[], str]]
"""Number from 1, the row, and its text for the record of bad lines."""


def _jsonl_rows(section: FileSource, columns: tuple[str, ...], bad: list[BadLine]) -> Iterator[Row]:
    for number, text in read_lines(section.path):
        try:
            row = json.loads(text) if text.strip() else None
        except (json.JSONDecodeError, RecursionError) as error:
            bad.append(BadLine(section.path, number, f"not JSON ({error})", text[:2000]))
            continue
        if not isinstance(row, dict):
            why = f"not an object but {type(row).__name__}" if text.strip() else "empty"
            bad.append(BadLine(section.path, number, why, text[:2000]))
            continue
        yield number, row, lambda text=text: text  # type: ignore[misc]


def _parquet_rows(section: FileSource, columns: tuple[str, ...], bad: list[BadLine]) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not Path(section.path).is_file():
        raise UserError(f"cannot read {section.path}: no such file; check the path")
    try:
        file = pq.ParquetFile(section.path)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{section.path}: not a Parquet file ({error}); check the path and `kind`") from None
    with file:
        for column in columns:
            kind: Any = pa.struct(list(file.schema_arrow))
            for part in column.split("."):
                if not pa.types.is_struct(kind) or kind.get_field_index(part) < 0:
                    raise _missing(section, column, file.schema_arrow.names)
                kind = kind.field(part).type
        number = 0
        for batch in file.iter_batches(batch_size=1024, columns=sorted({column.split(".")[0] for column in columns})):
            for row in batch.to_pylist():
                number += 1
                yield number, row, lambda row=row: json.dumps(row, default=str)  # type: ignore[misc]


def _hub_rows(section: FileSource, columns: tuple[str, ...], bad: list[BadLine]) -> Iterator[Row]:
    try:
        import datasets
    except ImportError:
        raise UserError(
            f"problems.sources: reading {section.path} from the hub needs `datasets`; run `pip install open-h1r[hub]`"
        ) from None
    try:
        rows = datasets.load_dataset(section.path, section.subset, split=section.split, streaming=True)
    except Exception as error:
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"cannot open hub data set {section.path} (subset {section.subset}, split {section.split}): {first_line}; "
            f"check path, subset, split and the network"
        ) from error
    for number, row in enumerate(rows, 1):
        if number == 1:
            for column in columns:
                try:
                    reach(row, column)
                except BadRowError:
                    raise _missing(section, column, list(row)) from None
        yield number, row, lambda row=row: json.dumps(row, default=str)  # type: ignore[misc]


def _missing(section: FileSource, column: str, known: list[str]) -> UserError:
    return UserError(f"{section.path}: no column `{column}`; {nearest(column, known)} in `columns`")


def reach(row: Any, column: str) -> Any:
    """The value that a dotted column name leads to: keys of objects, and numbers (from 0, or from the end) of lists.

    Text on the way is read as JSON.
    """
    for part in column.split("."):
        if isinstance(row, str):
            with contextlib.suppress(ValueError, RecursionError):
                row = json.loads(row)
        if isinstance(row, dict) and part in row:
            row = row[part]
        elif isinstance(row, list) and re.fullmatch(r"-?\d+", part) and -len(row) <= int(part) < len(row):
            row = row[int(part)]
        else:
            raise BadRowError(f"no column `{column}`")
    return row


def value_text(value: Any, column: str) -> str:
    """A column's value as text; None is empty."""
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise BadRowError(f"column `{column}` is {type(value).__name__}, not text or a number")
    return str(value)


def final_answer(text: str, is_solution: bool) -> str:
    """What follows the last `####` (GSM8K's mark); of a whole solution without it, the last `\\boxed{...}`."""
    if "####" in text:
        return text.rpartition("####")[2].strip()
    if not is_solution:
        return text.strip()
    start = text.rfind("\\boxed{")
    depth = 0
    for match in re.finditer(r"[{}]", text[start:] if start >= 0 else ""):
        depth += 1 if match.group() == "{" else -1
        if depth == 0:
            return text[start + len("\\boxed{") : start + match.start()].strip()
    return ""


def _shuffled(problems: Iterator[Problem], seed: int) -> Iterator[Problem]:
    rng = random.Random(seed)
    window = list(itertools.islice(problems, SHUFFLE_BUFFER))
    rng.shuffle(window)
    for problem in problems:
        place = rng.randrange(len(window))
        window[place], problem = problem, window[place]
        yield problem
    yield from window


def nearest(name: str, known: Iterable[str]) -> str:
    """The mend for an unknown name: the known one most like it, or all of them."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean `{near[0]}`?" if near else f"choose from {', '.join(known)}"
