"""trackio: a local database, or a Space."""

from __future__ import annotations

from collections.abc import Mapping

import trackio

from h1r.config import TrackioSection
from h1r.run.trackers.base import TrackedStage


class TrackioTracker:
    def __init__(self, section: TrackioSection, stage: TrackedStage) -> None:
        self._stage = stage
        self._run = trackio.init(
            project=section.project,
            name=f"{stage.run}-{stage.run_id()}",
            space_id=section.space_id,
            config=stage.recipe,
            resume="allow",
            embed=False,
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(self._stage.named(values), step=step)

    def close(self) -> None:
        self._run.finish()
