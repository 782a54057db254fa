"""The trackers of a recipe, for one stage."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from h1r.config import Recipe, TrackerSection
from h1r.errors import UserError
from h1r.run.directory import Run
from h1r.run.metrics import Metrics
from h1r.run.trackers.background import Background
from h1r.run.trackers.base import TrackedStage, Tracker
from h1r.run.trackers.registry import PACKAGES, TRACKERS


class Several:
    """Hands the numbers to several trackers in turn."""

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self._trackers = trackers

    def log(self, step: int, values: Mapping[str, float | None]) -> None:
        for tracker in self._trackers:
            tracker.log(step, values)

    def close(self) -> None:
        for tracker in self._trackers:
            tracker.close()


def open_trackers(recipe: Recipe, run: Run, stage: str, start_step: int = 0) -> Several:
    """STAGE/metrics.jsonl and every table of `[[trackers]]`.

    start_step: the step that the stage goes on from; later lines of metrics.jsonl are cut off. Raises `UserError` for a
    kind that nothing is registered under, or whose package is not installed. A tracker that fails later is dropped.
    """
    others = _others(recipe, run, stage, start_step)
    return Several([Metrics(run.stage(stage) / "metrics.jsonl", start_step), *others])


def log_summary(recipe: Recipe, run: Run, stage: str, summary: Mapping[str, Any]) -> None:
    """Hands what a stage without steps returned to `[[trackers]]`, as step 0. Raises as `open_trackers` does."""
    if values := dict(_numbers(summary)):
        several = Several(_others(recipe, run, stage, 0))
        several.log(0, values)
        several.close()


def check_trackers(recipe: Recipe) -> None:
    """Raises as `open_trackers` does, and opens none."""
    for kind in [section.kind for section in recipe.trackers]:
        if kind in PACKAGES and importlib.util.find_spec(kind) is None:
            raise UserError(
                f'the tracker "{kind}" needs the package {kind}, which is not installed; `pip install {kind}`, or take '
                "it out of [[trackers]]"
            )
        if kind not in TRACKERS:
            TRACKERS.require(kind)


def _others(recipe: Recipe, run: Run, stage: str, start_step: int) -> list[Tracker]:
    check_trackers(recipe)
    found: list[Tracker] = []
    for section in recipe.trackers:
        directory = (run.path / "trackers" / section.kind).resolve()
        tracked = TrackedStage(recipe.name, stage, start_step, recipe.model_dump(mode="json"), directory)
        found.append(Background(section.kind, partial(_make, section, tracked)))
    return found


def _make(section: TrackerSection, stage: TrackedStage) -> Tracker:
    stage.directory.mkdir(parents=True, exist_ok=True)
    tracker: Tracker = TRACKERS.require(section.kind)(section, stage)
    return tracker


def _numbers(tree: Mapping[str, Any], place: str = "") -> list[tuple[str, float]]:
    """The numbers of nested tables under names such as "benchmarks/aime/pass_at_1". Lists are left out."""
    found: list[tuple[str, float]] = []
    for key, value in tree.items():
        if isinstance(value, Mapping):
            found += _numbers(value, f"{place}{key}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found.append((f"{place}{key}", value))
    return found
