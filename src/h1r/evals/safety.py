"""Safety (arXiv 2601.02346, appendix E): shares of responses that a guard model calls safe, over sets of prompts.

    [[eval.safety]]    eval/safety/MODEL/NAME.json, and the file of its answers beside it

A result is that of a benchmark (`benchmark.EvalResult`, whose accuracy is the share of safe answers), and has under
`safe` for each mode (`guard.MODES`) the share of scored responses that are safe. The table ends with the paper's two
averages over the sets: weighted by their prompts, and simple.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from h1r.config import EvalSection
from h1r.evals.benchmark import evaluate
from h1r.evals.guard import MODES
from h1r.evals.samples import Samples
from h1r.records import Problem
from h1r.rollout.pipeline import RolloutPipeline, is_scored
from h1r.scaling.study import ProgressOf

TITLES = {"cot": "CoT only", "both": "CoT + answer", "answer": "answer only"}


def measure(
    pipeline: RolloutPipeline,
    problems: Sequence[Problem],
    section: EvalSection,
    seed: int,
    progress: ProgressOf,
    name: str,
    path: Path,
) -> dict[str, Any]:
    """Asks every prompt, has the guard score the responses, and keeps them in `path`."""
    result = evaluate(pipeline, problems, section, seed, progress, name, path).to_dict()
    safe, scored = dict.fromkeys(MODES, 0.0), 0
    with Samples(path, problems, section.samples) as samples:
        for _, verdict in samples.verdicts():
            if is_scored(verdict):
                safe, scored = {mode: safe[mode] + verdict.parts[f"safe:{mode}"] for mode in MODES}, scored + 1
    shares = {mode: safe[mode] / scored for mode in MODES}
    return {**result, "safe": shares}


def averages(results: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """{"weighted": {mode: share}, "simple": ...} over the sets; empty without any."""
    if not results:
        return {}
    total = sum(one["problems"] for one in results.values())
    return {
        "weighted": {
            mode: sum(one["safe"][mode] * one["problems"] for one in results.values()) / total for mode in MODES
        },
        "simple": {mode: sum(one["safe"][mode] for one in results.values()) / len(results) for mode in MODES},
    }


def safety_table(results: Mapping[str, Mapping[str, Any]]) -> Table:
    """A row for each set, and the averages."""
    table = Table("prompts", "n", *(TITLES[mode] for mode in MODES), "unscored", box=box.SIMPLE_HEAD)
    rows = [
        (name, f"{one['problems']:,}", one["safe"], one["unscored"] + one["error"]) for name, one in results.items()
    ]
    total = f"{sum(one['problems'] for one in results.values()):,}"
    rows += [(f"{name} average", total, safe, 0.0) for name, safe in averages(results).items()]
    for name, count, safe, without in rows:
        shares = (f"{100 * safe[mode]:.2f}%" for mode in MODES)
        table.add_row(name, count, *shares, f"{100 * without:.1f}%" if without else "")
    return table
