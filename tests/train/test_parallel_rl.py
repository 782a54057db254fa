"""RL on several processes: the rollouts, the weights and the files of one."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from gloo_workers import Groups, Workers
from test_rl import RL, _examples, ready_for_rl
from tiny_training import (
    assert_same_stage,
    gap,
    gradients,
    metrics_of,
    read_weights,
    rl_section,
    tiny_model,
    train_rl_in,
    training_recipe,
)

from h1r.config import EngineSection, ParallelSection, Recipe
from h1r.errors import UserError
from h1r.models.checksum import checksum
from h1r.models.shards import gathered
from h1r.run.checkpoints import Checkpoints
from h1r.run.directory import Run
from h1r.train.batch import Rollout, set_norms
from h1r.train.fleet import own_servers
from h1r.train.parallel.gradients import Sharded
from h1r.train.parallel.sampling_copy import SamplingCopy
from h1r.train.parallel.world import ALONE, World, open_world
from h1r.train.policy_update import accumulate_gradients
from h1r.train.start import rl_policy, saved_tokenizer


@pytest.fixture(scope="module")
def grids(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[int, Workers]]:
    found = {n: Workers(n, tmp_path_factory.mktemp(f"world{n}"), limit=240.0) for n in (2, 3, 4)}
    yield found
    for workers in found.values():
        workers.close()


def recipe_for(context: int = 1, shard: bool = False, checkpoint: bool = False, **changes: Any) -> Recipe:
    """A large epsilon keeps AdamW from turning the rounding of a gradient near zero into a step of full length."""
    section = {**RL, "steps": 4, "checkpoint_every": 2, "optimizer": {"learning_rate": 1e-2, "eps": 1e-3}, **changes}
    return training_recipe(rl=section, parallel={"shard": shard, "context": context, "checkpoint": checkpoint})


def train(groups: Groups, recipe: Recipe, path: str, resume: bool = False) -> Any:
    return train_rl_in(Run(Path(path)), recipe, resume)


@pytest.fixture(scope="module")
def alone(curated: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return trained_alone(curated, tmp_path_factory.mktemp("rl") / "alone", recipe_for())


def trained_alone(curated: Path, path: Path, recipe: Recipe) -> Run:
    run = ready_for_rl(curated, path, recipe)
    summary = train_rl_in(run, recipe)
    assert math.isfinite(summary["reward"])
    moved = gap(read_weights(run.path / "rl" / "model"), read_weights(run.path / "sft" / "model"))
    assert moved > 1e-3
    return run


def assert_same(run: Run, other: Run) -> None:
    assert _examples(run) == _examples(other)
    assert gap(read_weights(run.path / "rl" / "model"), read_weights(other.path / "rl" / "model")) < 1e-5
    for found, line in zip(metrics_of(run.path / "rl"), metrics_of(other.path / "rl"), strict=True):
        assert found == {key: pytest.approx(value, rel=1e-3, abs=1e-6) for key, value in line.items()}


@pytest.mark.parametrize(
    ("ranks", "context", "shard"),
    [(2, 1, False), (3, 1, False), (2, 1, True), (2, 2, False), (2, 2, True), (4, 2, True)],
)
def test_processes_draw_and_learn_what_one_does(
    grids: dict[int, Workers], curated: Path, alone: Run, tmp_path: Path, ranks: int, context: int, shard: bool
) -> None:
    recipe = recipe_for(context, shard, checkpoint=ranks == 4)
    if ranks == 4:  # two copies of the shards, each over a row
        recipe = recipe.model_copy(update={"parallel": recipe.parallel.model_copy(update={"replicate": 2})})
    run = ready_for_rl(curated, tmp_path / "run", recipe)
    said = grids[ranks].call(train, recipe, str(run.path))
    assert all(one == said[0] for one in said)
    assert_same(run, alone)


@pytest.mark.parametrize(
    ("before", "after"),
    [((3, 1, False), (2, 1, False)), ((3, 1, True), (2, 2, False)), ((2, 2, False), (4, 2, True))],
    ids=["three to two", "shards to context", "context to both"],
)
def test_rl_goes_on_on_another_grid(
    grids: dict[int, Workers],
    curated: Path,
    alone: Run,
    tmp_path: Path,
    before: tuple[int, int, bool],
    after: tuple[int, int, bool],
) -> None:
    run = ready_for_rl(curated, tmp_path / "run", recipe_for())
    grids[before[0]].call(train, recipe_for(*before[1:], steps=3), str(run.path))
    found = Checkpoints(run.path / "rl").latest()
    assert found is not None
    assert found[0] == 3
    assert (found[1] / "optimizer").is_dir() == before[2]
    grids[after[0]].call(train, recipe_for(*after[1:]), str(run.path), True)
    assert_same(run, alone)


@pytest.mark.slow
def test_a_resumed_run_in_shards_equals_an_unbroken_one_bit_for_bit(
    grids: dict[int, Workers], curated: Path, tmp_path: Path
) -> None:
    changes = {"curriculum": {"choose": "pass_rate", "min_group": 2, "max_group": 5}, "partial_tokens": 7}
    recipe = recipe_for(2, shard=True, **changes)
    unbroken, broken = (ready_for_rl(curated, tmp_path / name, recipe) for name in ("unbroken", "broken"))
    grids[2].call(train, recipe, str(unbroken.path))
    stopped = recipe_for(2, shard=True, steps=3, **changes)
    beside = stopped.parallel.model_copy(update={"async_checkpoint": True})
    grids[2].call(train, stopped.model_copy(update={"parallel": beside}), str(broken.path))
    shutil.rmtree(broken.path / "rl" / "checkpoints" / "step_00000003")
    grids[2].call(train, recipe, str(broken.path), True)
    assert_same_stage(broken.path / "rl", unbroken.path / "rl")
    assert _examples(broken) == _examples(unbroken)


@pytest.mark.parametrize(("context", "shard"), [(2, False), (2, True), (1, True)])
def test_several_updates_a_batch_and_a_reference_are_those_of_one_process(
    grids: dict[int, Workers], curated: Path, tmp_path: Path, context: int, shard: bool
) -> None:
    """GSPO's ratios are of whole sequences, which lie on two ranks."""
    changes = {"steps": 2, "updates_per_batch": 2, "kl_coef": 0.1, "algorithm": "gspo", "tis_level": "sequence"}
    alone = trained_alone(curated, tmp_path / "alone", recipe_for(**changes))
    run = ready_for_rl(curated, tmp_path / "run", recipe_for())
    grids[2].call(train, recipe_for(context, shard, **changes), str(run.path))
    assert_same(run, alone)


