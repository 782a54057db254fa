"""A run directory: everything that one recipe produced, in files a person can open.

    runs/NAME/
      recipe.json            the resolved recipe
      attempts.jsonl         one line per start: stage, time, code version, command line, machine; settings that changed
      stages.json            per stage: wall_seconds, peak_rss_bytes
      STAGE/                 what one stage wrote: metrics.jsonl, checkpoints/, model/, *.jsonl
      report.html report.json

Files are written atomically (temporary name, fsync, rename), so a `kill -9` leaves the old state or the new.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from itertools import takewhile
from pathlib import Path
from shlex import quote
from typing import Any

from h1r.common.files import read_json, write_json
from h1r.common.hub import local_directory
from h1r.common.machine import machine
from h1r.common.memory import peak_rss_bytes
from h1r.common.progress import note
from h1r.config import Recipe, load_recipe
from h1r.errors import UserError
from h1r.run.changes import NO_RESULT, among, differences, is_bare, measured_before, running, set_aside, spoilt


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


TRAINED = ("sft", "rl")
"""The stages that leave a model, in order."""
_ABOUT_STEPS = ("checkpoint_every", "keep_checkpoints", "time_limit_s", "max_idle_steps")
ON_RESUME = frozenset(
    {
        *("rl.steps", "rl.micro_batch_tokens", "rl.journal", "sft.micro_batch_size", "threads"),
        *(f"{stage}.{key}" for stage in ("sft", "rl") for key in _ABOUT_STEPS),
    }
)
"""Keys that change nothing of what was computed, so that `--resume` may go on with others: a run is extended, or cut
into other micro-batches (sums are then taken in another order)."""


DEFAULTS = "h1r.json"
"""Beside a model: tables of the recipe that say how it is asked, where no run says so, and `PROMPT`."""
PROMPT = "prompt"
"""Its key for what the questions of training stood in."""
TURNS = "turns"
"""Its key for whether the model learnt conversations of several turns."""


def model_directory(name: str) -> Path:
    """The directory of a checkpoint by its name: of a run, that of the model trained last; of the hub's, the name as a
    path. `UserError` as `local_directory` and `Run.last_trained` raise."""
    path = local_directory(name) or Path(name)
    return Run(path).last_model() if (path / "recipe.json").exists() else path


def stored_defaults(checkpoint: str) -> dict[str, Any]:
    """What `DEFAULTS` of a checkpoint, or of a run's last model, holds; nothing where there is none. `UserError` for
    one that is no object."""
    kept = model_directory(checkpoint) / DEFAULTS
    found = read_json(kept) if kept.exists() else {}
    if not isinstance(found, dict):
        raise UserError(f"{kept} holds no object; mend it, or remove it")
    return found


def prompt_of(checkpoint: str) -> str | None:
    """What the training of a checkpoint, or of a run's last model, asked its problems in, with `{question}` in it; None
    where it does not say, as one does not that was trained elsewhere."""
    found = stored_defaults(checkpoint).get(PROMPT)
    return found if isinstance(found, str) and "{question}" in found else None


def knows_turns(checkpoint: str) -> bool:
    """Whether a checkpoint, or a run's last model, learnt conversations of several turns."""
    return stored_defaults(checkpoint).get(TURNS) is True


@dataclass(frozen=True)
class Run:
    """One run directory. `made`: what this `open` made, itself and directories above it, from below."""

    path: Path
    made: tuple[Path, ...] = field(default=(), compare=False)

    @classmethod
    def open(cls, path: str | Path, recipe: Recipe, resume: bool = False) -> Run:
        """Opens a run directory for `recipe`, creating it when it is new.

        Another recipe than the stored one is refused where something that depends on the difference has begun: mixing
        two recipes in one run would make its report a lie. What the difference only measures anew is set aside
        (`changes.py`). What `NO_RESULT` names may differ, and `ON_RESUME` where a stage goes on; all of it is noted in
        attempts.jsonl.
        """
        new = takewhile(lambda one: not one.exists(), (Path(path), *Path(path).parents))
        run = cls(Path(path), made=tuple(new))
        try:
            run.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot make {run.path}: {error.strerror or error}; give another --out") from None
        resolved = recipe.model_dump(mode="json")
        stored = run.path / "recipe.json"
        # Keys that an earlier version did not have are at their defaults.
        known = load_recipe(stored).model_dump(mode="json") if stored.exists() else resolved
        changed = differences(known, resolved)
        allowed = NO_RESULT | ON_RESUME if resume else NO_RESULT
        mattering = [key for key in changed if not among(key, allowed)]
        for key in mattering:
            if stage := running(run.path, key):
                raise UserError(
                    f"another process runs {stage} in {run.path} with another recipe (they differ in {key}); wait for "
                    "it, or give another --out"
                )
            if paths := spoilt(run.path, key):
                later = ", which may change with --resume" if among(key, ON_RESUME) else ""
                raise UserError(
                    f"{stored} was made by another recipe (they differ in {key}{later}); give another --out, or delete "
                    f"{' and '.join(paths)} to make that part again"
                )
        for stage in measured_before(run.path, mattering):
            set_aside(run.path, stage)
            note(f"{stage}: to be measured again, since {mattering[0]} has changed")
        write_json(stored, resolved)
        if changed:
            run._log_attempt("settings", changed=changed)
        return run

    @contextmanager
    def leaving_nothing(self) -> Iterator[None]:
        """Removes a run that is new when the block raises `UserError` and has made nothing: a mistake in a command is
        no run. It stays where the message sends the reader to it."""
        try:
            yield
        except UserError as error:
            if self.made and str(self.path) not in str(error) and is_bare(self.path):
                shutil.rmtree(self.path, ignore_errors=True)
                with suppress(OSError):  # another run may lie there by now
                    for directory in self.made[1:]:
                        directory.rmdir()
            raise

    def stage(self, name: str) -> Path:
        """The directory of one stage, created when missing."""
        directory = self.path / name
        directory.mkdir(parents=True, exist_ok=True)
        return directory

    def models(self) -> list[str]:
        """The stages whose models the run has now, in order: those of `TRAINED`."""
        return [stage for stage in TRAINED if (self.path / stage / "model").is_dir()]

    def last_trained(self) -> str:
        """ "rl" or "sft", whichever was trained last; `UserError` when neither was."""
        if not (trained := self.models()):
            raise UserError(f"{self.path} holds no trained model; run `h1r sft {quote(str(self.path))}` first")
        return trained[-1]

    def last_model(self) -> Path:
        """The checkpoint of the model trained last. Raises as `last_trained` does."""
        return self.path / self.last_trained() / "model"

    def need(self, relative: str, made_by: str) -> Path:
        """The path of a file another stage must have written; `UserError` names the command that makes it."""
        path = self.path / relative
        if not path.exists():
            raise UserError(f"{path} is missing; run `h1r {made_by} {quote(str(self.path))}` first")
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
        line = {"stage": stage, "time": time.time(), "argv": sys.argv, **code_version(), "machine": machine(), **more}
        with open(self.path / "attempts.jsonl", "a", encoding="utf-8") as handle:
            handle.write(json.dumps(line) + "\n")
