"""The pure parts of the benchmark of a hybrid against a transformer: geometries, sums over a run, the crossing."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

PATH = Path(__file__).parents[2] / "benchmarks" / "hybrid_vs_transformer.py"


@pytest.fixture(scope="module")
def bench() -> Any:
    spec = importlib.util.spec_from_file_location("hybrid_vs_transformer", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_small_models_have_equal_parameters_and_the_papers_ratio_of_caches(bench: Any) -> None:
    hybrid = bench.hybrid_config("small")
    size = bench.hybrid_size(hybrid)
    transformer = bench.transformer_config("small", size)
    assert bench.transformer_size(transformer) == pytest.approx(size, rel=0.01)

    def cache(config: Any) -> int:
        return config.num_hidden_layers * config.num_key_value_heads * config.head_dim

    large, qwen = bench.hybrid_config("7b"), bench.transformer_config("7b", 0)
    assert bench.hybrid_size(large) == 7_585_648_736
    assert bench.transformer_size(qwen) == 8_190_735_360
    assert cache(transformer) / cache(hybrid) == cache(qwen) / cache(large)


def test_without_a_card_the_large_models_get_as_far_as_their_configurations(
    bench: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["hybrid_vs_transformer.py", "--geometry", "7b"])
    with pytest.raises(SystemExit):
        bench.main()
    assert "7.59 and 8.19 billion parameters in bf16, needs a GPU with 80 GB or more" in capsys.readouterr().err


def test_a_runs_speed_is_the_sum_of_its_steps(bench: Any) -> None:
    points = [(100, 80.0), (200, 40.0), (400, 20.0)]
    assert bench.whole_run([(100, 50.0), (900, 50.0)], 4, 200, 600) == pytest.approx(50.0)
    # Seconds of a step of 4 sequences: 0.05 at 100, 0.1 at 200, 0.2 at 400, linear between.
    seconds = sum(0.05 + 0.05 * (n + 0.5 - 100) / 100 for n in range(150, 350))
    assert bench.whole_run(points, 4, 150, 200) == pytest.approx(4 * 200 / seconds, rel=1e-6)
    assert bench.whole_run(points, 4, 150, 300) is None
    assert bench.whole_run(points, 4, 50, 100) is None


def test_the_crossing_lies_where_the_ratio_passes_one(bench: Any) -> None:
    assert bench.crossing([(100, 0.8), (1000, 0.9), (10000, 1.1)]) == pytest.approx(1000 * 10**0.5)
    assert bench.crossing([(100, 1.2), (1000, 1.3)]) is None
    assert bench.crossing([(100, 0.5), (1000, 0.6)]) is None
