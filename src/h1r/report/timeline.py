"""Where the time of RL goes: the parts of a step, as a table and as a trace for a viewer of timelines.

A step's line of metrics.jsonl holds when it ended and how long each part took; the parts follow one another. Answers
are graded while others are generated, so grading has no time of its own.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from h1r.common.files import write_json
from h1r.common.html import bar, duration, percent, plural, table
from h1r.errors import UserError
from h1r.report.collect import Metrics, RunReport

PARTS = {
    "sync_seconds": "weights to the engine",
    "rollout_seconds": "rollouts and verdicts",
    "train_seconds": "update",
}
"""Keys of a step's line, in the order in which they happen, and what they are called."""


def sampled_tokens(report: RunReport) -> float | None:
    """Tokens that RL sampled, those of dropped groups included; None of a run without RL."""
    if not report.rl:
        return None
    generations = report.recipe["rl"]["num_generations"]
    # Runs of earlier versions have no number of their own.
    means = (row["mean_tokens"] * row["groups_generated"] * generations for row in report.rl)
    return float(sum(row.get("sampled_tokens", mean) for row, mean in zip(report.rl, means, strict=True)))


def step_time_html(report: RunReport) -> str:
    """What an RL step spends its time on; empty without RL."""
    times = {key: [row[key] for row in report.rl if key in row] for key in PARTS}
    whole = sum(map(sum, times.values()))
    if not whole:
        return ""
    rows = [
        [PARTS[key], duration(statistics.median(found)), percent(sum(found) / whole), bar((sum(found) / whole, "time"))]
        for key, found in times.items()
        if found
    ]
    sampling, tokens = sum(times["rollout_seconds"]), sampled_tokens(report)
    speed = f" Rollouts: {plural(round(tokens / sampling), 'token')} a second." if tokens and sampling else ""
    return (
        "<h3>An RL step</h3>"
        + table(["part", "median", "share of all steps", ""], rows, (1, 2))
        + f'<p class="small soft">Answers are graded while others are generated.{speed}</p>'
    )


def write_timeline(report: RunReport, path: Path) -> None:
    """RL's steps as a JSON file of trace events (microseconds from the first step's start), which chrome://tracing and
    ui.perfetto.dev open. `UserError` for a run without RL, and where the file cannot be written."""
    if not report.rl:
        raise UserError(f"{report.path} has no step of RL, and so no timeline")
    try:
        write_json(path, {"displayTimeUnit": "ms", "traceEvents": trace_events(report.rl)})
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}; give another path") from None


def trace_events(metrics: Metrics) -> list[dict[str, Any]]:
    """One event for each part of each step, and the step around them."""
    events: list[dict[str, Any]] = []
    starts = [row["time"] - sum(row.get(key, 0.0) for key in PARTS) for row in metrics]
    for row, start in zip(metrics, starts, strict=True):
        at = 1e6 * (start - starts[0])
        step = {"ph": "X", "pid": 1, "cat": "rl", "args": {"step": row["step"]}}
        parts = {key: 1e6 * row[key] for key in PARTS if key in row}
        events.append({**step, "name": f"step {row['step']}", "tid": 1, "ts": at, "dur": sum(parts.values())})
        for key, length in parts.items():
            events.append({**step, "name": PARTS[key], "tid": 2, "ts": at, "dur": length})
            at += length
    return events
