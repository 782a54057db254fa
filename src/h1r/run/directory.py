"""A run directory: everything that one recipe produced, in files a person can open.

    runs/NAME/
      recipe.json            the resolved recipe
      attempts.jsonl         one line per start: stage, time, code version, command line; settings that have changed
      stages.json            per stage: wall_seconds, peak_rss_bytes
      STAGE/                 what one stage wrote: metrics.jsonl, checkpoints/, model/, *.jsonl
      report.html report.json

Files are written atomically (temporary name, fsync, rename), so a `kill -9` leaves the old state or the new.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from h1r.common.files import read_json, write_json
from h1r.common.memory import peak_rss_bytes
from h1r.config import Recipe, load_recipe
from h1r.errors import UserError


def code_version() -> dict[str, str]:
    """The package version and, in a git checkout, the commit (with `+changes` when the tree is dirty)."""
    try:
        found = {"h1r": version("open-h1r")}
    except PackageNotFoundError:
        found = {"h1r": "unknown"}
    here = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        return subprocess.run(["git", "-C", str(here), *arguments], capture_output=True, text=True, check=True).stdout

    with suppress(OSError, subprocess.CalledProcessError):
        git("ls-files", "--error-unmatch", Path(__file__).name)  # an installed copy may lie in someone else's checkout
        changes = git("status", "--porcelain").strip()
        found["commit"] = git("rev-parse", "HEAD").strip() + ("+changes" if changes else "")
    return found


NO_RESULT = frozenset(
    {
        *("name", "trackers", "parallel", "engine", "rollout.max_failed_share"),
        *("eval.benchmarks", "eval.held_out"),  # a result is filed with all that it depends on
        *("corpus.executor", "corpus.workers", "corpus.address", "corpus.memory_mb"),
    }
)  # fmt: skip
"""Keys of a recipe that change no result, so that a run may go on with others."""
_ABOUT_STEPS = ("checkpoint_every", "keep_checkpoints", "time_limit_s", "max_idle_steps")
ON_RESUME = frozenset(
    {
        *("rl.steps", "rl.micro_batch_tokens", "sft.micro_batch_size", "threads"),
        *(f"{stage}.{key}" for stage in ("sft", "rl") for key in _ABOUT_STEPS),
    }
)
"""Keys that change nothing of what was computed, so that `--resume` may go on with others: a run is extended, or cut
into other micro-batches (sums are then taken in another order)."""


@dataclass(frozen=True)
class Run:
    """One run directory."""

    path: Path

    @classmethod
    def open(cls, path: str | Path, recipe: Recipe, resume: bool = False) -> Run:
        """Opens a run directory for `recipe`, creating it when it is new.

        An existing directory that holds another recipe is refused: mixing two recipes in one run would make its report
        a lie. What `NO_RESULT` names may differ, and `ON_RESUME` where a stage goes on; both are noted in
        attempts.jsonl.
        """
        run = cls(Path(path))
        try:
            run.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot make {run.path}: {error.strerror or error}; give another --out") from None
        resolved = recipe.model_dump(mode="json")
        stored = run.path / "recipe.json"
        # Keys that an earlier version did not have are at their defaults.
        known = load_recipe(stored).model_dump(mode="json") if stored.exists() else resolved
        changed = _differences(known, resolved)
        allowed = NO_RESULT | ON_RESUME if resume else NO_RESULT
        if refused := [key for key in changed if not _among(key, allowed)]:
            later = ", which may change with --resume" if _among(refused[0], ON_RESUME) else ""
            raise UserError(
                f"{stored} was made by another recipe (they differ in {refused[0]}{later}); "
                "give another --out, or delete that directory to start again"
            )
        write_json(stored, resolved)
        if changed:
            run._log_attempt("settings", changed=changed)
        return run

    def stage(self, name: str) -> Path:
        """The directory of one stage, created when missing."""
        directory = self.path / name
        directory.mkdir(parents=True, exist_ok=True)
        return directory

    def need(self, relative: str, made_by: str) -> Path:
        """The path of a file another stage must have written; `UserError` names the command that makes it."""
        path = self.path / relative
        if not path.exists():
            raise UserError(f"{path} is missing; run `h1r {made_by} {self.path}` first")
        return path

    @contextmanager
    def timed(self, stage: str, add: bool = True) -> Iterator[None]:
        """Notes the wall time and peak memory of the block in stages.json, also when the block fails.

        `add`: to the time of earlier attempts, for a stage that goes on from them; else in place of it.
        """
        self._log_attempt(stage)
        start = time.monotonic()
        try:
            yield
        finally:
            path = self.path / "stages.json"
            stages = read_json(path) if path.exists() else {}
            before = stages.get(stage, {}).get("wall_seconds", 0.0) if add else 0.0
            stages[stage] = {
                "wall_seconds": round(before + time.monotonic() - start, 3),
                "peak_rss_bytes": peak_rss_bytes(),
            }
            write_json(path, stages)

    def _log_attempt(self, stage: str, **more: Any) -> None:
        line = {"stage": stage, "time": time.time(), "argv": sys.argv, **code_version(), **more}
        with open(self.path / "attempts.jsonl", "a", encoding="utf-8") as handle:
            handle.write(json.dumps(line) + "\n")


def _differences(left: Any, right: Any, place: str = "") -> dict[str, list[Any]]:
    """The dotted keys in which two JSON trees differ, with both values."""
    if isinstance(left, dict) and isinstance(right, dict):
        found: dict[str, list[Any]] = {}
        for key in sorted({*left, *right}):
            found |= _differences(left.get(key), right.get(key), f"{place}.{key}" if place else key)
        return found
    return {} if left == right else {place: [left, right]}


def _among(key: str, allowed: frozenset[str]) -> bool:
    """Whether a dotted key, or a table that it lies in, is allowed."""
    parts = key.split(".")
    return any(".".join(parts[:depth]) in allowed for depth in range(1, len(parts) + 1))
