"""The layer as one operator is the layer composed of operators, with every gradient, on any geometry."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from geometries import SMALL, geometries, random_ids, randomised
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from h1r.kernels.contract import Kernels
from h1r.kernels.cpu import fused_layer, obstacle
from h1r.kernels.layout import Layout
from h1r.kernels.selection import select
from h1r.models.falcon_h1.config import HybridConfig

pytestmark = pytest.mark.skipif(obstacle() is not None, reason=str(obstacle()))


def outcome(
    config: HybridConfig, lengths: list[int], seed: int, kernels: Kernels, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Logits and the gradient of every parameter through a random pull, in float64."""
    model = randomised(config, seed).to(dtype).use(kernels)
    logits = model.logits(model.model(random_ids(config, sum(lengths), seed=seed), Layout.of(lengths)))
    pull = torch.randn(logits.shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    (logits * pull).sum().backward()
    gradients = {name: p.grad.double() for name, p in model.named_parameters() if p.grad is not None}
    return {"logits": logits.detach().double(), **gradients}


def errors(found: dict[str, Tensor], exact: dict[str, Tensor]) -> dict[str, float]:
    """Relative to the largest magnitude of each tensor; of a gradient, to 1 % of the largest one at least, because a
    clamped time step leaves tensors whose gradient is next to zero."""
    assert found.keys() == exact.keys()
    largest = max(tensor.abs().max().item() for name, tensor in exact.items() if name != "logits")
    floor = {name: 0.0 if name == "logits" else 1e-2 * largest for name in exact}
    return {
        name: (found[name] - wanted).abs().max().item() / max(wanted.abs().max().item(), floor[name])
        for name, wanted in exact.items()
    }


@settings(max_examples=25, deadline=None)
@given(
    config=geometries(), lengths=st.lists(st.integers(1, 80), min_size=1, max_size=4), seed=st.integers(0, 2**31)
)  # fmt: skip
def test_logits_and_gradients_equal_those_in_float64(config: HybridConfig, lengths: list[int], seed: int) -> None:
    exact = outcome(config, lengths, seed, select("torch"), torch.float64)
    found = errors(outcome(config, lengths, seed, select("native"), torch.float32), exact)
    assert found.pop("logits") < 2e-5
    assert max(found.values()) < 1e-4, found


def test_long_documents_take_the_other_attention_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    short = outcome(SMALL, [40, 7, 33], 0, select("native"), torch.float32)
    monkeypatch.setattr(fused_layer, "takes", lambda layout, H: layout.longest <= 30)
    assert max(errors(outcome(SMALL, [40, 7, 33], 0, select("native"), torch.float32), short).values()) < 1e-5


def test_few_long_documents_are_cut_into_blocks_of_heads_with_the_same_result() -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        whole = outcome(SMALL, [150], 0, select("native"), torch.float32)
        torch.set_num_threads(3)
        cut = outcome(SMALL, [150], 0, select("native"), torch.float32)
    finally:
        torch.set_num_threads(threads)
    assert max(errors(cut, whole).values()) < 1e-5


def test_frozen_weights_get_no_gradient_and_inputs_still_do() -> None:
    ids, layout = random_ids(SMALL, 20), Layout.of([12, 8])
    grads = []
    for kernels in (select("native"), dataclasses.replace(select("native"), layer=None)):
        model = randomised(SMALL).use(kernels)
        for parameter in model.model.layers[1].parameters():
            parameter.requires_grad_(False)
        model.model(ids, layout).sum().backward()
        assert all(parameter.grad is None for parameter in model.model.layers[1].parameters())
        grads.append(model.model.layers[0].mamba.in_proj.weight.grad)
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-5)


def test_nothing_is_kept_for_a_backward_pass_that_cannot_come() -> None:
    model = randomised(SMALL).use(select("native"))
    with torch.no_grad():
        assert model.model(random_ids(SMALL, 20), Layout.of([20])).grad_fn is None


def test_half_precision_is_refused() -> None:
    model = randomised(SMALL, dtype=torch.bfloat16).use(select("native"))
    with pytest.raises(TypeError, match="native kernels take fp32 on a CPU, not bfloat16"):
        model.model(random_ids(SMALL, 20), Layout.of([20]))


def test_a_backward_pass_frees_what_its_layers_shared() -> None:
    outcome(SMALL, [40, 7], 0, select("native"), torch.float32)
    assert fused_layer._memory.held == {}


def test_a_pass_that_an_error_ended_leaves_nothing_to_the_next_one() -> None:
    def fail(grad: Tensor) -> None:
        raise RuntimeError("on purpose")

    model = randomised(SMALL).use(select("native"))
    model.model.embed_tokens.weight.register_hook(fail)
    with pytest.raises(RuntimeError, match="on purpose"):
        model.logits(model.model(random_ids(SMALL, 20), Layout.of([20]))).sum().backward()
    outcome(SMALL, [40, 7], 0, select("native"), torch.float32)
    assert fused_layer._memory.held == {}


def test_backward_passes_of_different_sizes_do_not_disturb_each_other() -> None:
    """The second graph is made before the first is walked back, and neither sees what the other left."""
    model = randomised(SMALL, 3).use(select("native"))
    wanted = [outcome(SMALL, [length], 3, select("native"), torch.float32) for length in (50, 9)]
    losses = []
    for length in (50, 9):
        logits = model.logits(model.model(random_ids(SMALL, length, seed=3), Layout.of([length])))
        losses.append((logits * torch.randn(logits.shape, generator=torch.Generator().manual_seed(3))).sum())
    for loss, expected in zip(reversed(losses), reversed(wanted), strict=True):
        found = torch.autograd.grad(loss, list(model.parameters()))
        for (name, _), gradient in zip(model.named_parameters(), found, strict=True):
            assert torch.equal(gradient.double(), expected[name]), name
