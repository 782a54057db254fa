"""What a tracker is: it takes the numbers of one stage, step by step."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from h1r.common.files import write_text


class Tracker(Protocol):
    """Takes the numbers of a stage."""

    def log(self, step: int, values: Mapping[str, float | None]) -> None:
        """The numbers of one step, which may be NaN, infinite or None. Steps come in order, each once."""
        ...

    def close(self) -> None:
        """Writes what is still held back. Nothing is logged after it."""
        ...


class NoTracker:
    """Takes numbers and does nothing with them: the tracker of processes that write no files."""

    def log(self, step: int, values: Mapping[str, float | None]) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class TrackedStage:
    """The stage whose numbers a tracker takes."""

    run: str
    """Name of the run."""
    stage: str
    """"sft", "rl", "eval_rl": numbers are filed under it."""
    start_step: int
    """The first step to come: above 0 in a run that goes on."""
    recipe: dict[str, Any]
    """The resolved recipe."""
    directory: Path
    """A directory of the run for this kind of tracker's own files, the same in every stage; it exists."""

    def named(self, values: Mapping[str, float]) -> dict[str, float]:
        """The numbers under names that tell stages apart: "rl/reward"."""
        return {f"{self.stage}/{key}": value for key, value in values.items()}

    def run_id(self) -> str:
        """An identifier that stages and resumed attempts of one run share, made on first use."""
        path = self.directory / "run_id"
        if not path.exists():
            write_text(path, uuid.uuid4().hex[:12])
        return path.read_text(encoding="utf-8").strip()
