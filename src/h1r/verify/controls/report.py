"""What controls found, as rows a family and as a table for the terminal."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from h1r.config.verify import ControlsSection
from h1r.verify.controls.validate import Tally


def family_rows(tally: Tally, section: ControlsSection) -> list[dict[str, Any]]:
    """JSON rows by family: items and refused items, the constant that is right most often, the control that earns most.

    `constant` is [answer, items it is right for, items it was held against], `control` the same for a control where it
    is not the reference; `refused_family` says why the whole family is refused, or is None.
    """
    refused = tally.refused_families(section)
    rows = []
    for key, found in sorted(tally.items()):
        verifier, _, family = key.partition("|")
        why = refused.get(key)
        rows.append(
            {
                "verifier": verifier,
                "family": family,
                "items": found.items,
                "refused": found.refused,
                "constant": list(found.best_constant()),
                "control": list(found.worst_control()),
                "refused_family": f"{why.reason}: {why.detail}" if why else None,
            }
        )
    return rows


def family_table(rows: list[dict[str, Any]]) -> Table:
    """The rows for a terminal."""
    table = Table("verifier", "family", title="Negative controls", title_justify="left")
    for heading in ("items", "refused"):
        table.add_column(heading, justify="right")
    for heading in ("best constant", "control that earns most", "family"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        control = _share(row["control"]) if row["control"][1] else ""
        verdict = row["refused_family"] or ("accepted" if not row["refused"] else "")
        counts = (f"{row['items']:,}", f"{row['refused']:,}")
        table.add_row(row["verifier"], row["family"], *counts, _share(row["constant"]), control, verdict)
    return table


def _share(found: list[Any]) -> str:
    name, count, of = found
    return f"{' '.join(str(name).split())[:40]}: {count} of {of}" if count else ""
