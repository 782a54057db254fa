"""RL on several processes: the rollouts, the weights and the files of one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from gloo_workers import Groups, Workers
from test_rl import RL, _examples, ready_for_rl
from tiny_training import gap, gradients, metrics_of, read_weights, rl_section, tiny_model, train_rl_in, training_recipe

from h1r.config import ParallelSection, Recipe
from h1r.errors import UserError
from h1r.run.checkpoints import Checkpoints
from h1r.run.directory import Run
from h1r.train.batch import Rollout, set_norms
from h1r.train.parallel.world import ALONE, World, open_world
from h1r.train.policy_update import accumulate_gradients
from h1r.train.rl import rl


@pytest.fixture(scope="module")
def grids(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[int, Workers]]:
    found = {n: Workers(n, tmp_path_factory.mktemp(f"world{n}")) for n in (2, 3)}
    yield found
    for workers in found.values():
        workers.close()


def recipe_for(**changes: Any) -> Recipe:
    """A large epsilon keeps AdamW from turning the rounding of a gradient near zero into a step of full length."""
    section = {**RL, "steps": 4, "checkpoint_every": 2, "optimizer": {"learning_rate": 1e-2, "eps": 1e-3}, **changes}
    return training_recipe(rl=section, parallel={"shard": True})


def train(groups: Groups, recipe: Recipe, path: str, resume: bool = False) -> Any:
    return train_rl_in(Run(Path(path)), recipe, resume)


def refused(groups: Groups, recipe: Recipe, path: str) -> str:
    with pytest.raises(UserError) as caught:
        rl(recipe, Run(Path(path)))
    return str(caught.value)


@pytest.fixture(scope="module")
def alone(curated: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = ready_for_rl(curated, tmp_path_factory.mktemp("rl") / "alone", recipe_for())
    summary = train({}, recipe_for(), str(run.path))
    assert math.isfinite(summary["reward"])
    moved = gap(read_weights(run.path / "rl" / "model"), read_weights(run.path / "sft" / "model"))
    assert moved > 1e-3
    return run


def assert_same(run: Run, other: Run) -> None:
    assert _examples(run) == _examples(other)
    assert gap(read_weights(run.path / "rl" / "model"), read_weights(other.path / "rl" / "model")) < 1e-5
    for found, line in zip(metrics_of(run.path / "rl"), metrics_of(other.path / "rl"), strict=True):
        assert found == {key: pytest.approx(value, rel=1e-3, abs=1e-6) for key, value in line.items()}


@pytest.mark.parametrize("ranks", [2, 3])
def test_processes_draw_and_learn_what_one_does(
    grids: dict[int, Workers], curated: Path, alone: Run, tmp_path: Path, ranks: int
) -> None:
    run = ready_for_rl(curated, tmp_path / "run", recipe_for())
    said = grids[ranks].call(train, recipe_for(), str(run.path))
    assert all(one == said[0] for one in said)
    assert_same(run, alone)


def test_rl_goes_on_with_another_number_of_processes(
    grids: dict[int, Workers], curated: Path, alone: Run, tmp_path: Path
) -> None:
    run = ready_for_rl(curated, tmp_path / "run", recipe_for())
    grids[3].call(train, recipe_for(steps=3), str(run.path))
    found = Checkpoints(run.path / "rl").latest()
    assert found is not None
    assert found[0] == 3
    grids[2].call(train, recipe_for(), str(run.path), True)
    assert_same(run, alone)


def test_an_engine_that_several_processes_cannot_share_is_refused_on_all(
    grids: dict[int, Workers], curated: Path, tmp_path: Path
) -> None:
    recipe = recipe_for()
    recipe = recipe.model_copy(update={"engine": recipe.engine.model_copy(update={"kind": "vllm"})})
    run = ready_for_rl(curated, tmp_path / "run", recipe_for())
    said = grids[2].call(refused, recipe, str(run.path))
    assert said[0] == said[1]
    assert said[0].startswith('rl on 2 processes draws rollouts on engine.kind = "native" only')


def broken_batch(world: World) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """Numbers and gradients of six rollouts, one token of which has no finite log-probability."""
    rollouts = [Rollout([1, 2, 3, *range(4, 4 + n)], 2, [-2.5] * (n + 1), (-1.0) ** n, n % 2 == 0) for n in range(1, 7)]
    rollouts[4].sampling_logprobs[1] = math.nan
    section = rl_section()
    set_norms(rollouts, section)
    model = tiny_model()
    return accumulate_gradients(model, rollouts, section, world), gradients(model)


def on_rank(groups: Groups) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    assert dist.is_initialized()
    return broken_batch(open_world(ParallelSection()))


@pytest.mark.parametrize("ranks", [2, 3])
def test_a_token_without_a_logprob_leaves_the_loss_of_all_processes(grids: dict[int, Workers], ranks: int) -> None:
    values, expected = broken_batch(ALONE)
    assert values["nonfinite"] == 1
    for found, gradient in grids[ranks].call(on_rank):
        assert found == pytest.approx(values, rel=1e-9)
        assert gap(gradient, expected) < 1e-9
