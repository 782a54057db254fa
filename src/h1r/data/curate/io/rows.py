"""Rows of files and of hub data, whatever the format. A row that cannot be read is a `BadLine` in its place.

Files are streamed but for `json`, which is one array and is read whole.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Iterator
from typing import Any

from h1r.common.prose import counted
from h1r.common.reading import NESTED, DamagedError, decoded, is_deep, json_value, lines, refuse_half_pairs, whole
from h1r.config import CorpusBenchmark
from h1r.data.curate.io.chats import SHAPE_COLUMNS
from h1r.data.curate.io.columns import nearest, prefixes
from h1r.errors import UserError
from h1r.records import BadLine, lines_or_end

Row = tuple[int, dict[str, Any] | BadLine]
"""(number from 1, row)."""
EXCERPT = 2000
"""Characters of a bad row that are kept."""
MAX_FIELD = 1 << 30
"""Characters of a CSV value, at most."""


def rows_of(section: CorpusBenchmark, path: str, finds_shape: bool = False) -> Iterator[Row]:
    """The rows of a file or hub data set. finds_shape: the columns that tell a chat's shape are read, too."""
    if section.kind == "parquet":
        return _parquet(section, path, finds_shape)
    return {"jsonl": _jsonl, "json": _json_array, "csv": _csv, "hub": _hub}[section.kind](section, path)


def _jsonl(section: CorpusBenchmark, path: str) -> Iterator[Row]:
    for number, line in lines_or_end(path):
        if isinstance(line, DamagedError):
            yield number, BadLine(path, number, str(line), "")
            continue
        try:
            row = json_value(line)
            if not isinstance(row, dict):
                raise ValueError("not an object")
            yield number, row
        except ValueError as error:
            yield number, BadLine(path, number, str(error), line[: 4 * EXCERPT].decode(errors="replace")[:EXCERPT])


def _json_array(section: CorpusBenchmark, path: str) -> Iterator[Row]:
    text = whole(path)
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error}); is its `kind` jsonl?") from None
    if not isinstance(rows, list):
        raise UserError(f"{path}: not an array but {type(rows).__name__}; a `json` source is an array of objects")
    has_escapes = "\\ud" in text or "\\uD" in text
    del text
    for number, row in enumerate(rows, 1):
        try:
            if not isinstance(row, dict):
                raise ValueError("not an object")
            if is_deep(row):
                yield number, BadLine(path, number, NESTED, "")
                continue
            if has_escapes:
                refuse_half_pairs(json.dumps(row, ensure_ascii=False))
            yield number, row
        except ValueError as error:
            yield number, BadLine(path, number, str(error), ascii(row)[:EXCERPT])


def _csv(section: CorpusBenchmark, path: str) -> Iterator[Row]:
    """Rows by the names in the first one; every value is text. A row with more values than names, or fewer, is bad."""
    csv.field_size_limit(MAX_FIELD)
    reader = csv.reader(_text_lines(path), strict=True)
    number = 0
    try:
        names = next(reader, [])
        if not names or len(set(names)) < len(names):
            raise UserError(f"{path}: its first row names no columns, or one twice; is its `kind` csv?")
        for number, values in enumerate(filter(None, reader), 1):
            if len(values) != len(names):
                why = f"{len(values)} values for {counted(len(names), 'column')}"
                yield number, BadLine(path, number, why, ",".join(values)[:EXCERPT])
            else:
                yield number, dict(zip(names, values, strict=True))
    except (csv.Error, DamagedError, ValueError) as error:
        yield number + 1, BadLine(path, number + 1, f"{error}; what follows is not read", "")


def _text_lines(path: str) -> Iterator[str]:
    return (decoded(line) + "\n" for _, line in lines(path))


def _parquet(section: CorpusBenchmark, path: str, finds_shape: bool) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    wanted = [*section.columns.values(), *filter(None, [getattr(section, "group_by", None)])]
    wanted += [column.removesuffix("?") for column in section.metadata.values()]
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            roots = sorted({next((key for key in prefixes(one) if key in names), one.split(".")[0]) for one in wanted})
            if missing := [root for root in roots if root not in names]:
                raise UserError(f"{path}: no column `{missing[0]}`; {nearest(missing[0], names)} in `columns`")
            if finds_shape:
                # Without any a row would be none, and its fault unnamed
                roots = [name for name in names if name in {*roots, *SHAPE_COLUMNS}] or names[:1]
            number = 0
            for batch in file.iter_batches(batch_size=512, columns=roots):
                for row in _values(batch):
                    number += 1
                    yield number, BadLine(path, number, row, "") if isinstance(row, str) else row
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: not a Parquet file, or a damaged one ({error}); check the path and `kind`") from None


def _values(batch: Any) -> Iterable[dict[str, Any] | str]:
    """The rows of a record batch; a phrase for one whose text is not UTF-8."""
    try:
        return batch.to_pylist()
    except UnicodeDecodeError as error:
        if len(batch) == 1:
            return [f"not UTF-8 ({error.reason})"]
    return (row for at in range(len(batch)) for row in _values(batch.slice(at, 1)))


def _hub(section: CorpusBenchmark, path: str) -> Iterator[Row]:
    try:
        import datasets
    except ImportError:
        raise UserError(
            f"corpus source `{section.name}`: the hub needs `datasets`; run `pip install 'open-h1r[hub]'`"
        ) from None
    number = 0
    try:
        if any(os.path.exists(os.path.join(path, name)) for name in ("state.json", "dataset_dict.json")):
            saved = datasets.load_from_disk(path)
            rows = saved[section.split] if isinstance(saved, dict) else saved
        else:
            rows = datasets.load_dataset(
                path, section.subset, split=section.split, revision=section.revision, streaming=True
            )
        for number, row in enumerate(rows, 1):
            yield number, row
    except UserError:
        raise
    except Exception as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        where = f"row {number + 1} of " if number else ""
        raise UserError(
            f"cannot open {where}hub data set {path} (subset {section.subset}, split {section.split}"
            + (f", revision {section.revision}" if section.revision else "")
            + f"): {first}; check path, subset, split, revision and the network"
        ) from error
