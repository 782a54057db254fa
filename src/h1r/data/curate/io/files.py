"""The tables of curation, the schema of its drops, and one process at a time in a directory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from h1r.common.files import PARTIAL, atomic, locked

DROPS = pa.schema(
    [
        ("ordinal", pa.int64()),
        ("id", pa.string()),
        ("source", pa.string()),
        ("step", pa.string()),
        ("reason", pa.string()),
        ("excerpt", pa.string()),
        ("details", pa.string()),
    ]
)
TABLE_BATCH = 8192


@contextmanager
def alone_in(directory: Path) -> Iterator[None]:
    """Keeps other processes out of a directory, and takes away what killed ones left half-written.

    Raises `UserError` when another one is at work there. The lock ends with the process, however it ends.
    """
    sentence = f"another process curates into {directory}; wait for it, or give another --out"
    with locked(directory / ".lock", sentence):
        for partial in directory.rglob(f".*{PARTIAL}"):
            if partial.is_file():
                partial.unlink(missing_ok=True)
        yield


def write_rows(path: Path, schema: pa.Schema, rows: Iterable[tuple[Any, ...]], batch: int = TABLE_BATCH) -> int:
    """Writes rows in the order of the schema's columns as Parquet, `batch` to a row group; returns how many."""
    count = 0
    with atomic(path) as partial, pq.ParquetWriter(partial, schema, compression="zstd") as writer:
        held: list[tuple[Any, ...]] = []
        for row in rows:
            held.append(row)
            if len(held) == batch:
                writer.write_table(_table(held, schema))
                count += len(held)
                held = []
        writer.write_table(_table(held, schema))
    return count + len(held)


def _table(rows: list[tuple[Any, ...]], schema: pa.Schema) -> pa.Table:
    columns = zip(*rows, strict=True) if rows else ((),) * len(schema)
    return pa.table([pa.array(column, kind.type) for column, kind in zip(columns, schema, strict=True)], schema=schema)
