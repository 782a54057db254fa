"""Causal depthwise convolution and SiLU over documents laid end to end, in Triton.

    pre_t = bias + sum_{k <= min(K-1, position_t)} w_{K-1-k} x_{t-k}          y_t = pre_t sigmoid(pre_t)

One program per tile of tokens and channels. Forward reads x once and writes y once; backward reads x and dy, computes
pre again for the K - 1 tokens after the tile, and writes dx. Gradients of weight and bias are summed over tiles by a
second, ordered sum, so that two runs agree to the last bit. Sums in fp32.

Shapes: T flat tokens, N channels, K taps. Rows of x and dy may have any stride; channels are adjacent.
"""

# mypy: disable-error-code="import-not-found,import-untyped,no-untyped-def"
from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from h1r.kernels.layout import Layout
from h1r.kernels.triton.launch import grid, row_stride, rows_of

TOKENS, CHANNELS, TILES = 16, 128, 8  # of a tile; tiles of tokens that one backward program walks


def conv_silu(xBC_TN: Tensor, weight_NK: Tensor, bias_N: Tensor | None, layout: Layout) -> Tensor:
    return _ConvSilu.apply(xBC_TN, weight_NK, bias_N, layout.positions, layout.remaining)


class _ConvSilu(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, positions: Tensor, remaining: Tensor
    ) -> Tensor:
        x, taps_KN = rows_of(x), weight.t().contiguous()
        T, N = x.shape
        y = torch.empty(T, N, dtype=x.dtype, device=x.device)
        stride, align = row_stride(x)
        _forward[grid(triton.cdiv(T, TOKENS), triton.cdiv(N, CHANNELS))](
            x, taps_KN, bias, positions, y, T, N, stride,
            ALIGN=align, K=taps_KN.shape[0], BIAS=bias is not None, TOKENS=TOKENS, CHANNELS=CHANNELS, num_warps=4,
        )  # fmt: skip
        ctx.save_for_backward(x, taps_KN, bias, positions, remaining)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, taps_KN, bias, positions, remaining = ctx.saved_tensors
        grad_y = rows_of(grads[0])
        T, N = x.shape
        K = taps_KN.shape[0]
        grad_x = torch.empty(T, N, dtype=x.dtype, device=x.device)
        stride, align = row_stride(x)
        programs = triton.cdiv(T, TOKENS * TILES)
        partial = torch.empty(programs, K + 1, N, dtype=torch.float32, device=x.device)
        _backward[grid(programs, triton.cdiv(N, CHANNELS))](
            x, taps_KN, bias, positions, remaining, grad_y, grad_x, partial, T, N, stride, grad_y.stride(0),
            ALIGN=align, K=K, TAPS=triton.next_power_of_2(K), BIAS=bias is not None, TOKENS=TOKENS, CHANNELS=CHANNELS,
            TILES=TILES, num_warps=8,
        )  # fmt: skip
        sums = partial.sum(0)
        grad_bias = sums[K].to(bias.dtype) if bias is not None else None
        return grad_x, sums[:K].t().to(taps_KN.dtype), grad_bias, None, None


@triton.jit
def _load(base, token, channel, T, N, stride):
    """x at tokens that exist; tokens as 64-bit offsets, since T * stride may pass 2^31."""
    inside = (token >= 0) & (token < T)
    at = base + token.to(tl.int64)[:, None] * stride + channel[None, :]
    return tl.load(at, mask=inside[:, None] & (channel < N)[None, :], other=0.0).to(tl.float32)


@triton.jit
def _before_silu(
    x, taps, bias, channel, token, position, shift: tl.constexpr, T, N, stride, K: tl.constexpr, BIAS: tl.constexpr
):  # fmt: skip
    """pre at `token + shift`, whose position in its document is `position`."""
    total = tl.load(bias + channel, mask=channel < N, other=0.0).to(tl.float32)[None, :] if BIAS else 0.0
    for k in tl.static_range(K):
        weight = tl.load(taps + (K - 1 - k) * N + channel, mask=channel < N, other=0.0).to(tl.float32)
        value = _load(x, token + (shift - k), channel, T, N, stride)
        total += tl.where((position >= k)[:, None], value, 0.0) * weight[None, :]
    return total


@triton.jit(do_not_specialize=["T"])
def _forward(
    x, taps, bias, positions, y, T, N, stride, ALIGN: tl.constexpr, K: tl.constexpr, BIAS: tl.constexpr,
    TOKENS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    position = tl.load(positions + token, mask=token < T, other=0)
    pre = _before_silu(x, taps, bias, channel, token, position, 0, T, N, stride * ALIGN, K, BIAS)
    at = y + token.to(tl.int64)[:, None] * N + channel[None, :]
    tl.store(at, pre * tl.sigmoid(pre), mask=(token < T)[:, None] & (channel < N)[None, :])


@triton.jit(do_not_specialize=["T"])
def _backward(
    x, taps, bias, positions, remaining, grad_y, grad_x, partial, T, N, stride, grad_stride, ALIGN: tl.constexpr,
    K: tl.constexpr, TAPS: tl.constexpr, BIAS: tl.constexpr, TOKENS: tl.constexpr, CHANNELS: tl.constexpr,
    TILES: tl.constexpr,
):  # fmt: skip
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    tap = tl.arange(0, TAPS)
    stride = stride * ALIGN
    grad_bias = tl.zeros([CHANNELS], tl.float32)
    grad_taps = tl.zeros([TAPS, CHANNELS], tl.float32)
    for tile in range(TILES):
        token = (tl.program_id(0) * TILES + tile) * TOKENS + tl.arange(0, TOKENS)
        left = tl.load(remaining + token, mask=token < T, other=-1)
        position = tl.load(positions + token, mask=token < T, other=0)
        total = tl.zeros([TOKENS, CHANNELS], tl.float32)
        for k in tl.static_range(K):
            # The gradient before SiLU of token t + k, which saw x_t through tap K-1-k if both are in one document
            pre = _before_silu(x, taps, bias, channel, token, position + k, k, T, N, stride, K, BIAS)
            opened = tl.sigmoid(pre)
            pull = _load(grad_y, token + k, channel, T, N, grad_stride) * opened * (1 + pre * (1 - opened))
            pull = tl.where((left >= k)[:, None], pull, 0.0)
            weight = tl.load(taps + (K - 1 - k) * N + channel, mask=channel < N, other=0.0).to(tl.float32)
            total += pull * weight[None, :]
            seen = tl.sum(pull * _load(x, token, channel, T, N, stride), 0)
            grad_taps += tl.where((tap == K - 1 - k)[:, None], seen[None, :], 0.0)
            if k == 0:
                grad_bias += tl.sum(pull, 0)
        at = grad_x + token.to(tl.int64)[:, None] * N + channel[None, :]
        tl.store(at, total, mask=(token < T)[:, None] & (channel < N)[None, :])
    row = partial + tl.program_id(0).to(tl.int64) * (K + 1) * N
    tl.store(row + tap[:, None] * N + channel[None, :], grad_taps, mask=(tap < K)[:, None] & (channel < N)[None, :])
    tl.store(row + K * N + channel, grad_bias, mask=channel < N)
