"""Trackers by name: what `kind` in `[[trackers]]` chooses from."""

from __future__ import annotations

from typing import Any

from h1r.common.registry import Registry

TRACKERS: Registry[Any] = Registry(
    "tracker",
    {
        "wandb": "h1r.run.trackers.wandb:WandbTracker",
        "tensorboard": "h1r.run.trackers.tensorboard:TensorboardTracker",
        "trackio": "h1r.run.trackers.trackio:TrackioTracker",
        "mlflow": "h1r.run.trackers.mlflow:MlflowTracker",
    },
)
"""Classes made with (section, stage): the table of `[[trackers]]` and the `TrackedStage`."""
PACKAGES = ("wandb", "tensorboard", "trackio", "mlflow")
"""Kinds that need the package of the same name."""

tracker = TRACKERS.register
"""Decorator of a class with `log` and `close` (see `Tracker`): `@h1r.tracker("mine")`, then `kind = "mine"`."""
