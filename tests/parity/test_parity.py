"""`h1r parity` passes on an exact model, fails on each broken one, and never counts what could not run."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from h1r.cli import app
from h1r.errors import UserError
from h1r.kernels.torch import operators as portable
from h1r.models import build, save
from h1r.models.falcon_h1.attention import Attention
from h1r.models.falcon_h1.cache import HybridCache
from h1r.models.falcon_h1.config import preset
from h1r.models.falcon_h1.decode import _Packed
from h1r.models.falcon_h1.mamba2 import Mamba2
from h1r.parity import run

SMALL = preset(
    "tiny", hidden_size=48, intermediate_size=64, num_attention_heads=2, num_key_value_heads=1, head_dim=16,
    mamba_d_ssm=32, mamba_n_heads=4, mamba_d_head=8, mamba_d_state=8, mamba_chunk_size=8, vocab_size=64,
)  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(build(SMALL, 0), tmp_path_factory.mktemp("parity") / "small")


def verdicts(checkpoint: Path, *only: str) -> dict[str, str]:
    return {outcome.name: outcome.verdict for outcome in run(str(checkpoint), only=only, kernels="torch").outcomes}


def test_an_exact_model_passes(checkpoint: Path) -> None:
    result = CliRunner().invoke(
        app, ["parity", str(checkpoint), "--json", *_only("packed", "decode", "reload", "vllm")]
    )
    found = json.loads(result.stdout)["checks"]
    assert result.exit_code == 0
    assert all(set(check) == {"name", "error", "tolerance", "verdict", "why"} for check in found)
    ours = {check["verdict"] for check in found if not check["name"].startswith("vllm")}
    assert ours == {"passed"}
    assert {check["verdict"] for check in found} - ours <= {"skipped"}


def test_what_cannot_run_is_skipped_with_a_reason_and_alone_does_not_pass(checkpoint: Path) -> None:
    result = CliRunner().invoke(app, ["parity", str(checkpoint), "--json", *_only("context-parallel-3")])
    (check,) = json.loads(result.stdout)["checks"]
    assert result.exit_code == 1
    assert check["verdict"] == "skipped"
    assert "does not divide" in check["why"]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed: make setup-vllm")
def test_the_vllm_checks_pass_on_the_tiny_preset_and_name_the_key_that_is_in_the_way(checkpoint: Path) -> None:
    outcomes = run("tiny", only=["vllm"]).outcomes
    assert {outcome.name: outcome.verdict for outcome in outcomes} == {"vllm": "passed", "vllm-reload": "passed"}
    for skipped in run(str(checkpoint), only=["vllm"]).outcomes:
        assert (skipped.verdict, skipped.error) == ("skipped", None)
        assert "head_dim = 16" in skipped.why


def _only(*names: str) -> list[str]:
    return [part for name in names for part in ("--only", name)]


def _leaking_convolution(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = portable.causal_conv

    def leak(x: Tensor, weight: Tensor, bias: Tensor | None, layout: Any) -> Tensor:
        return honest(x, weight, bias, type(layout).of([layout.num_tokens], x.device))

    monkeypatch.setattr(portable, "causal_conv", leak)


def _forgotten_tail(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Mamba2.cached

    def forget(self: Mamba2, h: Tensor, conv: Tensor, ssm: Tensor, num_new: Tensor | None) -> Tensor:
        return honest(self, h, conv.zero_(), ssm, num_new)

    monkeypatch.setattr(Mamba2, "cached", forget)


def _shifted_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Attention.cached

    def shift(self: Attention, h: Tensor, table: tuple[Tensor, Tensor], *rest: Any) -> Tensor:
        return honest(self, h, (table[0].flip(-1), table[1].flip(-1)), *rest)

    monkeypatch.setattr(Attention, "cached", shift)


def _half_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = HybridCache.copy_rows_

    def fork(self: HybridCache, target: Tensor, other: HybridCache, source: Tensor, length: int) -> None:
        honest(self, target, other, source, length)
        self.ssm[-1][target] = 0

    monkeypatch.setattr(HybridCache, "copy_rows_", fork)


@pytest.mark.parametrize(
    ("break_it", "red", "green"),
    [
        (_leaking_convolution, {"packed-logits", "packed-convolution", "packed-gradients"}, {"decode", "save-load"}),
        (_forgotten_tail, {"decode", "chunked-prefill"}, {"packed-logits", "save-load"}),
        (_shifted_positions, {"prefill", "decode"}, {"packed-logits"}),
        (_half_fork, {"forked-cache"}, {"decode", "packed-logits"}),
    ],
)
def test_a_broken_model_turns_the_right_checks_red(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, break_it: Callable[..., None], red: set[str], green: set[str]
) -> None:
    break_it(monkeypatch)
    found = verdicts(checkpoint, *red, *green)
    assert {name for name in red if found[name] == "failed"} == red
    assert {name for name in green if found[name] == "passed"} == green


def test_a_reload_that_drops_a_tensor_is_found(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = torch.nn.Module.load_state_dict

    def drop(self: torch.nn.Module, state: dict[str, Tensor], *args: Any, **kwargs: Any) -> Any:
        return honest(self, {k: v for k, v in state.items() if not k.endswith("mamba.D")}, strict=False)

    monkeypatch.setattr(torch.nn.Module, "load_state_dict", drop)
    assert verdicts(checkpoint, "reload")["reload"] == "failed"


def test_narrow_weights_state_their_error_and_one_that_is_off_is_found(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found() -> dict[str, Any]:
        result = CliRunner().invoke(app, ["parity", str(checkpoint), "--json", "--only", "weights"])
        return {check["name"]: check for check in json.loads(result.stdout)["checks"]}

    honest = found()
    assert {check["verdict"] for check in honest.values()} == {"passed"}
    half, quarter = (honest[name]["figures"] for name in ("weights-bfloat16", "weights-int8"))
    assert 0 < half["kl_nats"] < quarter["kl_nats"] < 1e-2
    for figures in (half, quarter):
        assert 0 < figures["mean_logit_error"] < figures["max_logit_error"]
        assert 0.9 < figures["greedy_agreement"] <= 1

    take = _Packed.take
    monkeypatch.setattr(
        _Packed, "take",
        lambda self, weight, factor, *rest: take(self, weight, factor if self.scale is None else factor * 1.2, *rest),
    )  # fmt: skip
    assert {check["verdict"] for check in found().values()} == {"failed"}


def test_narrow_weights_are_of_decoding_in_c_and_a_text_needs_a_tokenizer(checkpoint: Path) -> None:
    assert verdicts(checkpoint, "weights") == {"weights-bfloat16": "skipped", "weights-int8": "skipped"}
    with pytest.raises(UserError, match="name a checkpoint"):
        run("tiny", only=["weights"], text="README.md")


def test_another_architecture_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    result = CliRunner().invoke(app, ["parity", str(tmp_path)])
    assert result.exit_code != 0
    assert "falcon_h1" in str(result.exception)
