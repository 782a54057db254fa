"""The runs of a directory at a glance: how far each is, what it scored, what it takes on the disk."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from h1r.common.files import is_locked, read_json
from h1r.errors import UserError
from h1r.run.checkpoints import Checkpoints
from h1r.run.names import BASE, model_name

ORDER = ("curate", "eval_base", "sft", "eval_sft", "pool", "rl", "eval_rl", "scaling")
"""The stages of a run."""
PLAN = ".plan.lock"
"""Held while one command goes through several stages, up to the one whose name it contains."""
_MODELS = ("rl", "sft", BASE)
"""The last one first."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A run. `model`: the last one that was asked; `scores`: "held-out" and benchmarks -> its pass@1. `changed`: the
    time of its last start, in seconds since 1970."""

    path: Path
    state: str
    model: str | None
    scores: dict[str, float]
    size_bytes: int
    changed: float


def runs_in(directory: Path) -> list[Listed]:
    """The runs that lie in a directory, the one used last first. `UserError` where it is missing."""
    if not directory.is_dir():
        raise UserError(f"no directory {directory}; runs begin with `h1r demo`, `h1r sft` and their like")
    found = [listed(file.parent) for file in directory.glob("*/recipe.json")]
    return sorted(found, key=lambda run: (-run.changed, run.path))


def listed(run: Path) -> Listed:
    attempts = run / "attempts.jsonl"
    stage, scores = _scores(run)
    model = model_name(stage, read_json(run / "recipe.json").get("model", {}).get("checkpoint")) if stage else None
    return Listed(
        run, state_of(run), model, scores, _size(run), (attempts if attempts.exists() else run).stat().st_mtime
    )


def state_of(run: Path) -> str:
    """`sft runs`, `rl stopped at step 20`, `curate stopped`, or the last stage that is finished."""
    done = [stage for stage in ORDER if (run / "done" / f"{stage}.json").exists()]
    if running := [stage for stage in ORDER if is_locked(run / f".{stage}.lock")]:
        return f"{running[0]} runs"
    for stage in ("rl", "sft"):
        if stage not in done and (newest := Checkpoints(run / stage).latest()):
            return f"{stage} stopped at step {newest[0]}"
    if "curate" not in done and (run / "curate" / "work").is_dir():
        return "curate stopped"
    return f"{done[-1]} finished" if done else "nothing finished"


def plan_of(run: Path) -> list[str]:
    """The stages that a command goes through now, from the first to its last; none where no such command runs."""
    if not is_locked(run / PLAN):
        return []
    last = (run / PLAN).read_text(encoding="utf-8")
    return list(ORDER[: ORDER.index(last) + 1]) if last in ORDER else []


def _scores(run: Path) -> tuple[str | None, dict[str, float]]:
    """The stage of the last model that was asked, and its scores."""
    for stage in _MODELS:
        found: dict[str, float] = {}
        result = run / "eval" / f"{stage}.json"
        files = [("held-out", result)] if result.exists() else []
        files += [(file.stem, file) for file in sorted((run / "eval/benchmarks" / stage).glob("*.json"))]
        for name, file in files:
            tree: Any = read_json(file)
            if isinstance(tree, dict) and isinstance(tree.get("pass_at_1"), int | float):
                found[name] = float(tree["pass_at_1"])
        if found:
            return stage, found
    return None, {}


def _size(run: Path) -> int:
    """Bytes of the files; one with several names counts once."""
    sizes: dict[tuple[int, int], int] = {}
    for directory, _, names in os.walk(run):
        for name in names:
            try:
                found = os.lstat(os.path.join(directory, name))
            except FileNotFoundError:  # of a run that goes on meanwhile
                continue
            sizes[found.st_dev, found.st_ino] = found.st_size
    return sum(sizes.values())
