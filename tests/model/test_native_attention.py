"""Attention in C, on tile and on vector units, equals its definition in float64, for documents of any length."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from h1r.kernels.cpu import head_attention, obstacle, tiles
from h1r.kernels.layout import Layout
from h1r.kernels.selection import select
from h1r.kernels.torch.operators import attention as definition

pytestmark = pytest.mark.skipif(obstacle() is not None, reason=str(obstacle()))


@pytest.fixture(autouse=True, params=["tiles", "vectors"])
def _all_lengths(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "tiles" and not tiles()[0]:
        pytest.skip(tiles()[1])
    monkeypatch.setattr(head_attention, "SHORTEST", 1 if request.param == "tiles" else 1 << 40)


def outcome(inputs: list[Tensor], pull: Tensor, layout: Layout, native: bool) -> list[Tensor]:
    """Heads' outputs and the gradients of q, k and v, of the native kernels in fp32 or of the definition in float64."""
    cast = [t.to(torch.float32 if native else torch.float64).requires_grad_() for t in inputs]
    out = (select("native").attention if native else definition)(*cast, layout)
    return [out.detach().double(), *(g.double() for g in torch.autograd.grad(out, cast, pull.to(out.dtype)))]


def inputs_of(lengths: list[int], H: int, J: int, E: int, seed: int) -> tuple[list[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    T = sum(lengths)
    q, k, v, pull = (torch.randn(T, heads, E, generator=generator) for heads in (H, J, J, H))
    return [2 * q, k, v], pull


def worst(found: list[Tensor], exact: list[Tensor]) -> float:
    """Errors relative to the largest magnitude, and absolute below 1."""
    return max(((a - b).abs().max() / b.abs().max().clamp_min(1)).item() for a, b in zip(found, exact, strict=True))


@settings(max_examples=12, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 150), min_size=1, max_size=4), J=st.integers(1, 3), repeat=st.integers(1, 3),
    E=st.sampled_from([2, 20, 32, 33, 64]), seed=st.integers(0, 2**31),
)  # fmt: skip
@example(lengths=[300, 1, 129], J=2, repeat=4, E=64, seed=0)
@example(lengths=[128, 256], J=1, repeat=1, E=96, seed=1)  # whole blocks only
def test_values_and_gradients_equal_the_definition(lengths: list[int], J: int, repeat: int, E: int, seed: int) -> None:
    inputs, pull = inputs_of(lengths, J * repeat, J, E, seed)
    layout = Layout.of(lengths)
    assert worst(outcome(inputs, pull, layout, True), outcome(inputs, pull, layout, False)) < 5e-6


def deviation(found: Tensor, exact: Tensor) -> float:
    """Root of the mean squared error. Whose largest error of 320,000 is larger changes with the seed."""
    return float((found - exact).square().mean().sqrt())


def test_a_long_document_has_no_more_error_than_in_torch() -> None:
    inputs, pull = inputs_of([2500], 2, 1, 64, 0)
    layout = Layout.of([2500])
    exact = outcome(inputs, pull, layout, False)
    cast = [t.clone().requires_grad_() for t in inputs]
    out = definition(*cast, layout)
    theirs = [out.detach().double(), *(g.double() for g in torch.autograd.grad(out, cast, pull))]
    for own, other, true in zip(outcome(inputs, pull, layout, True), theirs, exact, strict=True):
        assert deviation(own, true) <= 1.1 * deviation(other, true)
        assert worst([own], [true]) <= 2 * worst([other], [true])


def test_scores_of_hundreds_do_not_overflow() -> None:
    (q, k, v), pull = inputs_of([200], 2, 2, 32, 0)
    inputs, layout = [30 * q, 3 * k, v], Layout.of([200])
    found, exact = outcome(inputs, pull, layout, True), outcome(inputs, pull, layout, False)
    assert all(tensor.isfinite().all() for tensor in found)
    assert worst(found, exact) < 1e-4  # the scores themselves are rounded, at 1e-7 of hundreds


@pytest.mark.parametrize("threads", [2, 3, 9])
def test_threads_share_a_single_document_with_the_same_result(threads: int) -> None:
    inputs, pull = inputs_of([400], 4, 2, 32, 0)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = outcome(inputs, pull, Layout.of([400]), True)
        torch.set_num_threads(threads)
        shared = outcome(inputs, pull, Layout.of([400]), True)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(shared[0], alone[0])
    assert worst(shared, alone) < 2e-6


def test_a_document_has_the_same_bits_whatever_stands_beside_it() -> None:
    inputs, pull = inputs_of([77, 190, 40], 4, 2, 20, 0)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)  # several threads cut a lone document's sums into more parts
        together = outcome(inputs, pull, Layout.of([77, 190, 40]), True)
        alone = outcome([t[77:267] for t in inputs], pull[77:267], Layout.of([190]), True)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a[77:267], b) for a, b in zip(together, alone, strict=True))
