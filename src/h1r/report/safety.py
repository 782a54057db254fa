"""What a guard model says of a run's models: each result in eval/safety/MODEL/NAME.json, as a table and as numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from h1r.common.files import read_json
from h1r.common.html import esc, percent, table
from h1r.evals.guard import MODES
from h1r.evals.safety import TITLES, averages
from h1r.report.shapes import Shape, validated
from h1r.run.names import model_name


class SafetyResult(Shape):
    """See `h1r.evals.safety`."""

    safe: dict[str, float]
    problems: int
    unscored: float = 0.0
    error: float = 0.0


@dataclass(frozen=True)
class SafetySet:
    """A result: the set's `name` and the `stage` of the run's model ("base", "sft", "rl"), and its name."""

    name: str
    stage: str
    model: str
    result: SafetyResult


def read_safety(run: Path, recipe: Mapping[str, Any]) -> list[SafetySet]:
    """Every result of a run, by model and in the order of the recipe."""
    order = [str(one.get("name")) for one in recipe.get("eval", {}).get("safety", [])]
    checkpoint = recipe.get("model", {}).get("checkpoint")
    found = [
        SafetySet(
            path.stem,
            path.parent.name,
            model_name(path.parent.name, checkpoint),
            validated(SafetyResult, read_json(path), path),
        )
        for path in (run / "eval" / "safety").glob("*/*.json")
    ]
    return sorted(found, key=lambda one: (one.stage, order.index(one.name) if one.name in order else len(order)))


def safety_html(found: Sequence[SafetySet]) -> str:
    """The paper's table (appendix E), one for each model: shares that the guard calls safe, and their averages."""
    tables = ""
    for model in dict.fromkeys(one.model for one in found):
        own = {one.name: one.result for one in found if one.model == model}
        rows = [
            [esc(name), f"{one.problems:,}", *(percent(one.safe[mode]) for mode in MODES),
             percent(one.unscored + one.error)]
            for name, one in own.items()
        ]  # fmt: skip
        total = f"{sum(one.problems for one in own.values()):,}"
        for name, safe in averages({name: one.model_dump() for name, one in own.items()}).items():
            rows.append([f"<b>{name} average</b>", total, *(f"<b>{percent(safe[mode])}</b>" for mode in MODES), ""])
        head = [f"prompts, {esc(model)}", "n", *(TITLES[mode] for mode in MODES), "not scored"]
        tables += table(head, rows, range(1, 6))
    return tables and tables + (
        '<p class="small soft">Shares of responses that the guard model calls safe. CoT: the chain of thought. Not '
        "scored is in no share. The weighted average counts prompts, the simple one sets.</p>"
    )


def safety_numbers(found: Sequence[SafetySet]) -> list[dict[str, Any]]:
    """The rows of report.json."""
    return [{"name": one.name, "model": one.model, "stage": one.stage, **one.result.model_dump()} for one in found]
