"""Where the numbers of a run go besides its own files."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from h1r.config.base import Section


class WandbSection(Section):
    """Weights & Biases (package `wandb`)."""

    kind: Literal["wandb"]
    """Weights & Biases."""
    project: str = "open-h1r"
    """Project that the run is filed under."""
    entity: str | None = None
    """User or team; unset: the default of the account."""
    mode: Literal["online", "offline"] = "online"
    """`offline` writes files that `wandb sync` sends later."""
    tags: list[str] = []
    """Tags of the run."""


class TensorboardSection(Section):
    """TensorBoard (package `tensorboard`)."""

    kind: Literal["tensorboard"]
    """Event files that `tensorboard --logdir` shows."""
    directory: str | None = None
    """Where event files go, a directory for each stage; unset: RUN/trackers/tensorboard."""


class TrackioSection(Section):
    """trackio (package `trackio`)."""

    kind: Literal["trackio"]
    """A local database that `trackio show` shows, or a Space."""
    project: str = "open-h1r"
    """Project that the run is filed under."""
    space_id: str | None = None
    """Hugging Face Space that it is sent to; unset: this machine."""


class MlflowSection(Section):
    """MLflow (package `mlflow` or `mlflow-skinny`)."""

    kind: Literal["mlflow"]
    """An MLflow tracking server or store."""
    experiment: str = "open-h1r"
    """Experiment that the run is filed under."""
    uri: str | None = None
    """Tracking server or store, such as "http://127.0.0.1:5000"; unset: MLflow's own default."""


class OwnTrackerSection(Section):
    """A tracker that a plugin registers (docs/guide/add-a-tracker.md)."""

    kind: Annotated[str, Field(min_length=1)]
    """The name that it is registered under."""
    options: dict[str, Any] = {}
    """What the tracker reads."""


TRACKER_KINDS: dict[str, type[Section]] = {
    "wandb": WandbSection,
    "tensorboard": TensorboardSection,
    "trackio": TrackioSection,
    "mlflow": MlflowSection,
    "own": OwnTrackerSection,
}
"""Tables of `[[trackers]]` by `kind`; "own" stands for every other name."""


def _kind(given: Any) -> str:
    kind = given.get("kind") if isinstance(given, dict) else getattr(given, "kind", None)
    return kind if kind in ("wandb", "tensorboard", "trackio", "mlflow") else "own"


TrackerSection = Annotated[
    Annotated[WandbSection, Tag("wandb")]
    | Annotated[TensorboardSection, Tag("tensorboard")]
    | Annotated[TrackioSection, Tag("trackio")]
    | Annotated[MlflowSection, Tag("mlflow")]
    | Annotated[OwnTrackerSection, Tag("own")],
    Discriminator(_kind),
]
