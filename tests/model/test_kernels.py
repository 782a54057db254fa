"""Every implementation of every operator equals the definition in float64, forward and backward."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from h1r.model.kernels import Kernels, select
from h1r.model.kernels.reference import REFERENCE
from h1r.model.layout import Layout


def available(name: str, dtype: torch.dtype) -> Kernels:
    return select(name, "cpu", dtype)


@pytest.fixture(params=[("torch", torch.float64), ("torch", torch.float32), ("native", torch.float32)], ids=str)
def kind(request: pytest.FixtureRequest) -> tuple[Kernels, torch.dtype]:
    name, dtype = request.param
    return available(name, dtype), dtype


TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-5}


def agrees(
    operator: Callable[..., Tensor], definition: Callable[..., Tensor], inputs: list[Tensor], dtype: torch.dtype
) -> None:
    """Values and every gradient of `operator` in `dtype` against `definition` in float64, relative to the largest."""
    exact = [t.double().requires_grad_() for t in inputs]
    cast = [t.to(dtype).detach().requires_grad_() for t in inputs]
    expected, got = definition(*exact), operator(*cast)
    pull = torch.randn(expected.shape, generator=torch.Generator().manual_seed(0)).double()
    wanted = torch.autograd.grad((expected * pull).sum(), exact)
    found = torch.autograd.grad((got * pull.to(dtype)).sum(), cast)
    for a, b in zip((got, *found), (expected, *wanted), strict=True):
        error = (a.double() - b).abs().max() / b.abs().max().clamp_min(1e-3)
        assert error <= TOLERANCE[dtype], f"{error:.2e}"


documents = st.lists(st.integers(1, 30), min_size=1, max_size=5)


@settings(max_examples=25, deadline=None)
@given(
    lengths=documents, groups=st.sampled_from([1, 2, 3]), repeat=st.integers(1, 3), chunk=st.sampled_from([1, 4, 16, 64]),
    P=st.sampled_from([3, 8, 20]), S=st.sampled_from([4, 5, 16]),
)  # fmt: skip
@example(lengths=[200, 70], groups=1, repeat=2, chunk=64, P=32, S=32)
def test_scan(kind: tuple[Kernels, torch.dtype], lengths: list[int], groups: int, repeat: int, chunk: int, P: int, S: int) -> None:  # fmt: skip
    torch.manual_seed(sum(lengths))
    T, H, layout = sum(lengths), groups * repeat, Layout.of(lengths)
    inputs = [
        torch.randn(T, H, P), torch.rand(T, H), -torch.rand(H) * 2, torch.randn(T, groups, S),
        torch.randn(T, groups, S), torch.randn(H),
    ]  # fmt: skip
    kernels, dtype = kind
    agrees(lambda *t: kernels.scan(*t, layout, chunk), lambda *t: REFERENCE.scan(*t, layout, chunk), inputs, dtype)
