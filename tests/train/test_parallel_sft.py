"""SFT on several processes: the weights of one process, files from rank 0 alone, and a refusal that is a sentence."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch.distributed as dist
from gloo_workers import Groups, Workers
from tiny_training import Killed, assert_same_stage, metrics_of, read_weights, run_from, training_recipe
from torch import Tensor

from h1r.config import ParallelSection, Recipe
from h1r.errors import UserError
from h1r.run.checkpoints import Checkpoints
from h1r.run.directory import Run
from h1r.train import sft as sft_module
from h1r.train.parallel.world import degrees
from h1r.train.sft import sft
from h1r.train.start import starting_model

STEPS = 3


def recipe_for(context: int = 1, data: int = -1, **changes: Any) -> Recipe:
    """Three steps of a few rows each, more rows than ranks in one and fewer in another. A large epsilon keeps AdamW
    from turning the rounding of a gradient near zero into a step of full length."""
    section = {
        "epochs": 1, "batch_size": 3, "micro_batch_size": 1, "seq_len": 256, "checkpoint_every": 2,
        "optimizer": {"learning_rate": 5e-3, "eps": 2e-4}, **changes,
    }  # fmt: skip
    heads = {"num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 8, "mamba_n_heads": 4, "mamba_d_head": 8}
    return training_recipe(
        sft=section,
        model={"overrides": {**training_recipe().model.overrides, **heads}},
        parallel={"context": context, "data": data},
    )


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    workers = Workers(2, tmp_path_factory.mktemp("two"))
    yield workers
    workers.close()


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    workers = Workers(4, tmp_path_factory.mktemp("four"))
    yield workers
    workers.close()


@pytest.fixture(scope="module")
def alone(curated: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The stage of a run on one process, which changes every tensor, and its summary."""
    recipe = recipe_for()
    run = run_from(curated, tmp_path_factory.mktemp("alone") / "run", recipe)
    start = starting_model(recipe, run).state_dict()
    summary = sft(recipe, run)
    assert summary["steps"] >= STEPS
    moved = {name: gap(weight, start[name]) for name, weight in read_weights(run.path / "sft" / "model").items()}
    assert min(moved.values()) > 5e-5, moved
    return run.path / "sft", summary


