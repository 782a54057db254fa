"""TensorBoard: event files, a directory for each stage."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from h1r.config import TensorboardSection
from h1r.run.trackers.base import TrackedStage


class TensorboardTracker:
    def __init__(self, section: TensorboardSection, stage: TrackedStage) -> None:
        directory = Path(section.directory) if section.directory else stage.directory
        self._stage = stage
        # What an attempt that died wrote from this step on is not shown.
        purge = stage.start_step or None
        self._writer = SummaryWriter(str(directory / stage.stage), purge_step=purge)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in self._stage.named(values).items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()
