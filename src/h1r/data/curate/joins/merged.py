"""Traces of one problem that came in several files or sources, brought together at the copy that stays.

    moved/SHARD.parquet     (ordinal of the problem that stays, ordinal of the copy, its use, its traces), in that order

The pass that drops a copy puts its traces by; the pass that has the problem that stays adds them, behind its own and in
the order of the recipe. So they are graded, sifted and counted as rollouts together, wherever they came from.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from h1r.data.curate.io.files import write_rows
from h1r.data.curate.io.items import Item, traces_from, traces_text

MOVED = pa.schema([("first", pa.int64()), ("ordinal", pa.int64()), ("use", pa.string()), ("traces", pa.string())])
MOVED_ROWS = 64
"""Rows of a row group: those of one shard of problems are found without reading all."""


class Moved:
    """The traces of the copies that one shard drops."""

    def __init__(self, trusted: frozenset[str]) -> None:
        self._trusted = trusted
        self._rows: list[tuple[int, int, str, str]] = []

    def take(self, item: Item, first: int) -> bool:
        """Puts the traces of a copy of `first` by; whether there were any. Rewards that a source recorded hold only
        where it is trusted."""
        if not item.traces:
            return False
        if item.source not in self._trusted:
            for trace in item.traces:
                trace.reward = None
        self._rows.append((first, item.ordinal, item.use, traces_text(item.traces)))
        return True

    def write(self, work: Path, shard: str) -> None:
        """Writes the file of the shard, none where nothing was put by."""
        if self._rows:
            write_rows(work / "moved" / f"{shard}.parquet", MOVED, iter(sorted(self._rows)), batch=MOVED_ROWS)


def with_moved(items: Iterable[Item], work: Path, first: int, last: int) -> Iterator[Item]:
    """Items with ordinals in [first, last], each with the traces of its copies that have the same use."""
    found: dict[int, list[tuple[int, str, str]]] = defaultdict(list)
    for path in sorted((work / "moved").glob("*.parquet")):
        rows = pq.read_table(path, filters=[("first", ">=", first), ("first", "<=", last)])
        for row in rows.to_pylist():
            found[row["first"]].append((row["ordinal"], row["use"], row["traces"]))
    for item in items:
        for _, use, traces in sorted(found.pop(item.ordinal, ())):
            if use == item.use:
                item.traces += traces_from(traces)
        yield item
