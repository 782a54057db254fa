"""fp32 weights beside a copy in bfloat16, and layers that are computed twice instead of kept."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from test_rl import RL, ready_for_rl
from tiny_training import (
    CONFIG,
    assert_same_stage,
    gap,
    gradients,
    metrics_of,
    read_weights,
    rl_section,
    run_from,
    tiny_model,
    train_rl_in,
    training_recipe,
)
from torch import Tensor

from h1r.config import EngineSection, OptimizerSection
from h1r.data.tokenizer import load_tokenizer
from h1r.engine.choose import open_engine
from h1r.engine.native.engine import NativeEngine
from h1r.engine.protocol import SamplingParams
from h1r.errors import UserError
from h1r.kernels.layout import Layout
from h1r.kernels.selection import select
from h1r.models import CausalLM, build
from h1r.train.batch import Rollout, set_norms
from h1r.train.optim import make_optimizer, optimizer_step
from h1r.train.parallel.activations import checkpoint_layers
from h1r.train.parallel.precision import ComputeCopy
from h1r.train.policy_update import accumulate_gradients
from h1r.train.sft import sft

LENGTHS = [600, 3, 1, 90]
"""One document is long enough for the attention of long documents."""


@contextmanager
def kept() -> Iterator[dict[int, Tensor]]:
    """The tensors that autograd keeps for the backward pass, by where their memory lies."""
    found: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        found[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield found


def bytes_of(found: dict[int, Tensor], model: CausalLM) -> int:
    """Of what is kept beside the parameters."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    return sum(tensor.untyped_storage().nbytes() for place, tensor in found.items() if place not in own)


def trained(model: CausalLM) -> tuple[Tensor, dict[str, Tensor], int]:
    """Hidden states and gradients of one pass, and the bytes kept in it."""
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(CONFIG.vocab_size, (sum(LENGTHS),), generator=generator)
    with kept() as found:
        hidden = model.model(ids, Layout.of(LENGTHS))
    (hidden.float() ** 2).mean().backward()
    return hidden.detach(), gradients(model), bytes_of(found, model)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kernels", "dtype"), [("torch", torch.float32), ("native", torch.float32), ("torch", torch.bfloat16)]
)
def test_checkpointed_layers_have_the_same_bits_in_a_fraction_of_the_memory(kernels: str, dtype: torch.dtype) -> None:
    config = CONFIG.replaced(num_hidden_layers=6)
    found = []
    for make in (lambda model: model, checkpoint_layers, partial(checkpoint_layers, offload=True)):
        model = build(config, 0, dtype).train().use(select(kernels, dtype=dtype))
        found.append(trained(make(model)))
    (plain, expected, whole), *others = found
    for again, gradient, _ in others:
        assert torch.equal(plain, again)
        assert [name for name in expected if not torch.equal(expected[name], gradient[name])] == []
    assert others[0][2] < whole / 10
    inputs = 6 * sum(LENGTHS) * config.hidden_size * dtype.itemsize
    assert others[0][2] - others[1][2] == pytest.approx(inputs, rel=0.2)


@pytest.mark.parametrize("offload", [False, True])
def test_of_what_is_offloaded_nothing_is_left_where_it_was_computed(offload: bool) -> None:
    model = checkpoint_layers(build(CONFIG.replaced(num_hidden_layers=6), 0).train(), offload)
    inputs: list[weakref.ref[torch.Tensor]] = []
    for layer in model.model.layers:
        layer.register_forward_pre_hook(lambda _, given: inputs.append(weakref.ref(given[0])))
    hidden = model.model(torch.arange(sum(LENGTHS)) % CONFIG.vocab_size, Layout.of(LENGTHS))
    alive = [one() is not None for one in inputs]
    assert alive == [not offload] * 6
    hidden.sum().backward()


def test_no_scaled_copy_of_a_weight_waits_for_the_backward_pass() -> None:
    scales = {"ssm_in_multiplier": 0.7, "mlp_multipliers": (0.3, 1.1), "ssm_multipliers": (0.4, 0.3, 0.2, 0.5, 0.4)}
    model = build(CONFIG.replaced(**scales), 0).train()
    matrices = {tuple(p.shape) for p in model.parameters() if p.ndim == 2}
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    with kept() as found:
        model.model(torch.arange(20), Layout.of([20]))
    copies = [t for place, t in found.items() if place not in own and {tuple(t.shape), tuple(t.shape)[::-1]} & matrices]
    assert copies == []


def test_a_checkpointed_sft_run_ends_with_the_same_bits(curated: Path, tmp_path: Path) -> None:
    section = {"epochs": 1, "batch_size": 3, "micro_batch_size": 1, "seq_len": 128}
    stages = []
    for checkpoint in (False, True):
        recipe = training_recipe(sft=section, parallel={"checkpoint": checkpoint})
        run = run_from(curated, tmp_path / str(checkpoint), recipe)
        sft(recipe, run)
        stages.append(run.path / "sft")
    assert_same_stage(*stages)


