"""Trackers: what reaches them, and that one which fails, hangs or is not installed stops no run."""

from __future__ import annotations

import importlib.util
import json
import sys
import threading
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from h1r.config import Recipe, resolve
from h1r.errors import UserError
from h1r.run.directory import Run
from h1r.run.metrics import read_metrics
from h1r.run.trackers.background import Background
from h1r.run.trackers.base import TrackedStage
from h1r.run.trackers.open import log_summary, open_trackers
from h1r.run.trackers.registry import TRACKERS


def recipe_with(*trackers: dict[str, Any]) -> Recipe:
    return resolve({"name": "tracked", "trackers": list(trackers)}, None, "recipe")


class Remembering:
    """Keeps what it is given, for every stage of the run."""

    seen: ClassVar[list[tuple[str, int, dict[str, float]]]] = []
    made: ClassVar[list[tuple[Any, TrackedStage]]] = []
    closed = 0

    def __init__(self, section: Any, stage: TrackedStage) -> None:
        self.made.append((section, stage))
        self._stage = stage.stage

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.seen.append((self._stage, step, dict(values)))

    def close(self) -> None:
        type(self).closed += 1


class Broken(Remembering):
    def log(self, step: int, values: Mapping[str, float]) -> None:
        raise ConnectionError("the service is away\nand more")


class Leaving(Remembering):
    def __init__(self, section: Any, stage: TrackedStage) -> None:
        raise SystemExit(3)


@pytest.fixture(autouse=True)
def own_trackers() -> Iterator[None]:
    Remembering.seen, Remembering.made, Remembering.closed = [], [], 0
    for name, kind in (("remembering", Remembering), ("broken", Broken), ("leaving", Leaving)):
        TRACKERS.add(name, kind, replace=True)
    yield
    for name in ("remembering", "broken", "leaving"):
        del TRACKERS._parts[name]


def test_every_step_reaches_the_json_lines_and_each_tracker(tmp_path: Path) -> None:
    recipe = recipe_with({"kind": "remembering", "options": {"colour": "red"}})
    run = Run.open(tmp_path / "run", recipe)
    tracker = open_trackers(recipe, run, "rl", 4)
    for step in (4, 5):
        tracker.log(step, {"reward": step / 10, "loss": float("nan"), "absent": None})
    tracker.close()
    assert [(line["step"], line["reward"]) for line in read_metrics(run.path / "rl/metrics.jsonl")] == [
        (4, 0.4),
        (5, 0.5),
    ]
    assert Remembering.seen == [("rl", 4, {"reward": 0.4}), ("rl", 5, {"reward": 0.5})]
    assert Remembering.closed == 1
    ((section, stage),) = Remembering.made
    assert section.options == {"colour": "red"}
    assert (stage.run, stage.stage, stage.start_step, stage.recipe["name"]) == ("tracked", "rl", 4, "tracked")
    assert stage.directory == run.path / "trackers" / "remembering"


@pytest.mark.parametrize("kind", ["broken", "leaving"])
def test_a_tracker_that_fails_is_noted_once_and_the_others_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], progress_is_shown: None, kind: str
) -> None:
    recipe = recipe_with({"kind": kind}, {"kind": "remembering"})
    run = Run.open(tmp_path / "run", recipe)
    tracker = open_trackers(recipe, run, "sft")
    for step in range(5):
        tracker.log(step, {"loss": 1.0})
    tracker.close()
    assert len(read_metrics(run.path / "sft/metrics.jsonl")) == 5
    assert [step for _, step, _ in Remembering.seen] == [0, 1, 2, 3, 4]
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("tracker ")]
    assert len(said) == 1
    assert said[0].startswith(f"tracker {kind} failed (")
    assert said[0].endswith("the run goes on without it")


def test_a_tracker_that_hangs_delays_no_step_and_the_end_by_a_limit(
    capsys: pytest.CaptureFixture[str], progress_is_shown: None
) -> None:
    never = threading.Event()

    class Hanging:
        def log(self, step: int, values: Mapping[str, float | None]) -> None:
            never.wait()

        def close(self) -> None: ...

    tracker = Background("hanging", Hanging, close_seconds=0.2)
    for step in range(20_000):
        tracker.log(step, {"loss": 1.0})
    tracker.close()
    never.set()
    assert capsys.readouterr().err.count("tracker hanging ") == 1


def test_the_result_of_a_stage_without_steps_reaches_trackers_under_its_path(tmp_path: Path) -> None:
    recipe = recipe_with({"kind": "remembering"})
    run = Run.open(tmp_path / "run", recipe)
    result = {"pass_at_1": 0.5, "name": "x", "whole": True, "table": [1], "benchmarks": {"amc": {"pass_at_1": 0.25}}}
    log_summary(recipe, run, "eval_rl", result)
    assert Remembering.seen == [("eval_rl", 0, {"pass_at_1": 0.5, "benchmarks/amc/pass_at_1": 0.25})]


def test_other_trackers_make_no_other_run(tmp_path: Path) -> None:
    Run.open(tmp_path / "run", recipe_with())
    Run.open(tmp_path / "run", recipe_with({"kind": "remembering"}))


