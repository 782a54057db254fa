"""RL on conversations: the states between turns, the mask, and a run that is broken off."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny_training import (
    Killed,
    assert_same_stage,
    checksum_verdicts,
    metrics_for,
    metrics_of,
    run_from,
    training_recipe,
)

from h1r.config import EngineSection, EnvironmentSection, Recipe
from h1r.data.chat import IM_END
from h1r.data.tokenizer import load_tokenizer
from h1r.engine.native.engine import NativeEngine
from h1r.models import save
from h1r.records import Message, Problem, read_jsonl
from h1r.rollout.environment import ENVIRONMENTS, Environment, Reply
from h1r.run.checkpoints import Checkpoints
from h1r.run.directory import Run
from h1r.train.rl import train_rl
from h1r.train.start import loaded, starting_model

RL = {"steps": 4, "batch_size": 2, "num_generations": 4, "max_tokens": 60, "temperature": 1.0, "checkpoint_every": 2,
      "warmup_steps": 0, "optimizer": {"learning_rate": 1e-3}}  # fmt: skip


class Nagging(Environment):
    """Has more to ask, whatever the model says."""

    replies = 0

    def step(self, message: Message) -> Reply:
        Nagging.replies += 1
        return Message("user", "more")


ENVIRONMENTS.add("nagging", Nagging, replace=True)


def ready_for_rl(curated: Path, path: Path, recipe: Recipe) -> Run:
    run = run_from(curated, path, recipe)
    save(starting_model(recipe, run), run.stage("sft") / "model")
    shutil.copy(run.path / "curate" / "problems_rl.jsonl", run.stage("rl_pool") / "pool.jsonl")
    return run


def train(run: Run, recipe: Recipe, resume: bool = False, dies_after: int | None = None) -> dict[str, Any]:
    tokenizer = load_tokenizer(run.path / "curate" / "tokenizer")
    model = loaded(run.path / "sft" / "model", recipe.model.kernels)
    ends = [tokenizer.convert_tokens_to_ids(IM_END), *range(20, 40)]  # turns of random weights end soon
    return train_rl(
        model,
        NativeEngine(model, tokenizer, EngineSection(), eos_token_ids=ends),
        checksum_verdicts,
        list(read_jsonl(run.path / "rl_pool" / "pool.jsonl", Problem)),
        recipe.rl,
        metrics_for(run.stage("rl"), resume, dies_after),
        tokenizer=tokenizer,
        directory=run.stage("rl"),
        system_prompt="",
        environment=EnvironmentSection(kind="nagging", max_turns=3),
        resume=resume,
    )


def test_a_resumed_run_of_conversations_equals_an_unbroken_one_bit_for_bit(curated: Path, tmp_path: Path) -> None:
    recipe = training_recipe(rl=RL)
    unbroken = ready_for_rl(curated, tmp_path / "unbroken", recipe)
    expected = train(unbroken, recipe)
    broken = ready_for_rl(curated, tmp_path / "broken", recipe)
    with pytest.raises(Killed):
        train(broken, recipe, dies_after=2)
    found = Checkpoints(broken.path / "rl").latest()
    assert found is not None
    assert train(broken, recipe, resume=True) == expected
    assert_same_stage(broken.path / "rl", unbroken.path / "rl")
    assert Nagging.replies > 20
    lines = metrics_of(unbroken.path / "rl")
    assert all(line["groups"] > 0 and line["grad_norm"] > 0 for line in lines)
    # On policy with its own weights: what the loss sees of each token is what it was sampled with, states kept or not.
    fresh = [line for line in lines if not line["groups_from_cache"]]
    assert len(fresh) >= 2
    assert all(line["tis_mean"] == pytest.approx(1.0, abs=1e-3) for line in fresh)
