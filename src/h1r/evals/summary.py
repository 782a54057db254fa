"""The numbers of a report.json as a table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table


def result_table(report: Mapping[str, Any]) -> Table:
    """What each step gained: accuracy on held-out problems, and tokens. Stages that have not run are left out.

    Raises `KeyError` for a mapping that is no report.json.
    """
    table = Table("", "accuracy", "interval", "tokens", title=f"{report['name']} (seed {report['seed']})")
    start = "random weights" if report["checkpoint"] is None else "before training"
    for stage, title in (("base", start), ("sft", "after SFT"), ("rl", "after RL")):
        if report["pass_at_1"][stage] is not None:
            table.add_row(
                f"pass@1 {title}",
                _percent(report["pass_at_1"][stage]),
                _interval(report["pass_at_1_interval"][stage]),
                _number(report["mean_tokens"][stage]),
            )
    if scaling := report["scaling"]:
        for method in ("majority", "deepconf"):
            found = scaling[method]
            table.add_row(
                f"{method}, {scaling['budget']} traces", _percent(found["accuracy"]), "", _number(found["tokens"])
            )
        if scaling["token_saving"] is not None:
            table.caption = f"DeepConf spends {_percent(scaling['token_saving'])} fewer tokens than majority."
    return table


def benchmark_table(results: Mapping[str, Mapping[str, Any]]) -> Table:
    """pass@1 on each benchmark, a row for each model of `results`, which has stage names as its keys."""
    table = Table(
        "benchmark", "model", "pass@1", "interval", "answers", "tokens", "cut off", "no answer", "unscored", "unusable"
    )
    for stage, result in results.items():
        for name, found in result.get("benchmarks", {}).items():
            table.add_row(
                name,
                stage.removeprefix("eval_"),
                _percent(found["pass_at_1"]),
                _interval(found["interval"]),
                f"{found['problems']} x {found['samples_per_problem']}",
                _number(found["mean_tokens"]),
                _percent(found["truncated"]),
                _percent(found["no_answer"]),
                _percent(found["unscored"] + found["error"]),
                str(len(found.get("unusable", [])) or ""),
            )
    return table


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def _interval(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f"{_percent(interval[0])} to {_percent(interval[1])}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"
