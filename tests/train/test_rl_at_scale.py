"""The simulated cluster of `benchmarks/rl_at_scale.py`: cards that decode, and where the seconds of a step go."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from h1r.config import find_recipe, load_recipe
from h1r.engine.protocol import SamplingParams
from h1r.records import Trace


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return importlib.import_module("rl_at_scale")


@pytest.fixture
def cluster(bench: Any) -> Any:
    return importlib.import_module("simulated_cluster")


def token_by_token(cluster: Any, lengths: list[int], together: int) -> list[float]:
    """When each sequence ends on a card, in order."""
    waiting, running, now, ends = [*lengths], [], 0.0, []
    while waiting or running:
        while waiting and len(running) < together:
            running.append(waiting.pop(0))
        now += cluster.UNIT * cluster.step_seconds(len(running))
        running = [left - 1 for left in running]
        ends += [now] * running.count(0)
        running = [left for left in running if left]
    return ends


@pytest.mark.parametrize("together", [2, 20, 40])
def test_a_card_decodes_as_one_that_is_looked_at_token_by_token(cluster: Any, together: int) -> None:
    lengths = [int(one) for one in np.random.default_rng(together).integers(1, 30, 40)]
    section = load_recipe(find_recipe("h1r-7b-ray"), {}).rl
    ray = cluster.Ray(cluster.Clock(), SimpleNamespace(weights=0.0, read=1.0, prefill=0.0, nodes=1), together, section)
    ray.rollouts = lambda prompt, params: [Trace(0, 0, [1] * prompt[0], "", [], [], [], "stop") for _ in range(1)]
    ends: list[float] = []
    ray.ended = ends.append
    engine = cluster.Engine(ray)
    asked = [engine.sample.remote([length], SamplingParams()) for length in lengths]
    while asked:
        ((one,), _) = ray.wait(asked)
        asked.remove(one)
        assert one.moment == ray.clock.monotonic() == ends[-1]
    assert ends == pytest.approx(token_by_token(cluster, lengths, together))


def test_the_parts_are_the_whole_and_lookahead_hides_what_the_trainers_do(bench: Any) -> None:
    changes = {"rl.batch_size": 4, "rl.num_generations": 4, "rl.steps": 18, "rl.backfill.cache_groups": 0}
    recipe = load_recipe(find_recipe("h1r-7b-ray"), {**changes, "rl.checkpoint_every": 18})
    section = recipe.rl.model_copy(update={"max_tokens": recipe.rl.max_tokens // bench.UNIT})
    costs = bench.Costs(update=400.0, terms=(1.0, 0.0), full=16 * 49152, weights=5e9, prefill=0.0)
    now, ahead, further = (
        bench.simulate(section.model_copy(update={"lookahead": n}), costs, engines=3, together=4) for n in (0, 1, 2)
    )
    for found in (now, ahead):
        assert sum(found["loop"].values()) == pytest.approx(found["step_seconds"], abs=0.2)
    sampling = sum(now["batch"].values())
    assert now["loop"]["sync"] == pytest.approx(costs.weights / costs.write + costs.weights / costs.read, abs=0.06)
    assert now["loop"]["waits_for_rollouts"] == pytest.approx(sampling, abs=0.2)
    assert now["batch"] == pytest.approx(ahead["batch"], rel=0.02)
    # Meanwhile the trainers write and update; what is left is reading weights, between two batches
    assert ahead["step_seconds"] == pytest.approx(sampling + costs.weights / costs.read, rel=0.02)
    assert ahead["loop"]["update"] > 50
    # Batches are sampled one after another, so that a second one ahead changes nothing
    assert further["step_seconds"] == pytest.approx(ahead["step_seconds"], rel=0.02)
    assert (now["staleness"] < 1, ahead["staleness"] < 2, further["staleness"] >= 2) == (True, True, True)


def test_lengths_have_the_mean_that_is_asked_for_when_they_are_cut(cluster: Any) -> None:
    mu = cluster.mean_of_logarithm(20_000, 49_152)
    drawn = np.exp(mu + cluster.DEVIATION * np.random.default_rng(0).standard_normal(200_000))
    assert np.minimum(drawn, 49_152).mean() == pytest.approx(20_000, rel=0.005)
