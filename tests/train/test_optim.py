"""Learning-rate schedule, parameter groups and the step that survives a bad gradient."""

from __future__ import annotations

import math
import resource
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_training import CONFIG, tiny_model
from torch import nn

from h1r.config import OptimizerSection
from h1r.data.tokenizer import load_tokenizer
from h1r.errors import UserError
from h1r.models import CausalLM, build
from h1r.run.checkpoints import Checkpoints
from h1r.train.checkpoint import Tensors, restore, save_checkpoint
from h1r.train.optim import linear_schedule, make_optimizer, optimizer_step

SECTION = OptimizerSection(learning_rate=0.1)


@given(warmup=st.integers(0, 20), after=st.integers(1, 50), low=st.floats(0, 1))
def test_the_schedule_rises_to_one_and_falls_in_equal_steps_to_the_minimum(warmup: int, after: int, low: float) -> None:
    total = warmup + after
    factors = [linear_schedule(step, warmup, total, low) for step in range(total + 1)]
    rise, fall = [0.0, *factors[: warmup + 1]], factors[warmup:]
    assert factors[warmup] == pytest.approx(1.0)
    assert fall[-1] == pytest.approx(low)
    assert [b - a for a, b in pairwise(rise)] == pytest.approx([1 / (warmup + 1)] * (warmup + 1))
    assert [a - b for a, b in pairwise(fall)] == pytest.approx([(1 - low) / after] * after)
    assert factors[0] > 0


def test_past_the_end_the_schedule_stays_at_the_minimum() -> None:
    assert [linear_schedule(step, 2, 10, 0.25) for step in (10, 11, 1000)] == [0.25] * 3


def test_weight_decay_falls_on_matrices_only() -> None:
    model = tiny_model()
    optimizer = make_optimizer(model, OptimizerSection(learning_rate=0.1, weight_decay=0.5))
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    named = dict(model.named_parameters())
    assert {id(p) for p in named.values()} == decay.keys()
    for name, parameter in named.items():
        spared = parameter.ndim == 1
        assert decay[id(parameter)] == (0.0 if spared else 0.5), name
    spared_names = {name.rsplit(".", 1)[-1] for name, p in named.items() if p.ndim == 1}
    assert {"A_log", "D", "dt_bias", "bias", "weight"} == spared_names


def _one_weight(gradient: float) -> tuple[nn.Linear, torch.optim.Optimizer]:
    layer = nn.Linear(2, 1, bias=False)
    optimizer = make_optimizer(layer, SECTION)
    layer.weight.grad = torch.ones_like(layer.weight)
    optimizer_step(layer, optimizer, SECTION, 1.0)
    layer.weight.grad = torch.tensor([[0.5, gradient]])
    return layer, optimizer


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_gradient_that_is_not_finite_changes_nothing(bad: float) -> None:
    layer, optimizer = _one_weight(bad)
    before = layer.weight.detach().clone()
    state = {key: value.clone() for key, value in optimizer.state[layer.weight].items()}
    norm, stepped = optimizer_step(layer, optimizer, SECTION, 1.0)
    assert not stepped
    assert not math.isfinite(norm)
    assert torch.equal(layer.weight, before)
    assert all(torch.equal(optimizer.state[layer.weight][key], value) for key, value in state.items())
    assert layer.weight.grad is None


def test_a_good_gradient_after_a_bad_one_steps_again() -> None:
    layer, optimizer = _one_weight(math.nan)
    optimizer_step(layer, optimizer, SECTION, 1.0)
    before = layer.weight.detach().clone()
    layer.weight.grad = torch.ones_like(layer.weight)
    _, stepped = optimizer_step(layer, optimizer, SECTION, 1.0)
    assert stepped
    assert torch.isfinite(layer.weight).all()
    assert not torch.equal(layer.weight, before)


def test_the_step_is_the_clipped_gradient_at_the_scheduled_rate() -> None:
    layer = nn.Linear(2, 1, bias=False)
    before = layer.weight.detach().clone()
    layer.weight.grad = torch.tensor([[3.0, 4.0]])
    section = OptimizerSection(learning_rate=0.5, grad_clip=2.0)
    optimizer = torch.optim.SGD(layer.parameters(), lr=123.0)
    norm, stepped = optimizer_step(layer, optimizer, section, 0.1)
    assert stepped
    assert norm == pytest.approx(5.0)
    torch.testing.assert_close(layer.weight.detach(), before - 0.05 * torch.tensor([[1.2, 1.6]]))


