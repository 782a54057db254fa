"""A run in progress on a terminal: stages, step and time left, curves as lines of blocks, and the newest rollouts."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from h1r.common.html import duration, percent
from h1r.common.terminal import shown
from h1r.report.live import live_state

PERIOD = 2.0
"""Seconds between two looks."""
IDLE = 30.0
"""Seconds without a running stage after which the run is over: there is a pause between two stages."""
_BLOCKS = "▁▂▃▄▅▆▇█"
_WIDTH = 40


def watch(run: Path, console: Console) -> None:
    """Shows the run until nothing of it runs any more; once, where nothing runs now or this is no terminal.

    Raises `UserError` when the directory is no run.
    """
    state = live_state(run)
    if not (console.is_terminal and state["running"]):
        console.print(view(state))
        return
    ran = time.monotonic()
    with Live(view(state), console=console, auto_refresh=False) as display:
        while time.monotonic() - ran < IDLE:
            time.sleep(PERIOD)
            state = live_state(run)
            ran = time.monotonic() if state["running"] else ran
            display.update(view(state), refresh=True)


def view(state: Mapping[str, Any]) -> Group:
    """What `live_state` found, as lines of at most 80 columns."""
    parts: list[Text | Table] = [
        Text(shown(f"{state['name']}: {state['state']}"), style="bold"),
        _stages(state["stages"]),
    ]
    if state["training"]:
        parts.append(Text(training_line(state["training"])))
    if state["whole"] and state["whole"]["left_seconds"] != 0:
        parts.append(Text(whole_line(state["whole"])))
    if state["scores"]:
        scores = ", ".join(f"{stage} {percent(score)}" for stage, score in state["scores"].items())
        parts.append(Text(f"held-out pass@1: {scores}"))
    if curves := [curve for curve in state["curves"] if curve["values"]]:
        parts.append(_curves(curves))
    for group in state["rollouts"][:1]:
        parts.append(Text(shown(f"a rollout of step {group['step']}, {group['problem']}:"), style="bold"))
        for one in group["rollouts"][:1]:
            parts.append(Text(shown(one["text"][:400])))
            parts.append(Text(f"reward {one['reward']:.3g}", style="dim"))
    return Group(*parts)


def training_line(training: Mapping[str, Any]) -> str:
    """`RL: step 12 of 200, 3.1 s a step, about 9 min 42 s left`."""
    of = "" if training["total"] is None else f" of {training['total']}"
    told = f"{training['stage'].upper()}: step {training['step']}{of}"
    if training["seconds_per_step"] is not None:
        told += f", {duration(training['seconds_per_step'])} a step"
    if training["left_seconds"]:
        told += f", about {duration(training['left_seconds'])} left"
    return told


def whole_line(whole: Mapping[str, Any]) -> str:
    """`whole run: about 9 min 42 s left`, or `whole run: – left, not measured yet: rl, scaling`."""
    if whole["left_seconds"] is not None:
        return f"whole run: about {duration(whole['left_seconds'])} left"
    return f"whole run: {duration(None)} left, not measured yet: {', '.join(whole['unmeasured'])}"


def _stages(stages: Sequence[Mapping[str, Any]]) -> Text:
    text = Text()
    for stage in stages:
        mark, style = ("✓", "green") if stage["done"] else ("▶", "bold") if stage["running"] else ("·", "dim")
        text.append(f"{mark} {stage['name']}  ", style=style)
    return text


def _curves(curves: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for curve in curves:
        values = curve["values"]
        table.add_row(curve["title"], blocks(values), f"{values[0]:.3g} to {values[-1]:.3g}")
    return table


def blocks(values: Sequence[float], width: int = _WIDTH) -> str:
    """A curve as `width` blocks at most, each the mean of its part of the values, from the lowest to the highest."""
    parts = [values[len(values) * at // width : len(values) * (at + 1) // width] for at in range(width)]
    means = [sum(part) / len(part) for part in parts if part]
    low, high = min(means), max(means)
    return "".join(_BLOCKS[round((len(_BLOCKS) - 1) * (mean - low) / ((high - low) or 1))] for mean in means)
