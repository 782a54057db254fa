"""RL with `[engine] kind = "vllm"` and `"server"`: vLLM samples from the weights that the trainer has."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from test_rl import RL, ready_for_rl
from tiny_training import metrics_of, train_rl_in, training_recipe

from serving import vllm_server

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="vLLM is not installed: make setup-vllm"
)


def trained(curated: Path, path: Path, temperature: float = 1.0, **engine: Any) -> list[dict[str, Any]]:
    """Metrics of three steps at a rate that moves the policy."""
    recipe = training_recipe(
        model={
            "overrides": {
                "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
                "num_key_value_heads": 1, "head_dim": 32, "mamba_n_heads": 2, "mamba_d_head": 16, "mamba_d_ssm": 32,
                "mamba_d_state": 8,
            }
        },
        rl={**RL, "steps": 3, "temperature": temperature},
        engine={"max_sequences": 8, **engine},
    )  # fmt: skip
    run = ready_for_rl(curated, path, recipe)
    train_rl_in(run, recipe)
    return metrics_of(run.path / "rl")


def assert_alike(native: list[dict[str, Any]], lines: list[dict[str, Any]]) -> None:
    assert len(lines) == 3
    # Later batches may hold groups of an older policy, from the surplus.
    assert lines[0]["tis_mean"] == pytest.approx(1.0, abs=1e-4)
    for ours, theirs in zip(native, lines, strict=True):
        # An importance weight off would say that the sampler had other weights, or the trainer another model.
        assert theirs["tis_mean"] == pytest.approx(ours["tis_mean"], abs=1e-4)
        assert theirs["nonfinite"] == 0
        for name in ("reward", "mean_tokens", "groups"):
            assert theirs[name] == ours[name]
        for name in ("loss", "grad_norm", "entropy"):
            assert theirs[name] == pytest.approx(ours[name], rel=1e-3, abs=1e-5)


def test_rl_with_vllm_samples_from_the_weights_it_trains(curated: Path, tmp_path: Path) -> None:
    native = trained(curated, tmp_path / "native")
    lines = trained(curated, tmp_path / "vllm", kind="vllm", max_model_len=128)
    assert_alike(native, lines)


@pytest.mark.slow
def test_rl_with_a_server_samples_from_the_weights_it_trains(curated: Path, tmp_path: Path) -> None:
    """At a temperature whose log-probabilities the completions API does not tell. A server starts in half a minute."""
    native = trained(curated, tmp_path / "native", temperature=0.7)
    # It was started on the weights that the other run has come to, so all that it samples from was sent to it.
    with vllm_server(tmp_path / "native/rl/model", tmp_path / "server.log", max_model_len=128) as url:
        lines = trained(curated, tmp_path / "server", temperature=0.7, kind="server", url=url)
    assert_alike(native, lines)