def test_vectors_learn_at_their_own_rate() -> None:
    model = nn.Linear(3, 2)
    section = OptimizerSection(learning_rate=1e-3, vector_lr_scale=50, weight_decay=0, grad_clip=1e9)
    optimizer = make_optimizer(model, section)
    before = [p.detach().clone() for p in (model.weight, model.bias)]
    model(torch.ones(1, 3)).sum().backward()
    optimizer_step(model, optimizer, section, 0.5)
    moved = [float((b - p.detach()).abs().max()) for b, p in zip(before, (model.weight, model.bias), strict=True)]
    # The first step of AdamW moves every parameter by its rate.
    assert moved == pytest.approx([0.5e-3, 25e-3], rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_too_narrow_for_their_updates_are_said_to_be(
    dtype: torch.dtype, capsys: pytest.CaptureFixture[str]
) -> None:
    """At the paper's rate for RL, weights of the usual size do not move at all in bfloat16."""
    model = tiny_model(dtype=dtype)
    section = OptimizerSection(learning_rate=2e-6)
    optimizer = make_optimizer(model, section, "rl")
    told = (
        "weights are trained in bfloat16, which loses every update of less than about 0.004 of a weight; --set "
        "rl.compute_dtype=float32 keeps weights in float32\n" in capsys.readouterr().err
    )
    weight = model.model.embed_tokens.weight
    with torch.no_grad():
        weight.fill_(0.02)
    for _ in range(20):
        weight.grad = torch.ones_like(weight)
        optimizer_step(model, optimizer, section, 1.0)
    moved = bool((weight != torch.tensor(0.02, dtype=dtype)).all())
    assert (told, moved) == ((True, False) if dtype == torch.bfloat16 else (False, True))


KINDS = [OptimizerSection(kind=kind, learning_rate=1e-2) for kind in ("adamw", "muon", "adamw8bit")]


def wide_model() -> CausalLM:
    """In float32, with matrices that are large enough for torchao to keep their moments in 8 bits."""
    return build(CONFIG.replaced(vocab_size=280, intermediate_size=144), 0, torch.float32).train()


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchao compiles its step, which takes a minute on a CPU; the same code runs without that."""
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)


def _steps(model: CausalLM, optimizer: torch.optim.Optimizer, section: OptimizerSection, first: int, last: int) -> None:
    for number in range(first, last):
        torch.manual_seed(number)
        for p in model.parameters():
            p.grad = torch.randn_like(p)
        optimizer_step(model, optimizer, section, 1.0)


def test_moments_for_which_there_is_no_room_are_one_sentence_with_the_systems_word(
    curated: Path, tmp_path: Path
) -> None:
    model = wide_model()
    optimizer = make_optimizer(model, KINDS[0])
    _steps(model, optimizer, KINDS[0], 0, 1)
    tokenizer = load_tokenizer(curated / "curate" / "tokenizer")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20_000, before[1]))  # enough for the model, not for the moments
    try:
        with pytest.raises(UserError, match=f"{tmp_path}/checkpoints: File too large; make room"):
            save_checkpoint(Checkpoints(tmp_path), 2, Tensors.of(model, optimizer), tokenizer, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list((tmp_path / "checkpoints").iterdir()) == []


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("section", KINDS, ids=lambda section: section.kind)
def test_each_optimiser_goes_on_from_a_checkpoint_to_the_same_bits(
    section: OptimizerSection, curated: Path, tmp_path: Path
) -> None:
    kept = Checkpoints(tmp_path)
    unbroken = wide_model()
    optimizer = make_optimizer(unbroken, section)
    _steps(unbroken, optimizer, section, 0, 2)
    save_checkpoint(kept, 2, Tensors.of(unbroken, optimizer), load_tokenizer(curated / "curate" / "tokenizer"), {})
    _steps(unbroken, optimizer, section, 2, 4)
    kept_as = {type(value).__name__ for state in optimizer.state.values() for value in state.values()}
    assert ("OptimState8bit" in kept_as) == (section.kind == "adamw8bit")

    resumed = wide_model()
    again = make_optimizer(resumed, section)
    found = kept.latest()
    assert found is not None
    restore(found[1], resumed, again)
    _steps(resumed, again, section, 2, 4)
    for name, p in resumed.named_parameters():
        assert torch.equal(p, unbroken.get_parameter(name)), name


def test_muon_steps_the_matrices_of_layers_by_what_has_equal_singular_values() -> None:
    model = tiny_model()
    section = OptimizerSection(kind="muon", learning_rate=1e-2, weight_decay=0.0, vector_lr_scale=2.0, grad_clip=1e9)
    optimizer = make_optimizer(model, section)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    _steps(model, optimizer, section, 0, 1)
    for name, p in model.named_parameters():
        moved = p.detach() - before[name]
        if name.startswith("model.layers.") and p.ndim == 2:
            # Newton and Schulz's iteration brings all but the smallest singular values to 0.7 to 1.2 of one size
            values = torch.linalg.svdvals(moved) / (0.2 * math.sqrt(max(p.shape)) * section.learning_rate)
            assert float((values > 0.6).double().mean()) > 0.9, name
            assert float(values.max()) < 1.3, name
        else:  # the first step of AdamW moves each number by the rate
            rate = section.learning_rate * (2.0 if p.ndim == 1 else 1.0)
            torch.testing.assert_close(moved.abs(), torch.full_like(moved, rate), rtol=1e-3, atol=0)


def test_muon_is_pytorchs_but_for_bf16() -> None:
    ours, theirs = (tiny_model(dtype=torch.float32) for _ in range(2))
    section = OptimizerSection(kind="muon", learning_rate=1e-2, weight_decay=0.1)
    optimizer = make_optimizer(ours, section)
    hidden = {name: p for name, p in theirs.model.layers.named_parameters() if p.ndim == 2}
    muon = torch.optim.Muon(hidden.values(), lr=1e-2, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    for number in range(3):
        _steps(ours, optimizer, section, number, number + 1)
        _steps(theirs, muon, section, number, number + 1)
    before = tiny_model(dtype=torch.float32).model.layers
    for name, p in hidden.items():
        moved = p.detach() - before.get_parameter(name).detach()
        gap = ours.model.layers.get_parameter(name).detach() - p.detach()
        assert float(gap.norm() / moved.norm()) < 0.05, name


def test_eight_bits_without_torchao_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao.optim", None)
    with pytest.raises(UserError, match=r'pip install "open-h1r\[torchao\]"'):
        make_optimizer(tiny_model(), KINDS[2])
