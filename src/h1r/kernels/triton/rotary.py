"""Rotary embedding in Triton: (a, b) -> (a cos - b sin, b cos + a sin) for the halves a, b of each head.

The gradient turns the other way, so forward and backward are one kernel. Arithmetic in fp32.
Shapes: T tokens, H heads, E head width.
"""

# mypy: disable-error-code="import-not-found,import-untyped,no-untyped-def"
from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from h1r.kernels.triton.launch import checked, grid


def rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return _Rotary.apply(x, cos, sin)


class _Rotary(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turned(x, cos, sin, False)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        return _turned(grads[0], cos, sin, True), None, None


def _turned(x: Tensor, cos: Tensor, sin: Tensor, back: bool) -> Tensor:
    heads, E = x.shape[-2:]
    x_THE = checked(x).flatten(0, -3) if x.dim() > 3 else checked(x)
    x_THE = x_THE if x_THE.stride(2) == 1 else x_THE.contiguous()
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    _turn[grid(x_THE.shape[0])](
        x_THE, cos.contiguous(), sin.contiguous(), out, x_THE.stride(0), x_THE.stride(1),
        H=heads, HALF=E // 2, HEADS=triton.next_power_of_2(heads), BLOCK=triton.next_power_of_2(E // 2), BACK=back,
    )  # fmt: skip
    return out


@triton.jit
def _turn(
    x, cos, sin, out, x_t, x_h, H: tl.constexpr, HALF: tl.constexpr, HEADS: tl.constexpr, BLOCK: tl.constexpr,
    BACK: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    h, e = tl.arange(0, HEADS)[:, None], tl.arange(0, BLOCK)[None, :]
    inside = (h < H) & (e < HALF)
    c = tl.load(cos + token * HALF + e, mask=e < HALF, other=0.0).to(tl.float32)
    s = tl.load(sin + token * HALF + e, mask=e < HALF, other=0.0).to(tl.float32)
    if BACK:
        s = -s
    a = tl.load(x + token * x_t + h * x_h + e, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(x + token * x_t + h * x_h + HALF + e, mask=inside, other=0.0).to(tl.float32)
    at = out + (token * H + h) * 2 * HALF + e
    tl.store(at, a * c - b * s, mask=inside)
    tl.store(at + HALF, b * c + a * s, mask=inside)