def rollouts_of(answers: int) -> list[Rollout]:
    found = [Rollout([1, 2, 3, *range(4, 5 + n)], 2, [-2.5] * (n + 2), (-1.0) ** n, n % 2 == 0) for n in range(answers)]
    set_norms(found, rl_section())
    return found


def stepped(trained: Any, rate: float) -> float:
    """The share of weights that one step of AdamW changes."""
    weights = trained.weights if isinstance(trained, ComputeCopy) else trained
    before = [p.detach().clone() for p in weights.parameters()]
    section = OptimizerSection(learning_rate=rate, weight_decay=0.0)
    optimizer = make_optimizer(trained, section)
    accumulate_gradients(trained, rollouts_of(4), rl_section(micro_batch_tokens=8))
    optimizer_step(weights, optimizer, section, 1.0)
    changed = sum(int((p != old).sum()) for p, old in zip(weights.parameters(), before, strict=True))
    return changed / sum(p.numel() for p in before)


def test_a_small_step_is_lost_in_bfloat16_and_not_beside_a_copy_that_computes_in_it() -> None:
    rate = 2e-6  # the paper's
    assert stepped(tiny_model(dtype=torch.float32).cast(torch.bfloat16), rate) < 0.1
    weights = tiny_model(dtype=torch.float32)
    copy = ComputeCopy(weights, torch.bfloat16)
    assert stepped(copy, rate) > 0.6
    assert copy.model.dtype == torch.bfloat16
    for (name, rounded), weight in zip(copy.model.named_parameters(), weights.parameters(), strict=True):
        assert torch.equal(rounded, weight.to(rounded.dtype)), name
        assert (rounded.dtype == torch.float32) == name.endswith(("A_log", "D", "dt_bias"))


def test_the_gradients_of_micro_batches_are_summed_in_fp32() -> None:
    """Each micro-batch's gradient is what the copy computes of it alone; their sum is rounded as fp32 is."""
    section = rl_section(micro_batch_tokens=1)
    weights = tiny_model(dtype=torch.float32)
    copy = ComputeCopy(weights, torch.bfloat16)
    rollouts = rollouts_of(6)
    accumulate_gradients(copy, rollouts, section)
    found = gradients(weights)  # type: ignore[arg-type]
    assert all(p.grad is None for p in copy.model.parameters())
    assert {tensor.dtype for tensor in found.values()} == {torch.float32}
    expected = {name: torch.zeros_like(p) for name, p in weights.named_parameters()}
    for rollout in rollouts:
        accumulate_gradients(copy, [rollout], section)
        for name, tensor in gradients(weights).items():  # type: ignore[arg-type]
            expected[name] += tensor
    assert gap(found, expected) < 1e-6


def test_rl_in_bfloat16_keeps_and_publishes_fp32_and_samples_from_what_it_trains(curated: Path, tmp_path: Path) -> None:
    # Every rollout is of the present weights, and among six groups there are some to learn from.
    section = {**RL, "steps": 3, "batch_size": 6, "backfill": {"mode": "reject"}}
    found = {}
    for kind in ("stored", "bfloat16"):
        recipe = training_recipe(rl={**section, "compute_dtype": kind}, parallel={"checkpoint": kind == "bfloat16"})
        run = ready_for_rl(curated, tmp_path / kind, recipe)
        train_rl_in(run, recipe)
        found[kind] = read_weights(run.path / "rl" / "model")
        lines = metrics_of(run.path / "rl")
        assert [line["tis_mean"] for line in lines] == pytest.approx([1.0] * 3, abs=0.02)
    assert {tensor.dtype for tensor in found["bfloat16"].values()} == {torch.float32}
    assert 1e-6 < gap(found["stored"], found["bfloat16"]) < 5e-2


def test_the_native_engine_runs_in_the_type_asked_for_and_refuses_another_than_the_trainers(curated: Path) -> None:
    tokenizer = load_tokenizer(curated / "curate" / "tokenizer")
    section = EngineSection(dtype="bfloat16")
    with open_engine(section, tokenizer, lambda: build(CONFIG, 0).use(select("auto"))) as engine:
        assert isinstance(engine, NativeEngine)
        assert engine.model.dtype == torch.bfloat16
        (trace,) = engine.generate([[1, 2, 3]], SamplingParams(n=1, max_tokens=4, temperature=1.0))
        assert trace.num_tokens > 0
    with (
        pytest.raises(UserError, match=r"engine\.dtype = bfloat16 is not what the trainer computes in"),
        open_engine(section, tokenizer, build(CONFIG, 0)),
    ):
        pass