def test_an_unknown_kind_is_refused_with_the_nearest(tmp_path: Path) -> None:
    recipe = recipe_with({"kind": "wandbb"})
    with pytest.raises(UserError, match=r"unknown tracker `wandbb`; use one of .*`wandb`"):
        open_trackers(recipe, Run.open(tmp_path / "run", recipe), "rl")


def test_a_tracker_whose_package_is_not_installed_is_refused_with_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    recipe = recipe_with({"kind": "wandb"})
    with pytest.raises(UserError, match="needs the package wandb, which is not installed; `pip install wandb`"):
        open_trackers(recipe, Run.open(tmp_path / "run", recipe), "rl")


def test_a_wrong_key_of_a_tracker_is_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"unknown key `trackers\.0\.projct`; did you mean `trackers\.0\.project`\?"):
        recipe_with({"kind": "wandb", "projct": "x"})
    with pytest.raises(UserError, match=r"`trackers\.0\.kind` is missing"):
        recipe_with({"project": "x"})


def log_two_stages(recipe: Recipe, path: Path) -> None:
    run = Run.open(path, recipe)
    for stage, start in (("sft", 0), ("rl", 0), ("rl", 2)):
        tracker = open_trackers(recipe, run, stage, start)
        for step in range(start, start + 2):
            tracker.log(step, {"reward": step / 4, "loss": float("nan")})
        tracker.close()
    log_summary(recipe, run, "eval_rl", {"pass_at_1": 0.75})


def test_weights_and_biases_gets_one_run_whose_stages_have_their_own_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module in the place of the real one, which the next test asks."""
    calls: list[tuple[str, Any]] = []

    class FakeRun:
        def define_metric(self, name: str, step_metric: str | None = None) -> None:
            calls.append(("define", (name, step_metric)))

        def log(self, values: dict[str, float]) -> None:
            calls.append(("log", values))

        def finish(self) -> None:
            calls.append(("finish", None))

    def init(**given: Any) -> FakeRun:
        calls.append(("init", given["id"]))
        assert given["resume"] == "allow"
        return FakeRun()

    fake = types.ModuleType("wandb")
    fake.init = init  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", fake)
    sys.modules.pop("h1r.run.trackers.wandb", None)
    TRACKERS._parts.pop("wandb", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: fake)
    log_two_stages(recipe_with({"kind": "wandb"}), tmp_path / "run")
    sys.modules.pop("h1r.run.trackers.wandb", None)  # it holds the module that is no longer there
    TRACKERS._parts.pop("wandb", None)
    assert len({given for what, given in calls if what == "init"}) == 1
    assert ("define", ("rl/*", "rl/step")) in calls
    logged = [given for what, given in calls if what == "log"]
    assert logged[3] == {"rl/reward": 0.25, "rl/step": 1}
    assert logged[-1] == {"eval_rl/pass_at_1": 0.75, "eval_rl/step": 0}
    assert sum(what == "finish" for what, _ in calls) == 4


def test_weights_and_biases_offline(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], progress_is_shown: None
) -> None:
    pytest.importorskip("wandb")
    log_two_stages(recipe_with({"kind": "wandb", "mode": "offline"}), tmp_path / "run")
    assert "goes on without it" not in capsys.readouterr().err
    written = list((tmp_path / "run/trackers/wandb/wandb").glob("offline-run-*/*.wandb"))
    assert len({path.name for path in written}) == 1  # named after the run's identifier
    text = b"".join(path.read_bytes() for path in written)
    assert b"rl/reward" in text
    assert b"eval_rl/pass_at_1" in text


def test_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log_two_stages(recipe_with({"kind": "tensorboard"}), tmp_path / "run")
    events = EventAccumulator(str(tmp_path / "run/trackers/tensorboard/rl"))
    events.Reload()
    assert [(one.step, one.value) for one in events.Scalars("rl/reward")] == [(i, i / 4) for i in range(4)]
    assert events.Tags()["scalars"] == ["rl/reward"]


def test_trackio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio")
    import sqlite3

    log_two_stages(recipe_with({"kind": "trackio", "project": "h1rtest"}), tmp_path / "run")
    (database,) = (tmp_path / "trackio").rglob("*.db")
    with sqlite3.connect(database) as connection:
        rows = [(step, json.loads(text)) for step, text in connection.execute("select step, metrics from metrics")]
    assert sorted((step, one["rl/reward"]) for step, one in rows if "rl/reward" in one) == [
        (i, i / 4) for i in range(4)
    ]


def test_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    uri = (tmp_path / "mlruns").as_uri()
    log_two_stages(recipe_with({"kind": "mlflow", "uri": uri}), tmp_path / "run")
    client = MlflowClient(tracking_uri=uri)
    (found,) = client.search_runs([client.get_experiment_by_name("open-h1r").experiment_id])
    history = client.get_metric_history(found.info.run_id, "rl/reward")
    assert sorted((one.step, one.value) for one in history) == [(i, i / 4) for i in range(4)]
    assert found.data.metrics["eval_rl/pass_at_1"] == 0.75
