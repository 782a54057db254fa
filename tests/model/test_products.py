"""Products on the processor's tile units are as exact as fp32 arithmetic, at every size and layout."""

from __future__ import annotations

import pytest
import torch
from geometries import SMALL
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_fused_layer import errors, outcome
from tiles import NEEDS_TILES
from torch import Tensor

from h1r.kernels.cpu import head_attention, products
from h1r.kernels.selection import select

pytestmark = NEEDS_TILES


@pytest.fixture(autouse=True)
def _all_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "SMALLEST", 0)
    monkeypatch.setattr(head_attention, "SHORTEST", 1)


def matrix(rows: int, columns: int, turned: bool, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(columns, rows, generator=generator).t()
        if turned
        else torch.randn(rows, columns, generator=generator)
    )


def rounding(found: Tensor, a: Tensor, b: Tensor, plus: Tensor | None = None) -> float:
    """The worst error in units of |a| |b|, the sum of the magnitudes that each entry adds up."""
    exact, scale = a.double() @ b.double(), a.double().abs() @ b.double().abs()
    if plus is not None:
        exact, scale = exact + plus.double(), scale + plus.double().abs()
    return ((found.double() - exact).abs() / scale.clamp_min(1e-300)).max().item()


@settings(max_examples=60, deadline=None)
@given(
    M=st.integers(1, 70), N=st.integers(1, 70), K=st.integers(1, 100), a_turned=st.booleans(), b_turned=st.booleans(),
    plus=st.sampled_from(["none", "other", "same"]), seed=st.integers(0, 2**31),
)  # fmt: skip
@example(M=257, N=33, K=513, a_turned=True, b_turned=False, plus="none", seed=0)  # past a block of rows and of the sum
@example(M=17, N=4099, K=40, a_turned=False, b_turned=True, plus="other", seed=1)  # past a block of columns
@example(M=300, N=64, K=1200, a_turned=True, b_turned=False, plus="same", seed=2)
def test_a_product_rounds_like_fp32_or_less(
    M: int, N: int, K: int, a_turned: bool, b_turned: bool, plus: str, seed: int
) -> None:
    a, b = matrix(M, K, a_turned, seed), matrix(K, N, b_turned, seed + 1)
    out = matrix(M, N, False, seed + 2)
    added = {"none": None, "other": matrix(M, N, False, seed + 3), "same": out}[plus]
    kept = None if added is None else added.clone()
    assert rounding(products.product(a, b, out, added), a, b, kept) < 2**-22


def test_its_error_is_no_larger_than_that_of_fp32_products() -> None:
    a, b = matrix(64, 4096, False, 0), matrix(4096, 64, False, 1)
    assert rounding(products.product(a, b), a, b) <= rounding(a @ b, a, b)


def test_numbers_of_very_different_size_keep_their_digits() -> None:
    a, b = matrix(48, 96, False, 0), matrix(96, 48, False, 1)
    a *= 10.0 ** torch.linspace(-14, 14, 48)[:, None]
    b *= 10.0 ** torch.linspace(14, -14, 48)
    assert rounding(products.product(a, b), a, b) < 2**-22


@pytest.mark.parametrize("threads", [2, 3, 5])
def test_threads_change_no_bit(threads: int) -> None:
    a, b = matrix(130, 700, True, 0), matrix(700, 300, False, 1)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = products.product(a, b)
        torch.set_num_threads(threads)
        assert torch.equal(products.product(a, b), alone)
    finally:
        torch.set_num_threads(before)


def test_a_row_has_the_same_bits_whatever_stands_beside_it() -> None:
    a, b = matrix(100, 600, False, 0), matrix(600, 90, True, 1)
    assert torch.equal(products.product(a, b)[37:38], products.product(a[37:38], b))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_so_and_spoils_its_own_row_alone(bad: float) -> None:
    a, b = matrix(40, 50, False, 0), matrix(50, 30, False, 1)
    a[7, 3] = bad
    found = products.product(a, b)
    assert not found[7].isfinite().any()
    assert found[:7].isfinite().all()
    assert found[8:].isfinite().all()


def test_memory_beyond_the_result_is_left_alone() -> None:
    held = torch.full((40 * 23 + 64,), 7.0)
    a, b = matrix(40, 20, False, 0), matrix(20, 23, False, 1)
    products.product(a, b, held[: 40 * 23].view(40, 23))
    assert (held[40 * 23 :] == 7.0).all()


def test_linear_and_its_gradients_equal_those_in_float64() -> None:
    x, weight = matrix(3 * 50, 37, False, 0).view(3, 50, 37).requires_grad_(), matrix(61, 37, False, 1).requires_grad_()
    pull = torch.randn(3, 50, 61, generator=torch.Generator().manual_seed(2))
    found = torch.autograd.grad((products.linear(x, weight) * pull).sum(), (x, weight))
    exact = torch.autograd.grad((x.double() @ weight.double().t() * pull).sum(), (x, weight))
    for got, wanted in zip(found, exact, strict=True):
        assert (got - wanted).abs().max() < 1e-6 * wanted.abs().max()


def test_a_layer_on_tiles_equals_float64_with_every_gradient() -> None:
    exact = outcome(SMALL, [150, 7, 33], 0, select("torch"), torch.float64)
    found = errors(outcome(SMALL, [150, 7, 33], 0, select("native"), torch.float32), exact)
    assert max(found.values()) < 2e-5, found


def test_what_runs_is_named_and_can_be_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "products on AMX tiles" in select("native").reason
    monkeypatch.setenv("H1R_TILES", "0")
    products.tiles.cache_clear()
    try:
        assert "products by torch, as H1R_TILES=0 asks" in select("auto").reason
        assert not products.tiles()[0]
    finally:
        monkeypatch.undo()
        products.tiles.cache_clear()
