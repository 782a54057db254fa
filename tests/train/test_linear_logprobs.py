"""Log-probabilities chunk by chunk equal those of whole logits, forward and backward."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from h1r.train.linear_logprobs import linear_logprobs, logprobs_and_entropy
from h1r.train.losses import entropy, token_logprobs


@settings(max_examples=40, deadline=None)
@given(
    T=st.integers(1, 40), V=st.integers(2, 60), chunk=st.integers(1, 50), temperature=st.sampled_from([0.6, 1.0, 1.3]),
    scale=st.sampled_from([1.0, 0.05, 3.0]),
)  # fmt: skip
def test_equals_the_log_softmax_of_whole_logits(T: int, V: int, chunk: int, temperature: float, scale: float) -> None:
    torch.manual_seed(T * V)
    hidden, weight = torch.randn(T, 7, dtype=torch.float64), torch.randn(V, 7, dtype=torch.float64)
    targets, pull = torch.randint(0, V, (T,)), torch.randn(T, dtype=torch.float64)
    inputs = [hidden.clone().requires_grad_(), weight.clone().requires_grad_()]
    logits = scale * inputs[0] @ inputs[1].t()
    expected = token_logprobs(logits, targets, temperature)
    wanted = torch.autograd.grad((expected * pull).sum(), inputs)
    got, spread = logprobs_and_entropy(*inputs, targets, scale, temperature, chunk)
    found = torch.autograd.grad((got * pull).sum(), inputs)
    for a, b in zip((got, spread, *found), (expected, entropy(logits, temperature), *wanted), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_bf16_stays_within_its_rounding() -> None:
    torch.manual_seed(0)
    hidden, weight, targets = torch.randn(300, 64), torch.randn(1000, 64) * 0.1, torch.randint(0, 1000, (300,))
    halves = [t.bfloat16().requires_grad_() for t in (hidden, weight)]
    exact = [t.detach().double().requires_grad_() for t in halves]
    got = linear_logprobs(*halves, targets, chunk=64)
    expected = token_logprobs(exact[0] @ exact[1].t(), targets)
    assert got.dtype == torch.float32
    for a, b in zip(
        (got, *torch.autograd.grad(got.sum(), halves)),
        (expected, *torch.autograd.grad(expected.sum(), exact)),
        strict=True,
    ):
        assert (a.double() - b).norm() <= 1e-2 * b.norm()


def test_never_holds_the_logits_of_all_tokens() -> None:
    hidden, weight = torch.randn(64, 8, requires_grad=True), torch.randn(500, 8, requires_grad=True)
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for t in out if isinstance(out, tuple | list) else (out,):
                if isinstance(t, torch.Tensor):
                    largest = max(largest, t.numel())
            return out

    with Watch():
        linear_logprobs(hidden, weight, torch.zeros(64, dtype=torch.long), chunk=4).sum().backward()
    assert largest == weight.numel() > 4 * 500


def test_only_the_hidden_states_need_a_gradient_when_the_head_is_frozen() -> None:
    hidden, weight = torch.randn(5, 8, requires_grad=True), torch.randn(20, 8)
    linear_logprobs(hidden, weight, torch.arange(5), chunk=2).sum().backward()
    assert hidden.grad is not None
    assert weight.grad is None


def test_an_empty_batch_has_no_log_probabilities() -> None:
    hidden, weight = torch.randn(0, 8, requires_grad=True), torch.randn(20, 8, requires_grad=True)
    got = linear_logprobs(hidden, weight, torch.zeros(0, dtype=torch.long))
    got.sum().backward()
    assert got.shape == (0,)
    assert hidden.grad is not None
    assert not weight.grad.any()  # type: ignore[union-attr]


def test_a_chunk_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="chunk"):
        linear_logprobs(torch.randn(2, 3), torch.randn(4, 3), torch.zeros(2, dtype=torch.long), chunk=0)
