"""Weights & Biases. Stages and resumed attempts of a run are one run there, each stage with steps of its own."""

from __future__ import annotations

from collections.abc import Mapping

import wandb

from h1r.config import WandbSection
from h1r.run.trackers.base import TrackedStage


class WandbTracker:
    def __init__(self, section: WandbSection, stage: TrackedStage) -> None:
        self._stage = stage
        self._run = wandb.init(
            project=section.project,
            entity=section.entity,
            mode=section.mode,
            tags=section.tags,
            id=stage.run_id(),
            resume="allow",
            name=stage.run,
            config=stage.recipe,
            dir=stage.directory,
        )
        # Its own step may never fall, and stages count from 0.
        self._run.define_metric(f"{stage.stage}/step")
        self._run.define_metric(f"{stage.stage}/*", step_metric=f"{stage.stage}/step")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(self._stage.named({**values, "step": step}))

    def close(self) -> None:
        self._run.finish()