def train_by_files(groups: Groups, recipe: Recipe, path: str) -> Any:
    """As an engine in a process of its own gets the weights: from a directory that one process writes."""
    with mock.patch("h1r.train.fleet.READS_FILES", ("native",)):
        return train(groups, recipe, path)


@pytest.mark.parametrize("shard", [False, True])
def test_engines_that_read_files_draw_what_those_on_the_weights_draw(
    grids: dict[int, Workers], curated: Path, alone: Run, tmp_path: Path, shard: bool
) -> None:
    place = tmp_path / "weights"
    place.mkdir()
    recipe = recipe_for(shard=shard)
    recipe = recipe.model_copy(update={"engine": EngineSection(weights_directory=str(place))})
    run = ready_for_rl(curated, tmp_path / "run", recipe)
    grids[2].call(train_by_files, recipe, str(run.path))
    assert_same(run, alone)
    assert list(place.iterdir()) == []


def test_each_process_has_servers_of_its_own_and_too_few_are_refused() -> None:
    section = EngineSection(kind="server", urls=["http://a", "http://b", "http://c"])
    found = [own_servers(section, World(data_rank=rank, data_degree=2)).addresses for rank in range(2)]
    assert found == [["http://a", "http://c"], ["http://b"]]
    with pytest.raises(UserError, match=r"rl on 4 processes asks as many servers, and engine\.urls names 3"):
        own_servers(section, World(data_degree=4))


def copied(groups: Groups, recipe: Recipe, path: str) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], str]:
    """The whole copy of weights in shards, what it should be, and what is said when one process has another number."""
    run = Run(Path(path))
    model, wrapped = rl_policy(
        recipe, run.path / "sft/model", saved_tokenizer(recipe, run), open_world(recipe.parallel)
    )
    assert isinstance(wrapped, Sharded)
    copy = SamplingCopy(model, torch.bfloat16, open_world(recipe.parallel))
    found = {name: weight.to(torch.bfloat16, copy=True) for name, weight in copy.model.state_dict().items()}
    expected = dict(gathered(model.state_dict(), torch.bfloat16))
    if dist.get_rank() == 1:
        copy.model.model.layers[1].feed_forward.up_proj.weight[5, 3] *= 1.01
    with pytest.raises(RuntimeError) as caught:
        copy.check()
    return found, expected, str(caught.value)


def test_the_engines_copy_has_the_weights_in_shards_and_a_number_that_differs_is_found(
    grids: dict[int, Workers], curated: Path, tmp_path: Path
) -> None:
    recipe = recipe_for(shard=True, compute_dtype="bfloat16")
    run = ready_for_rl(curated, tmp_path / "run", recipe)
    for found, expected, said in grids[3].call(copied, recipe, str(run.path)):
        assert found.keys() == expected.keys()
        assert [name for name in found if not torch.equal(found[name], expected[name])] == []
        assert "not those in training after a sync: model.layers.1.feed_forward.up_proj.weight (1 in all)" in said


def test_sums_of_parts_are_the_sum_of_the_whole_and_places_count() -> None:
    whole = torch.randn(7, 5, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    parts = [checksum(whole[:3]), checksum(whole[3:], 15)]
    assert (sum(parts) - checksum(whole)) % (1 << 64) == 0
    assert checksum(whole[:3]) + checksum(whole[3:]) != checksum(whole)
    assert len({checksum(one) for one in (whole, -whole, whole.flip(0), whole.flip(1), whole + 1)}) == 5


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
