"""Causal depthwise convolution over documents laid end to end.

    y_t = bias + sum_{k < K, t - k in the same document} w_{K-1-k} * x_{t-k}

A few taps over many channels is a handful of shifted multiply-adds. They run over the whole batch as if it were one
document; the first K - 1 tokens of each document are then computed again with what lies before their document left
out (in the backward pass: the last K - 1), so that nothing crosses a border, not even a rounding error.

Shapes: T flat tokens, N channels, K taps, R rows near a border.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from h1r.kernels.layout import Layout


def causal_conv(x_TN: Tensor, weight_NK: Tensor, bias_N: Tensor | None, layout: Layout) -> Tensor:
    """[T, N] -> [T, N]; differentiable in x, weight and bias."""
    return _CausalConv.apply(x_TN, weight_NK, bias_N, layout.positions, layout.remaining)


class _CausalConv(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, positions: Tensor, remaining: Tensor
    ) -> Tensor:
        ctx.save_for_backward(x, weight, positions, remaining)
        ctx.has_bias = bias is not None
        taps = weight.t().flip(0).contiguous()
        out = _shifted_sum(x, taps, positions, -1)
        return out if bias is None else out.add_(bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        x, weight, positions, remaining = ctx.saved_tensors
        taps = weight.t().flip(0).contiguous()
        grad_x = _shifted_sum(grad, taps, remaining, 1) if ctx.needs_input_grad[0] else None
        grad_taps = torch.zeros_like(taps)
        for back in range(min(taps.shape[0], x.shape[0])):
            pulled = grad[back:] if back == 0 else grad[back:] * (positions[back:] >= back)[:, None]
            grad_taps[back] = (pulled * x[: x.shape[0] - back]).sum(0)
        grad_bias = grad.sum(0) if ctx.has_bias else None
        return grad_x, grad_taps.flip(0).t(), grad_bias, None, None


def _shifted_sum(x: Tensor, taps_KN: Tensor, room_T: Tensor, direction: int) -> Tensor:
    """out_t = sum_k taps_k * x_{t + direction * k} over k <= room_t, the tokens left in that direction."""
    taps, T = taps_KN.shape[0], x.shape[0]
    out = x * taps_KN[0]
    for k in range(1, min(taps, T)):
        near, far = (out[k:], x[:-k]) if direction < 0 else (out[:-k], x[k:])
        near.addcmul_(far, taps_KN[k])
    rows_R = (room_T < taps - 1).nonzero().squeeze(-1)
    k_K = torch.arange(taps, device=x.device)
    inside_RK = (k_K <= room_T[rows_R, None]).to(x.dtype)
    window_RKN = x[(rows_R[:, None] + direction * k_K).clamp(0, T - 1)]
    out[rows_R] = (window_RKN * taps_KN * inside_RK[..., None]).sum(1)
    return out
