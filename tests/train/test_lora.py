"""Adapters: their gradients, what stays as it was, resuming, and what PEFT makes of the files."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import (
    Killed,
    assert_same_stage,
    read_weights,
    run_from,
    tiny_model,
    train_rl_in,
    train_sft_in,
    training_recipe,
)  # fmt: skip
from torch import Tensor

from h1r.config import LoraSection, OptimizerSection
from h1r.errors import UserError
from h1r.kernels.layout import Layout
from h1r.kernels.selection import select
from h1r.models import CausalLM
from h1r.records import write_jsonl
from h1r.train.lora import Adapted
from h1r.train.optim import make_optimizer, optimizer_step
from h1r.train.parallel.gradients import call, computing_model, weights_of

IDS = torch.tensor([3, 9, 4, 11, 5, 2, 8, 7])
TARGETS = ["q_proj", "in_proj", "down_proj"]


def loss_of(model: CausalLM, ids: Tensor = IDS) -> Tensor:
    hidden = model.model(ids, Layout.of([5, 3], "cpu"))
    return torch.logsumexp(model.logits(hidden), -1).sum() - model.logits(hidden)[:, 3].sum()


def adapted(dtype: torch.dtype = torch.float32, **changes: Any) -> Adapted:
    section = LoraSection.model_validate({"rank": 2, "alpha": 6.0, "targets": TARGETS, **changes})
    found = Adapted(tiny_model(dtype=dtype), section, seed=1)
    for b in found.weights.B:
        b.data.normal_(std=0.1, generator=torch.Generator().manual_seed(b.shape[0]))
    found.refresh()
    return found


def test_the_model_is_as_it_was_until_a_step_is_taken() -> None:
    plain = tiny_model(dtype=torch.float32)
    trained = Adapted(tiny_model(dtype=torch.float32), LoraSection(rank=2), seed=0)
    trained.refresh()
    assert all(
        torch.equal(one, other) for one, other in zip(plain.parameters(), trained.model.parameters(), strict=True)
    )


@pytest.mark.parametrize("kernels", ["torch", "native"])
def test_gradients_are_those_of_the_sum(kernels: str) -> None:
    """Of A and B as autograd finds them through W + alpha / rank B A, twice, since micro-batches add up."""
    trained = adapted()
    trained.model.use(select(kernels))
    for ids in (IDS, IDS.flip(0)):
        call(trained, loss_of, ids).backward()
    reference = Caller(tiny_model(dtype=torch.float32))
    pairs = [
        (a.detach().clone().requires_grad_(), b.detach().clone().requires_grad_())
        for a, b in zip(trained.weights.A, trained.weights.B, strict=True)
    ]
    for ids in (IDS, IDS.flip(0)):
        tensors = {name: p.detach() for name, p in reference.named_parameters()}
        for name, (a, b) in zip(trained.weights.names, pairs, strict=True):
            tensors[f"model.{name}.weight"] = tensors[f"model.{name}.weight"] + 3.0 * b @ a
        torch.func.functional_call(reference, tensors, (ids,)).backward()
    for (a, b), mine, other in zip(pairs, trained.weights.A, trained.weights.B, strict=True):
        torch.testing.assert_close(mine.grad, a.grad, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(other.grad, b.grad, rtol=1e-4, atol=1e-5)
    assert all(p.grad is None for p in trained.model.parameters()), "a matrix's gradient is not kept"


class Caller(torch.nn.Module):
    def __init__(self, model: CausalLM) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> Tensor:
        return loss_of(self.model, ids)


def test_a_step_changes_the_adapted_matrices_and_nothing_else() -> None:
    trained = adapted()
    before = {name: p.detach().clone() for name, p in trained.model.named_parameters()}
    optimizer = make_optimizer(trained, OptimizerSection(learning_rate=1e-2))
    loss = call(trained, loss_of)
    loss.backward()
    optimizer_step(weights_of(trained), optimizer, OptimizerSection(learning_rate=1e-2), 1.0)
    changed = {name for name, p in trained.model.named_parameters() if not torch.equal(p, before[name])}
    assert {name.split(".")[-2] for name in changed} == set(TARGETS)
    assert call(trained, loss_of) < loss
    assert computing_model(trained) is trained.model


def test_adapters_stay_in_fp32_beside_a_model_in_bf16() -> None:
    trained = adapted(torch.bfloat16)
    call(trained, loss_of).backward()
    assert {p.dtype for p in trained.weights.parameters()} == {torch.float32}
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in trained.weights.parameters())
    assert trained.model.dtype == torch.bfloat16


def test_targets_that_no_layer_has_are_refused() -> None:
    with pytest.raises(UserError, match=r"no layer is called query.*in_proj.*q_proj"):
        Adapted(tiny_model(), LoraSection(rank=2, targets=["query"]), seed=0)


def test_adapters_of_another_rank_are_refused(tmp_path: Path) -> None:
    adapted().save(tmp_path)
    adapted().load(tmp_path)
    with pytest.raises(UserError, match="another rank"):
        adapted(rank=3).load(tmp_path)


LORA = {"lora": {"rank": 4, "alpha": 8.0}}


def test_sft_resumes_to_the_bits_and_writes_the_model_and_its_adapter(curated: Path, tmp_path: Path) -> None:
    recipe = training_recipe(
        **LORA, sft={"epochs": 3, "batch_size": 2, "seq_len": 128, "checkpoint_every": 2, "max_idle_steps": 0}
    )
    unbroken, killed = (run_from(curated, tmp_path / name, recipe) for name in ("unbroken", "killed"))
    train_sft_in(unbroken, recipe)
    with pytest.raises(Killed):
        train_sft_in(killed, recipe, dies_after=3)
    assert not (killed.path / "sft" / "model").exists()
    train_sft_in(killed, recipe, resume=True)
    assert_same_stage(unbroken.path / "sft", killed.path / "sft")
    one, other = (read_weights(run.path / "sft" / "adapter") for run in (unbroken, killed))
    assert one
    assert all(torch.equal(one[name], other[name]) for name in one)
    stored = next((killed.path / "sft" / "checkpoints").glob("step_*"))
    assert not (stored / "model").exists(), "a checkpoint of adapters holds no model"
    settings = json.loads((killed.path / "sft" / "adapter" / "adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"], settings["peft_type"]) == (4, 8.0, "LORA")


def test_shards_and_adapters_do_not_go_together() -> None:
    from h1r.train.parallel.world import World
    from h1r.train.start import _in_shards

    recipe = training_recipe(**LORA, parallel={"shard": True})
    with pytest.raises(UserError, match=r"set parallel\.shard = false"):
        _in_shards(tiny_model(), None, recipe, World(mesh=object()), None)  # type: ignore[arg-type]


def test_rl_samples_from_the_sum_and_trains_the_adapters(curated: Path, tmp_path: Path) -> None:
    recipe = training_recipe(
        **LORA,
        sft={"epochs": 1, "batch_size": 4, "seq_len": 128, "max_idle_steps": 0},
        rl={"steps": 3, "batch_size": 2, "num_generations": 4, "temperature": 1.0, "max_tokens": 12,
            "checkpoint_every": 1, "warmup_steps": 0, "optimizer": {"learning_rate": 1e-2}},
    )  # fmt: skip
    runs = [run_from(curated, tmp_path / name, recipe) for name in ("unbroken", "killed")]
    for run in runs:
        train_sft_in(run, recipe)
        write_pool(run.path)
    train_rl_in(runs[0], recipe)
    with pytest.raises(Killed):
        train_rl_in(runs[1], recipe, dies_after=1)
    train_rl_in(runs[1], recipe, resume=True)
    assert_same_stage(runs[0].path / "rl", runs[1].path / "rl")
    before, after = (read_weights(runs[0].path / stage / "model") for stage in ("sft", "rl"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert not any("norm" in name or "embed" in name or "lm_head" in name for name in changed)
    first = [json.loads(line) for line in (runs[0].path / "rl" / "metrics.jsonl").read_text().splitlines()]
    assert all(abs(row["tis_mean"] - 1) < 0.01 for row in first), "the engine samples from other weights"


def write_pool(run: Path) -> None:
    (run / "rl_pool").mkdir()
    write_jsonl(run / "rl_pool" / "pool.jsonl", [json.loads(line) for line in
                (run / "curate" / "problems_rl.jsonl").read_text().splitlines()])  # fmt: skip


@pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="PEFT is not installed")
def test_peft_reads_the_adapter_over_transformers(tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from h1r.models import save

    base, trained = tiny_model(dtype=torch.float32), adapted()
    save(base, tmp_path / "base")
    trained.save(tmp_path / "adapter")
    theirs = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32), str(tmp_path / "adapter")
    )
    with torch.no_grad():
        expected, found = trained.model(IDS[None]), theirs(IDS[None]).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
