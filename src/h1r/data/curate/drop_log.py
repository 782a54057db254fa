"""What the steps of one task took in and dropped, and adding up the tasks of a pass."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from h1r.data.curate.io.files import DROPS, write_rows
from h1r.data.curate.io.items import Item
from h1r.data.curate.rules.filters import excerpt


class DropLog:
    """Counts of one task and every record dropped. `steps` are the task's, in order, each with what it takes (row,
    problem, trace)."""

    def __init__(self, *steps: tuple[str, str]) -> None:
        self._steps: dict[str, dict[str, Any]] = {
            step: {"unit": unit, "in": 0, "reasons": Counter()} for step, unit in steps
        }
        self._rows: list[tuple[Any, ...]] = []

    def take(self, step: str, count: int = 1) -> None:
        """`count` records entered a step."""
        self._steps[step]["in"] += count

    def drop(
        self,
        step: str,
        item: Item,
        reason: str,
        text: str,
        name: str | None = None,
        details: dict[str, Any] | None = None,
    ) -> None:
        """A record left at a step: `reason` is one of few phrases, `text` the particulars; `name` that of a trace.
        `details` are further fields of its line in `dropped.jsonl`."""
        self.drop_row(step, (item.ordinal, name or item.problem.id, item.source), reason, text, details)

    def drop_row(
        self, step: str, who: tuple[int, str, str], reason: str, text: str, details: dict[str, Any] | None = None
    ) -> None:
        """The same for what never became an item: `who` is (ordinal, id, source)."""
        self._steps[step]["reasons"][reason, who[2]] += 1
        self._rows.append(
            (*who, step, reason, excerpt(text), json.dumps(details, ensure_ascii=False) if details else "")
        )

    def write(self, path: Path) -> None:
        """The dropped records as Parquet."""
        write_rows(path, DROPS, self._rows)

    def counts(self) -> list[dict[str, Any]]:
        """JSON of the counts: rows {step, unit, in, reasons: [[reason, source, count]]}."""
        return [
            {
                "step": step,
                "unit": found["unit"],
                "in": found["in"],
                "reasons": [[*key, count] for key, count in sorted(found["reasons"].items())],
            }
            for step, found in self._steps.items()
        ]


def add_up(tasks: Iterable[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The table of a pass: rows {step, unit, in, out, reasons, by_source}, reasons most frequent first."""
    steps: dict[str, dict[str, Any]] = {}
    for counts in tasks:
        for row in counts:
            found = steps.setdefault(
                row["step"], {"unit": row["unit"], "in": 0, "reasons": Counter(), "by_source": Counter()}
            )
            found["in"] += row["in"]
            for reason, source, count in row["reasons"]:
                found["reasons"][reason] += count
                found["by_source"][reason, source] += count
    table = []
    for step, found in steps.items():
        reasons = dict(sorted(found["reasons"].items(), key=lambda pair: (-pair[1], pair[0])))
        by_source: dict[str, dict[str, int]] = {reason: {} for reason in reasons}
        for (reason, source), count in sorted(found["by_source"].items()):
            by_source[reason][source] = count
        out = found["in"] - sum(reasons.values())
        row = {"step": step, "unit": found["unit"], "in": found["in"], "out": out}
        table.append({**row, "reasons": reasons, "by_source": by_source})
    return table
