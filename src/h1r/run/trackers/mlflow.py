"""MLflow. Stages and resumed attempts of a run are one run there."""

from __future__ import annotations

import time
from collections.abc import Mapping

from mlflow.entities import Metric, Param
from mlflow.tracking import MlflowClient

from h1r.common.files import write_text
from h1r.config import MlflowSection
from h1r.run.trackers.base import TrackedStage


class MlflowTracker:
    def __init__(self, section: MlflowSection, stage: TrackedStage) -> None:
        self._stage = stage
        # A client of our own: MLflow's current run is a global of each thread.
        self._client = MlflowClient(tracking_uri=section.uri)
        known = stage.directory / "mlflow_run_id"
        if known.exists():
            self._run_id = known.read_text(encoding="utf-8").strip()
            return
        experiment = self._client.get_experiment_by_name(section.experiment)
        experiment_id = experiment.experiment_id if experiment else self._client.create_experiment(section.experiment)
        self._run_id = self._client.create_run(experiment_id, run_name=stage.run).info.run_id
        write_text(known, self._run_id)
        self._client.log_batch(self._run_id, params=[Param("seed", str(stage.recipe.get("seed")))])
        self._client.log_dict(self._run_id, stage.recipe, "recipe.json")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, step) for name, value in self._stage.named(values).items()]
        self._client.log_batch(self._run_id, metrics=metrics)

    def close(self) -> None:
        self._client.set_terminated(self._run_id)
