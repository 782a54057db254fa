"""Checkpoints that are written while training goes on: what they hold, one at a time, and kills in the middle."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from gloo_workers import Groups, Workers
from test_parallel_sft import recipe_for, train
from test_rl import RL, _examples, ready_for_rl
from tiny_training import (
    CONFIG,
    Killed,
    assert_same_stage,
    read_weights,
    run_from,
    train_rl_in,
    training_recipe,
)

from h1r.config import OptimizerSection, Recipe
from h1r.data.tokenizer import load_tokenizer
from h1r.errors import UserError
from h1r.models import build
from h1r.run.checkpoints import Checkpoints
from h1r.train.checkpoint import restore, save_checkpoint
from h1r.train.optim import make_optimizer
from h1r.train.parallel.world import ALONE, World
from h1r.train.saver import Saver

SAVE = "h1r.train.saver.save_checkpoint"
BESIDE = World(beside=ALONE)


def step(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    for p in model.parameters():
        p.grad = p.detach().clone() + 0.1
    with mock.patch.object(torch, "compile", lambda function, **_: function):  # torchao compiles for a minute
        optimizer.step()


@pytest.mark.parametrize("kind", ["adamw", "adamw8bit"])
def test_a_checkpoint_holds_what_was_when_it_began_and_the_next_waits_for_it(
    curated: Path, tmp_path: Path, kind: Any
) -> None:
    # 128 x 32 numbers are whole blocks of moments in 8 bits
    config = CONFIG.replaced(vocab_size=300, intermediate_size=128)
    section = OptimizerSection(learning_rate=1e-2, kind=kind)
    model = build(config, seed=0)
    optimizer = make_optimizer(model, section)
    tokenizer, checkpoints = load_tokenizer(curated / "curate" / "tokenizer"), Checkpoints(tmp_path)
    saver = Saver(checkpoints, tokenizer, BESIDE)
    step(model, optimizer)
    at_one = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    go, writing = threading.Event(), []

    def held(*arguments: Any) -> None:
        writing.append(arguments[1])
        assert go.wait(20)
        save_checkpoint(*arguments)

    state = {"step": 1}
    with mock.patch(SAVE, held):
        assert saver.save(1, model, optimizer, state) == 0
        state["step"] = 7
        step(model, optimizer)
        assert checkpoints.latest() is None
        second = threading.Thread(target=saver.save, args=(2, model, optimizer, {"step": 2}))
        second.start()
        second.join(0.05)
        assert second.is_alive()
        assert writing == [1]
        go.set()
        second.join(20)
        assert saver.save(3, model, optimizer, {"step": 3}, last=True) == 3
    assert writing == [1, 2, 3]
    other = build(config, seed=1)
    moments = make_optimizer(other, section)
    with mock.patch.object(torch, "compile", lambda function, **_: function):
        assert checkpoints.latest() == (3, checkpoints.at(3))
        assert restore(checkpoints.at(2), other, moments) == {"step": 2}
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in other.state_dict().items())
    assert not all(torch.equal(tensor, at_one[name]) for name, tensor in other.state_dict().items())


def test_it_holds_the_weights_and_moments_of_its_step(curated: Path, tmp_path: Path) -> None:
    model = build(CONFIG.replaced(vocab_size=300), seed=0)
    section = OptimizerSection(learning_rate=1e-2)
    optimizer = make_optimizer(model, section)
    step(model, optimizer)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    moments = [one["exp_avg"].clone() for one in optimizer.state_dict()["state"].values()]
    saver = Saver(Checkpoints(tmp_path), load_tokenizer(curated / "curate" / "tokenizer"), BESIDE)
    begun = threading.Event()

    def late(*arguments: Any) -> None:
        assert begun.wait(20)
        save_checkpoint(*arguments)

    with mock.patch(SAVE, late):
        saver.save(1, model, optimizer, {"step": 1})
        step(model, optimizer)
        begun.set()
        saver.settle()
    other = build(CONFIG.replaced(vocab_size=300), seed=1)
    kept = make_optimizer(other, section)
    assert restore(Checkpoints(tmp_path).at(1), other, kept) == {"step": 1}
    assert all(torch.equal(tensor, weights[name]) for name, tensor in other.state_dict().items())
    found = [one["exp_avg"] for one in kept.state_dict()["state"].values()]
    assert all(torch.equal(one, moment) for one, moment in zip(found, moments, strict=True))


def test_what_could_not_be_written_is_said_by_the_next(curated: Path, tmp_path: Path) -> None:
    model = build(CONFIG, seed=0)
    optimizer = make_optimizer(model, OptimizerSection(learning_rate=1e-2))
    step(model, optimizer)
    saver = Saver(Checkpoints(tmp_path), load_tokenizer(curated / "curate" / "tokenizer"), BESIDE)
    with mock.patch(SAVE, side_effect=UserError("no room")):
        saver.save(1, model, optimizer, {})
        with pytest.raises(UserError, match="no room"):
            saver.save(2, model, optimizer, {})
    assert saver.save(3, model, optimizer, {"step": 3}) == 0
    saver.settle()
    assert saver.save(4, model, optimizer, {"step": 4}, last=True) == 4


def dies_in(number: int, real: Callable[..., None] = save_checkpoint) -> Callable[..., None]:
    """Writes checkpoints; of the given one only a part, as a process that is killed does."""
    count = itertools.count(1)

    def save(checkpoints: Checkpoints, step: int, *arguments: Any) -> None:
        if next(count) == number:
            checkpoints.partial(step).mkdir(parents=True, exist_ok=True)
            (checkpoints.partial(step) / "state.json").write_text("{")
            raise Killed
        real(checkpoints, step, *arguments)

    return save


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    workers = Workers(2, tmp_path_factory.mktemp("two"))
    yield workers
    workers.close()


def train_and_die(groups: Groups, recipe: Recipe, paths: list[str]) -> Any:
    """The second checkpoint, of step 4, is begun, and the process dies in step 6."""
    with mock.patch(SAVE, dies_in(2)):
        return train(groups, recipe, paths, die_after=6)


def in_shards(beside: bool) -> Recipe:
    recipe = recipe_for(epochs=2)
    changes = {"shard": True, "async_checkpoint": beside}
    return recipe.model_copy(update={"parallel": recipe.parallel.model_copy(update=changes)})


@pytest.fixture(scope="module")
def unbroken(two: Workers, curated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = run_from(curated, tmp_path_factory.mktemp("unbroken") / "run", in_shards(False))
    two.call(train, in_shards(False), [str(run.path)] * 2)
    return run.path / "sft"


@pytest.mark.parametrize("ranks", [2, 1])
def test_a_kill_in_the_middle_goes_on_from_the_checkpoint_before(
    two: Workers, curated: Path, unbroken: Path, tmp_path: Path, ranks: int
) -> None:
    """In shards, and then on the same grid, to the same bits, or on another."""
    beside = in_shards(True)
    broken = run_from(curated, tmp_path / "broken", beside)
    assert two.call(train_and_die, beside, [str(broken.path)] * 2) == ["killed"] * 2
    checkpoints = Checkpoints(broken.path / "sft")
    assert checkpoints.step_to_resume(True) == 2
    assert checkpoints.partial(4).is_dir()
    assert {one.name for one in checkpoints.at(2).iterdir()} == {"model", "optimizer", "state.json"}
    if ranks == 2:
        two.call(train, beside, [str(broken.path)] * 2, True)
        assert_same_stage(broken.path / "sft", unbroken)
        return
    train({}, recipe_for(epochs=2), [str(broken.path)], True, rank=0)
    here, there = (read_weights(stage / "model") for stage in (broken.path / "sft", unbroken))
    assert max(float((here[name] - there[name]).abs().max()) for name in there) < 1e-5


def test_rl_goes_on_from_the_checkpoint_before_and_replays_what_came_since(curated: Path, tmp_path: Path) -> None:
    recipe = training_recipe(rl={**RL, "checkpoint_every": 2})
    beside = training_recipe(rl={**RL, "checkpoint_every": 2}, parallel={"async_checkpoint": True})
    unbroken, broken = (ready_for_rl(curated, tmp_path / name, recipe) for name in ("unbroken", "broken"))
    expected = train_rl_in(unbroken, recipe)
    with mock.patch(SAVE, dies_in(2)), pytest.raises(Killed):
        train_rl_in(broken, beside, dies_after=4)
    assert Checkpoints(broken.path / "rl").step_to_resume(True) == 2
    sampled = []

    def generate(self: Any, asked: Any, made: int) -> None:
        sampled.append(made)
        real(self, asked, made)

    from h1r.train.rollouts import GroupStream

    real = GroupStream._generate
    with mock.patch.object(GroupStream, "_generate", generate):
        assert train_rl_in(broken, beside, resume=True) == expected
    assert min(sampled) >= 4, "what the journal has was sampled again"
    assert_same_stage(broken.path / "rl", unbroken.path / "rl")
    assert _examples(broken) == _examples(unbroken)
    assert not (broken.path / "rl" / "journal").exists()
