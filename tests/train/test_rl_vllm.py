"""RL with `[engine] kind = "vllm"`: vLLM samples from the weights that the trainer has."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from test_rl import RL, ChecksumVerifier, ready_for_rl
from tiny_training import metrics_of, training_recipe

from h1r.train.rl import rl

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="vLLM is not installed: make setup-vllm"
)


def trained(curated: Path, path: Path, monkeypatch: pytest.MonkeyPatch, **engine: Any) -> list[dict[str, Any]]:
    """Metrics of three steps at a rate that moves the policy."""
    monkeypatch.setattr("h1r.train.rl.open_backend", ChecksumVerifier)
    recipe = training_recipe(
        model={
            "overrides": {
                "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
                "num_key_value_heads": 1, "head_dim": 32, "mamba_n_heads": 2, "mamba_d_head": 16, "mamba_d_ssm": 32,
                "mamba_d_state": 8,
            }
        },
        rl={**RL, "steps": 3},
        engine={"max_sequences": 8, **engine},
    )  # fmt: skip
    run = ready_for_rl(curated, path, recipe)
    rl(recipe, run)
    return metrics_of(run.path / "rl")


def test_rl_with_vllm_samples_from_the_weights_it_trains(
    curated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    native = trained(curated, tmp_path / "native", monkeypatch)
    lines = trained(curated, tmp_path / "vllm", monkeypatch, kind="vllm", max_model_len=128)
    assert len(lines) == 3
    for ours, theirs in zip(native, lines, strict=True):
        # An importance weight off 1 would say that the sampler had other weights, or the trainer another model.
        assert theirs["tis_mean"] == pytest.approx(1.0, abs=1e-4)
        for name in ("reward", "mean_tokens", "groups"):
            assert theirs[name] == ours[name]
        for name in ("loss", "grad_norm", "entropy"):
            assert theirs[name] == pytest.approx(ours[name], rel=1e-3, abs=1e-5)