def gap(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


def directories(curated: Path, path: Path, recipe: Recipe, ranks: int) -> list[str]:
    """A run directory of its own for every rank, as if they shared no disk: what each writes can then be told."""
    return [str(run_from(curated, path / f"rank{rank}", recipe).path) for rank in range(ranks)]


def train(
    groups: Groups, recipe: Recipe, paths: list[str], resume: bool = False, die_after: int = 0, rank: int | None = None
) -> Any:
    """SFT on this rank in its directory: its summary, or what it raised."""
    run = Run(Path(paths[dist.get_rank() if rank is None else rank]))
    real, steps = sft_module.optimizer_step, 0

    def dying(*arguments: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == die_after:
            raise Killed
        return real(*arguments)

    with mock.patch.object(sft_module, "optimizer_step", dying):
        try:
            return sft(recipe, run, resume)
        except UserError as error:
            return str(error)
        except Killed:
            return "killed"


@pytest.mark.parametrize(("data", "context"), [(2, 1), (1, 2), (2, 2), (1, 4), (4, 1)])
def test_a_grid_of_processes_trains_the_weights_of_one(
    request: pytest.FixtureRequest,
    curated: Path,
    alone: tuple[Path, dict[str, Any]],
    tmp_path: Path,
    data: int,
    context: int,
) -> None:
    workers: Workers = request.getfixturevalue("two" if data * context == 2 else "four")
    recipe = recipe_for(context, data)
    paths = directories(curated, tmp_path, recipe, data * context)
    summaries = workers.call(train, recipe, paths)
    stage, summary = alone
    assert all(one == {**summary, "loss": pytest.approx(summary["loss"], rel=1e-5)} for one in summaries)

    weights, expected = read_weights(Path(paths[0]) / "sft" / "model"), read_weights(stage / "model")
    assert weights.keys() == expected.keys()
    gaps = {name: gap(weights[name], expected[name]) for name in expected}
    assert max(gaps.values()) < 1e-5, gaps
    for found, line in zip(metrics_of(Path(paths[0]) / "sft"), metrics_of(stage), strict=True):
        assert found == {key: pytest.approx(value, rel=1e-4) for key, value in line.items()}

    written = [{str(p.relative_to(path)) for p in Path(path).rglob("*") if p.is_file()} for path in paths]
    others = {name for names in written[1:] for name in names}
    assert {name for name in others if name.startswith("sft/") or name == "stages.json"} == set()
    assert {"sft/metrics.jsonl", "sft/model/config.json", "stages.json"} <= written[0]


def test_a_resumed_run_on_two_processes_equals_an_unbroken_one_bit_for_bit(
    two: Workers, curated: Path, tmp_path: Path
) -> None:
    recipe = recipe_for(context=2, batch_size=1)
    unbroken = run_from(curated, tmp_path / "unbroken", recipe)
    broken = run_from(curated, tmp_path / "broken", recipe)
    expected = two.call(train, recipe, [str(unbroken.path)] * 2)
    assert expected[0]["steps"] > 5
    assert two.call(train, recipe, [str(broken.path)] * 2, False, 6) == ["killed"] * 2
    found = Checkpoints(broken.path / "sft").latest()
    assert found is not None
    assert found[0] == 4
    assert two.call(train, recipe, [str(broken.path)] * 2, True) == expected
    assert_same_stage(broken.path / "sft", unbroken.path / "sft")


def test_a_mistake_that_one_process_meets_ends_all_with_its_sentence(
    two: Workers, curated: Path, tmp_path: Path
) -> None:
    recipe = recipe_for(context=2)
    paths = directories(curated, tmp_path, recipe, 2)
    for path in paths:
        shutil.rmtree(Path(path) / "curate" / "packed")
    (Path(paths[1]) / "curate" / "samples.jsonl").write_text("")
    said = two.call(train, recipe, paths)
    assert said[0] == said[1]
    assert "rank1/curate/samples.jsonl is empty" in said[0]


def test_heads_that_cannot_be_shared_are_refused_on_every_process(two: Workers, curated: Path, tmp_path: Path) -> None:
    overrides = {**recipe_for().model.overrides, "num_attention_heads": 3, "num_key_value_heads": 3}
    recipe = recipe_for(context=2).model_copy(
        update={"model": recipe_for().model.model_copy(update={"overrides": overrides})}
    )
    said = two.call(train, recipe, directories(curated, tmp_path, recipe, 2))
    assert said[0] == said[1]
    assert said[0].startswith("parallel.context = 2 does not divide both the 3 query heads and the 4 SSM heads")


def test_a_wrong_number_of_processes_is_refused_with_a_sentence(two: Workers, curated: Path, tmp_path: Path) -> None:
    recipe = recipe_for(context=2, data=2)
    said = two.call(train, recipe, directories(curated, tmp_path, recipe, 2))
    sentence = (
        "[parallel] context = 2, data = 2 needs 4 processes, and there are 2; change [parallel], or start as many with "
        "`torchrun --nproc-per-node N -m h1r ...`"
    )
    assert said == [sentence, sentence]
    with pytest.raises(UserError, match=r"needs 4 processes, and there is 1;"):
        sft(recipe, run_from(curated, tmp_path / "alone", recipe))


def test_data_takes_the_processes_that_context_leaves() -> None:
    assert degrees(ParallelSection(), 1) == (1, 1)
    assert degrees(ParallelSection(context=3), 6) == (2, 3)
    assert degrees(ParallelSection(context=2, data=4), 8) == (4, 2)
    with pytest.raises(UserError, match=r"needs a multiple of 4 processes, and there are 6"):
        degrees(ParallelSection(context=4), 6)
    with pytest.raises(UserError, match=r"needs a multiple of 4 processes, and there are 2"):
        degrees(ParallelSection(context=4), 2)


def test_a_run_goes_on_with_another_grid(curated: Path, tmp_path: Path) -> None:
    run = run_from(curated, tmp_path / "run", recipe_for(context=2))
    assert Run.open(run.path, recipe_for()) == run


DIES_ONCE = """
import os, runpy, signal
import h1r.train.sft as sft

real, steps = sft.optimizer_step, 0

def dying(*arguments):
    global steps
    steps += 1
    if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0" and os.environ["RANK"] == "1" and steps == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments)

sft.optimizer_step = dying
runpy.run_module("h1r", run_name="__main__", alter_sys=True)
"""


@pytest.mark.slow
def test_torchrun_restarts_a_run_whose_process_was_killed_and_it_ends_with_the_same_bits_and_what_one_process_trains(
    two: Workers, curated: Path, alone: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    """One start of torchrun for both: it costs what its processes import, four times here."""
    recipe = recipe_for()
    unbroken = run_from(curated, tmp_path / "unbroken", recipe)
    assert two.call(train, recipe, [str(unbroken.path)] * 2)[0]["steps"] > 4
    broken = run_from(curated, tmp_path / "broken", recipe)
    (tmp_path / "dies.py").write_text(DIES_ONCE)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launch, "--max-restarts", "1", str(tmp_path / "dies.py"), "sft", "--resume", "--json", str(broken.path)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert_same_stage(broken.path / "sft", unbroken.path / "sft")
    assert len((broken.path / "attempts.jsonl").read_text().splitlines()) == 2, "one of each start, not of each process"
    summary, (stage, expected) = json.loads(done.stdout), alone
    assert summary["steps"] == expected["steps"]
    assert math.isclose(summary["loss"], expected["loss"], rel_tol=1e-5)
    weights, those = read_weights(broken.path / "sft" / "model"), read_weights(stage / "model")
    assert max(gap(weights[name], those[name]) for name in those) < 1e-5
