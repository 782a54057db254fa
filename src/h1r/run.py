"""A run directory: everything that one recipe produced, in files a person can open.

    runs/NAME/
      recipe.json            the resolved recipe
      attempts.jsonl         one line per start: stage, time, code version, command line
      stages.json            per stage: wall_seconds, peak_rss_bytes
      STAGE/                 what one stage wrote: metrics.jsonl, checkpoints/, model/, *.jsonl
      report.html report.json

Files are written atomically (temporary name, fsync, rename), so a `kill -9` leaves the old state or the new.
"""

from __future__ import annotations

import json
import math
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from h1r.config import Recipe, load_recipe
from h1r.errors import UserError
from h1r.files import PARTIAL, atomic, write_text


def write_json(path: str | Path, value: Any) -> None:
    """Writes JSON so that the file appears whole or not at all."""
    with atomic(path) as partial, open(partial, "w", encoding="utf-8") as handle:
        json.dump(value, handle, indent=1, ensure_ascii=False)


def read_json(path: str | Path) -> Any:
    """Reads JSON; a missing or malformed file raises `UserError`."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}; has the stage that writes it run?") from None
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}, line {error.lineno}: not JSON ({error.msg}); delete it and run its stage again"
        ) from None


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


def peak_rss_bytes() -> int:
    """The peak resident memory of this process and of the largest child that has ended, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * max(
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    )


def free_memory_bytes(root: Path = Path("/")) -> int | None:
    """Bytes of memory that this process may still take: of the machine, and of its control group where one has a limit
    (of either version). None where the system does not say. root: of the file system, for tests.

    Pages of files that nobody has used for a while count to a group's memory, but give way when it is needed.
    """
    found: list[int] = []
    with suppress(OSError, ValueError, StopIteration):
        lines = (root / "proc/meminfo").read_text(encoding="ascii").splitlines()
        found.append(next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")))
    groups = (
        ("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
        ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    )
    for place, most, used, idle in groups:
        with suppress(OSError, ValueError):  # without a limit the second version says "max"
            free = int((root / place / most).read_text()) - int((root / place / used).read_text())
            counts = dict(line.split() for line in (root / place / "memory.stat").read_text().splitlines())
            found.append(free + int(counts.get(idle, 0)))
    return min(found, default=None)


NO_RESULT = frozenset(
    {"name", "parallel", "engine", "corpus.executor", "corpus.workers", "corpus.address", "corpus.memory_mb"}
)  # fmt: skip
"""Keys of a recipe that change no result, so that a run may go on with others."""


@dataclass(frozen=True)
class Run:
    """One run directory."""

    path: Path

    @classmethod
    def open(cls, path: str | Path, recipe: Recipe) -> Run:
        """Opens a run directory for `recipe`, creating it when it is new.

        An existing directory that holds another recipe is refused: mixing two recipes in one run would make its report
        a lie. `NO_RESULT` is not compared.
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
        if difference := _first_difference(known, resolved):
            raise UserError(
                f"{stored} was made by another recipe (they differ in {difference}); "
                "give another --out, or delete that directory to start again"
            )
        write_json(stored, resolved)
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

    def _log_attempt(self, stage: str) -> None:
        line = {"stage": stage, "time": time.time(), "argv": sys.argv, **code_version()}
        with open(self.path / "attempts.jsonl", "a", encoding="utf-8") as handle:
            handle.write(json.dumps(line) + "\n")


class Metrics:
    """`metrics.jsonl`: one flat JSON object per step, flushed at once.

    On resume at step N, lines of step N and later (written by the attempt that died) are cut off, so that a step has
    one line.
    """

    def __init__(self, path: str | Path, start_step: int = 0) -> None:
        self.path = Path(path)
        kept = [line for line in read_metrics(self.path) if line["step"] < start_step] if self.path.exists() else []
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))
        self._handle = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 - lives as long as the stage

    def log(self, step: int, **values: float | int | None) -> None:
        """Appends the line of one step. NaN and infinity become null: they are no JSON, and no measurement."""
        sane = {key: value if value is not None and math.isfinite(value) else None for key, value in values.items()}
        self._handle.write(json.dumps({"step": step, "time": round(time.time(), 3), **sane}) + "\n")
        self._handle.flush()

    def close(self) -> None:
        self._handle.close()


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a metrics file; a torn last line (the writer was killed) is left out."""
    lines = []
    for text in Path(path).read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


class Checkpoints:
    """`checkpoints/step_00000100/` directories, each written whole or not at all, the newest `keep` kept."""

    def __init__(self, stage: Path, keep: int = 2) -> None:
        self.directory = stage / "checkpoints"
        self.keep = keep

    def save(self, step: int, write: Callable[[Path], None]) -> Path:
        """Calls `write(directory)` on a temporary directory and renames it to its final name."""
        partial = self.begin(step)
        write(partial)
        return self.finish(step)

    def partial(self, step: int) -> Path:
        """Where a checkpoint lies while it is being written."""
        return self.directory / f".step_{step:08d}{PARTIAL}"

    def begin(self, step: int) -> Path:
        """An empty directory for a checkpoint that several processes write; one of them begins and finishes it."""
        partial = self.partial(step)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        return partial

    def finish(self, step: int) -> Path:
        """Renames what was written since `begin` to its final name, and returns that."""
        final, partial = self.directory / f"step_{step:08d}", self.partial(step)
        for path in partial.rglob("*"):
            if path.is_file():
                with open(path, "rb") as handle:
                    os.fsync(handle.fileno())
        shutil.rmtree(final, ignore_errors=True)
        os.replace(partial, final)
        for old in self._steps()[: -self.keep]:
            shutil.rmtree(self.directory / f"step_{old:08d}", ignore_errors=True)
        return final

    def latest(self) -> tuple[int, Path] | None:
        """(step, directory) of the newest whole checkpoint."""
        steps = self._steps()
        return (steps[-1], self.directory / f"step_{steps[-1]:08d}") if steps else None

    def _steps(self) -> list[int]:
        if not self.directory.exists():
            return []
        return sorted(int(path.name.removeprefix("step_")) for path in self.directory.glob("step_*"))


def _first_difference(left: Any, right: Any, place: str = "") -> str:
    """The dotted key of the first difference between two JSON trees, or ''. What `Run.open` names is left out."""
    if isinstance(left, dict) and isinstance(right, dict):
        for key in sorted({*left, *right}):
            path = f"{place}.{key}" if place else key
            if path not in NO_RESULT and (found := _first_difference(left.get(key), right.get(key), path)):
                return found
        return ""
    return "" if left == right else place
