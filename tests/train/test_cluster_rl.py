"""RL in actors of a Ray cluster: the rollouts, the weights and the files of one process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from test_parallel_rl import assert_same, recipe_for, trained_alone
from test_rl import _examples, ready_for_rl
from tiny_training import assert_same_stage, checksum_verdicts, run_from, training_recipe

import h1r.train.rl as module
from h1r.config import ClusterSection, Recipe
from h1r.errors import UserError
from h1r.models import save
from h1r.run.directory import Run
from h1r.train.cluster.engines import RayEngines
from h1r.train.cluster.handles import RayPolicy, open_cluster
from h1r.train.cluster.replies import answers
from h1r.train.fleet import Fleet
from h1r.train.pool import build_pool
from h1r.train.rl import rl
from h1r.train.rollouts import Group
from h1r.train.start import starting_model
from h1r.verify.workers.ray_cluster import RayCluster

pytest.importorskip("ray")


def on_cluster(trainers: int = 1, engines: int = 1, **more: Any) -> Recipe:
    section = ClusterSection(backend="ray", trainers=trainers, engines=engines)
    return recipe_for(**more).model_copy(update={"cluster": section})


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    with open_cluster(on_cluster(2, 2)) as found:
        yield found


@pytest.fixture(scope="module")
def alone(curated: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return trained_alone(curated, tmp_path_factory.mktemp("rl") / "alone", recipe_for())


def graded_by_checksum(monkeypatch: pytest.MonkeyPatch, before: Callable[[RayPolicy, RayEngines], None]) -> list[float]:
    """`rl` with the tests' verifier; before: sees both halves before the loop begins. When the time of each attempt
    began."""
    plain = module.train_rl
    began: list[float] = []

    def train(policy: RayPolicy, fleet: Fleet, verifier: Any, *rest: Any, **more: Any) -> dict[str, Any]:
        assert isinstance(fleet.engine, RayEngines)
        before(policy, fleet.engine)
        began.append(more["began"])
        return plain(policy, fleet, checksum_verdicts, *rest, **more)

    monkeypatch.setattr(module, "train_rl", train)
    return began


@pytest.mark.slow
def test_a_trainer_and_an_engine_make_the_bits_of_one_process_though_the_trainer_dies(
    cluster: RayCluster,
    curated: Path,
    alone: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    started = []

    def kill(policy: RayPolicy, _: RayEngines) -> None:
        """The first one in its fourth step, two steps after a checkpoint."""
        train = policy.step
        started.append(policy)

        def training(groups: Sequence[Group], step: int) -> dict[str, float]:
            if step == 3 and len(started) == 1:
                cluster.ray.kill(policy._trainers[0])
            return train(groups, step)

        policy.step = training  # type: ignore[method-assign]

    recipe = on_cluster()
    run = ready_for_rl(curated, tmp_path / "run", recipe)
    began = graded_by_checksum(monkeypatch, kill)
    rl(recipe, run)
    assert len(started) == 2
    assert began[0] == began[1]
    assert_same_stage(run.path / "rl", alone.path / "rl")
    assert _examples(run) == _examples(alone)
    said = capsys.readouterr().err
    assert "one of 1 trainer died (" in said
    assert "; others go on from step 2\n" in said


@pytest.mark.slow
def test_two_trainers_in_shards_and_two_engines_ahead_of_them_learn_what_one_process_does_though_engines_die(
    cluster: RayCluster,
    curated: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    seen: list[RayEngines] = []

    def kill(_: RayPolicy, engines: RayEngines) -> None:
        """The first before it has tickets, which are then lost with it, and the second before it takes new weights."""
        seen.append(engines)
        hand_out, take = engines._hand_out, engines.take
        calls = {"tickets": 0, "weights": 0}

        def handing() -> None:
            calls["tickets"] += 1
            if calls["tickets"] == 1:
                cluster.ray.kill(engines._actors[0])
            hand_out()

        def taking(place: Path, sums: Mapping[str, int], version: int | None = None) -> None:
            calls["weights"] += 1
            if calls["weights"] == 2:
                cluster.ray.kill(engines._actors[1])
            take(place, sums, version)

        engines._hand_out, engines.take = handing, taking  # type: ignore[method-assign]

    changes = {"lookahead": 2, "curriculum": {"choose": "pass_rate", "min_group": 2, "max_group": 5}}
    alone = trained_alone(curated, tmp_path / "alone", recipe_for(**changes))
    recipe = on_cluster(trainers=2, engines=2, shard=True, **changes)
    run = ready_for_rl(curated, tmp_path / "run", recipe)
    graded_by_checksum(monkeypatch, kill)
    rl(recipe, run)
    assert_same(run, alone)
    said = [line for line in capsys.readouterr().err.splitlines() if "another takes its place" in line]
    assert [line.split(" died")[0] for line in said] == ["engine 0", "engine 1"]
    name = next(iter(seen[0]._sums))
    with pytest.raises(RuntimeError, match=f"engine 0 are not those in training after a sync: {name} .1 in all"):
        seen[0]._check(0, {**seen[0]._sums, name: 1})


@pytest.mark.slow
def test_engines_of_the_cluster_choose_the_problems_that_one_chooses(
    cluster: RayCluster, curated: Path, tmp_path: Path
) -> None:
    changes: dict[str, Any] = {"rl_pool": {"rollouts": 2, "keep_unsolved_share": 1.0}, "rl": {"max_tokens": 8}}
    recipe = training_recipe(**changes)
    there = recipe.model_copy(update={"cluster": ClusterSection(backend="ray", engines=2)})
    runs = {name: run_from(curated, tmp_path / name, found) for name, found in (("one", recipe), ("more", there))}
    for run in runs.values():
        save(starting_model(recipe, run), run.stage("sft") / "model")
    assert build_pool(there, runs["more"]) == build_pool(recipe, runs["one"])
    kept = [(run.path / "rl_pool" / "pool.jsonl").read_bytes() for run in runs.values()]
    assert kept[0] == kept[1] != b""
    rows = [sorted((run.path / "rl_pool" / "rollouts.jsonl").read_text().splitlines()[1:]) for run in runs.values()]
    assert rows[0] == rows[1]


def test_what_a_user_got_wrong_comes_back_from_an_actor_as_a_sentence(cluster: RayCluster) -> None:
    @cluster.ray.remote(num_cpus=0)
    def wrong() -> None:
        raise UserError("a sentence")

    with pytest.raises(UserError, match=r"^a sentence$"):
        answers(cluster.ray, [wrong.remote()], "trainer")


def test_trainers_that_share_no_grid_are_refused_before_a_cluster_starts() -> None:
    recipe = on_cluster(trainers=3, context=2)
    with (
        pytest.raises(UserError, match=r"cluster.trainers = 3 is not parallel.context = 2 times"),
        open_cluster(recipe),
    ):
        pass
