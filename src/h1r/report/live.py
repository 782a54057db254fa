"""A run while it goes on, from the files it has written so far: what stage it is in, its curves, its last rollouts, and
estimates of the time that is left of its stage and of the whole. Reading never disturbs the run: its files appear
whole, or a line at a time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from h1r.common.files import is_locked, read_json
from h1r.errors import UserError
from h1r.records import name_of, read_lines
from h1r.report.collect import EVAL_STAGES, Metrics, series
from h1r.report.remaining import Measured, trained_per_second
from h1r.run.listing import ORDER, plan_of, state_of
from h1r.run.metrics import read_metrics
from h1r.run.names import model_name

MOST_POINTS = 300
"""Of a curve; more steps are averaged."""
MOST_GROUPS = 8
"""Groups of rollouts that are shown, spread over the run, the newest among them."""
MOST_ROLLOUTS = 2
MOST_CHARS = 2000
RECENT_STEPS = 20
"""Whose times say how long a step takes."""
_CURVES = (
    ("sft", "SFT loss", "nats per token", "loss", True),
    ("rl", "RL reward", "mean reward", "reward", False),
    ("rl", "RL: right answers", "share of rollouts", "accuracy", False),
    ("rl", "RL: answer length", "tokens per rollout", "mean_tokens", False),
    ("rl", "RL entropy", "nats per token", "entropy", False),
)


def live_state(run: Path) -> dict[str, Any]:
    """How far the run is. Raises `UserError` when the directory is no run.

    name, state       as `h1r ls` says it; running: whether a stage runs now
    stages            [{name, done, running, seconds}] in order
    training          {stage, step, total, seconds_per_step, left_seconds} of the stage trained last, or None; what is
                      not known is None
    whole             {left_seconds, unmeasured: [stage]} of all stages that the running command goes through; None
                      where none of several stages runs, left_seconds None while one of them is not measured yet
    curves            [{title, unit, log, steps, values}]
    scores            {model: held-out pass@1}
    rollouts          [{step, problem, rollouts: [{text, reward}]}], the newest first
    """
    if not (run / "recipe.json").exists():
        raise UserError(f"{run} is not a run directory (it has no recipe.json); give a directory that `h1r` wrote")
    recipe = read_json(run / "recipe.json")
    metrics = {stage: _metrics(run / stage / "metrics.jsonl") for stage in ("sft", "rl")}
    stages = _stages(run)
    training = _training(run, recipe, metrics)
    planned = plan_of(run)
    speed = trained_per_second(metrics["sft"], RECENT_STEPS)
    running = bool(planned) or any(stage["running"] for stage in stages)
    if training is not None and not running:
        training["left_seconds"] = None  # nobody goes on
    return {
        "name": str(recipe.get("name") or run.resolve().name),
        "state": state_of(run),
        "running": running,
        "stages": stages,
        "training": training,
        "whole": _whole(Measured(run, recipe, stages, training, speed).left(planned)) if planned else None,
        "curves": [
            {"title": title, "unit": unit, "log": log, **_thinned(*series(metrics[stage], key))}
            for stage, title, unit, key, log in _CURVES
            if len(metrics[stage]) > 1
        ],
        "scores": {
            model_name(stage, recipe.get("model", {}).get("checkpoint")): score
            for stage in EVAL_STAGES
            if (score := _score(run / "eval" / f"{stage}.json")) is not None
        },
        "rollouts": _rollouts(run / "rl" / "rollouts.jsonl"),
    }


def _stages(run: Path) -> list[dict[str, Any]]:
    path = run / "stages.json"
    costs = read_json(path) if path.exists() else {}
    return [
        {
            "name": name,
            "done": (run / "done" / f"{name}.json").exists(),
            "running": is_locked(run / f".{name}.lock"),
            "seconds": costs.get("rl_pool" if name == "pool" else name, {}).get("wall_seconds"),
        }
        for name in ORDER
    ]


def _metrics(path: Path) -> Metrics:
    return read_metrics(path) if path.exists() else []


def _training(run: Path, recipe: Mapping[str, Any], metrics: Mapping[str, Metrics]) -> dict[str, Any] | None:
    stage = next((name for name in ("rl", "sft") if metrics[name]), None)
    if stage is None:
        return None
    lines = metrics[stage]
    step = int(lines[-1]["step"]) + 1
    total = recipe["rl"]["steps"] if stage == "rl" else _sft_steps(run)
    times = [line["time"] for line in lines[-RECENT_STEPS - 1 :]]
    # The median, so that one step with a checkpoint, or the pause before a resumed attempt, counts for one.
    each = median(later - sooner for sooner, later in pairwise(times)) if len(times) > 1 else None
    left = None if total is None or each is None else max(total - step, 0) * each
    return {"stage": stage, "step": step, "total": total, "seconds_per_step": each, "left_seconds": left}


def _whole(left: Mapping[str, float | None]) -> dict[str, Any]:
    unmeasured = [name for name, seconds in left.items() if seconds is None]
    known = [seconds for seconds in left.values() if seconds is not None]
    return {"left_seconds": None if unmeasured else sum(known), "unmeasured": unmeasured}


def _sft_steps(run: Path) -> int | None:
    path = run / "sft" / "steps.json"
    return int(read_json(path)["total"]) if path.exists() else None


def _thinned(steps: Sequence[int], values: Sequence[float]) -> dict[str, list[float]]:
    """At most `MOST_POINTS` points, each the mean of as many neighbours."""
    width = -(-len(values) // MOST_POINTS) or 1
    parts = [values[at : at + width] for at in range(0, len(values), width)]
    return {"steps": list(steps[::width]), "values": [sum(part) / len(part) for part in parts]}


def _score(path: Path) -> float | None:
    found = read_json(path) if path.exists() else {}
    return found.get("pass_at_1") if isinstance(found, dict) else None


def _rollouts(path: Path) -> list[dict[str, Any]]:
    groups = []
    for _, line in read_lines(path) if path.exists() else ():
        try:
            groups.append(json.loads(line))
        except ValueError:  # the last line of a run that was killed
            break
    last = len(groups) - 1
    places = sorted({round(last * at / max(1, MOST_GROUPS - 1)) for at in range(MOST_GROUPS)}) if groups else []
    return [
        {
            "step": groups[place]["step"],
            "problem": name_of(str(groups[place]["problem_id"]), groups[place].get("question")),
            "rollouts": [
                {"text": one["text"][:MOST_CHARS], "reward": one["reward"]}
                for one in groups[place]["rollouts"][:MOST_ROLLOUTS]
            ],
        }
        for place in reversed(places)
    ]
