"""Checkpoints of a stage: directories that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from h1r.common.files import PARTIAL
from h1r.errors import UserError


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

    def step_to_resume(self, resume: bool) -> int:
        """The step that a stage goes on from: that of the newest checkpoint if it is to `resume`, else 0."""
        found = self.latest() if resume else None
        return found[0] if found else 0

    def at(self, step: int) -> Path:
        """The directory of the checkpoint at a step; `UserError` where this process does not see it."""
        found = self.directory / f"step_{step:08d}"
        if not found.is_dir():
            raise UserError(f"{found} is missing; all processes of a run must see one run directory")
        return found

    def _steps(self) -> list[int]:
        if not self.directory.exists():
            return []
        return sorted(int(path.name.removeprefix("step_")) for path in self.directory.glob("step_*"))
