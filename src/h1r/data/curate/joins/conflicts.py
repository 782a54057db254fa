"""One question with answers that differ: a conflict, of which no side is chosen unless the recipe says so.

    conflicts.parquet    (ordinal, id of the first one, reason, ordinal of the first one) of every member, in order

Answers that are written otherwise and mean the same (`0.5` and `1/2`) are none: the verifier of the first one says.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pyarrow.parquet as pq

from h1r.data.curate.io.files import write_rows
from h1r.data.curate.io.items import Item, read_items
from h1r.data.curate.joins.database import TWINS
from h1r.data.curate.rules.normal_form import normal_form
from h1r.records import Problem, Verdict
from h1r.verify.controls import reference_text

REASON = "conflicting answers"
DIFFERS = "same question, answer written otherwise"
VerifyMany = Callable[[Sequence[Problem], Sequence[str]], list[Verdict]]


def write_conflicts(work: Path, shards: Sequence[str], verify: VerifyMany, keep: str) -> int:
    """Looks at every copy whose answer is written otherwise and writes the members of the groups that conflict, none
    where `keep` is "first"; returns the number of questions in conflict."""
    copies: dict[int, list[int]] = defaultdict(list)
    for row in pq.read_table(work / "exact.parquet").to_pylist():
        copies[row["first"]].append(row["ordinal"])
        if row["reason"] == DIFFERS:
            copies[row["first"]].append(-1)
    suspects = {first: [one for one in found if one >= 0] for first, found in copies.items() if -1 in found}
    items = dict(_items(work, shards, {*suspects, *(one for found in suspects.values() for one in found)}))
    conflicts = {
        first for first, found in suspects.items() if _conflict(items[first], [items[one] for one in found], verify)
    }
    members = sorted((one, first) for first in conflicts for one in (first, *suspects[first]))
    rows = ((one, items[first].problem.id, REASON, first) for one, first in members)
    write_rows(work / "conflicts.parquet", TWINS, rows if keep == "none" else iter(()))
    return len(conflicts)


def _items(work: Path, shards: Sequence[str], wanted: set[int]) -> Iterator[tuple[int, Item]]:
    for shard in shards if wanted else ():
        for item in read_items(work / "sound" / f"{shard}.parquet"):
            if item.ordinal in wanted:
                item.traces = []
                yield item.ordinal, item


def _conflict(first: Item, others: Sequence[Item], verify: VerifyMany) -> bool:
    forms = {normal_form(first.problem.answer)}
    asked = [one for one in others if normal_form(one.problem.answer) not in forms and one.problem.answer]
    if not asked or not first.problem.answer:
        return False
    if not first.problem.verifier:
        return True
    verdicts = verify([first.problem] * len(asked), [reference_text(one.problem) for one in asked])
    return any(verdict.reward < 1 for verdict in verdicts)
