"""The first two steps of the ladder of examples: a model from random weights, and a reward of one's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from h1r.common.files import read_json
from h1r.run.metrics import read_metrics
from ladder import smoke


@pytest.mark.slow
def test_arithmetic_is_curated_and_learnt_from_random_weights(tmp_path: Path) -> None:
    *_, answer = smoke("01-arithmetic", tmp_path)
    run = tmp_path / "runs" / "arithmetic-smoke"
    losses = [step["loss"] for step in read_metrics(run / "sft" / "metrics.jsonl")]
    assert losses[-1] < losses[0] / 2
    assert answer.strip()
    assert (run / "sft" / "model" / "config.json").exists()


@pytest.mark.slow
def test_a_reward_of_ones_own_is_weighed_and_logged_in_rl_of_the_packages_model(tmp_path: Path) -> None:
    smoke("02-own-reward", tmp_path)
    steps = read_metrics(tmp_path / "runs" / "brief-smoke" / "rl" / "metrics.jsonl")
    assert len(steps) == 2
    for step in steps:
        expected = step["reward/correct"] + 0.1 * step["reward/format"] + 0.5 * step["reward/brevity"]
        assert step["reward"] == pytest.approx(expected)
    assert read_json(tmp_path / "runs" / "brief-smoke" / "done" / "rl.json")
