"""Qwen3 on two processes, sharded (FSDP2) or sharing one row (context parallelism): the weights of one process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from gloo_workers import Workers
from test_parallel_sft import recipe_for, train
from tiny_training import read_weights, run_from

from h1r.config import Recipe
from h1r.models import load
from h1r.train.sft import sft

SIZES = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8,
}  # fmt: skip


def qwen3_recipe(context: int = 1, shard: bool = False) -> Recipe:
    recipe = recipe_for(context)
    model = recipe.model.model_copy(update={"preset": "tiny-qwen3", "overrides": SIZES})
    parallel = recipe.parallel.model_copy(update={"shard": shard})
    return recipe.model_copy(update={"parallel": parallel, "model": model})


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    found = Workers(2, tmp_path_factory.mktemp("world"))
    yield found
    found.close()


@pytest.fixture(scope="module")
def alone(curated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = qwen3_recipe()
    run = run_from(curated, tmp_path_factory.mktemp("alone") / "run", recipe)
    assert sft(recipe, run)["steps"] >= 3
    return run.path / "sft" / "model"


@pytest.mark.parametrize(("context", "shard"), [(1, True), (2, False), (2, True)])
def test_two_processes_train_the_weights_of_one(
    workers: Workers, curated: Path, alone: Path, tmp_path: Path, context: int, shard: bool
) -> None:
    recipe = qwen3_recipe(context, shard)
    run = run_from(curated, tmp_path / "run", recipe)
    workers.call(train, recipe, [str(run.path)] * 2)
    found, expected = read_weights(run.path / "sft" / "model"), read_weights(alone)
    assert found.keys() == expected.keys()
    assert max(float((found[name] - expected[name]).abs().max()) for name in found) < 1e-5
    assert load(run.path / "sft" / "model").config.model_type == "qwen3"
