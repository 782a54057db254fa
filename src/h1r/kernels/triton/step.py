"""One token of the state-space recurrence for each of B sequences, in Triton; the state changes in place.

    state = exp(dt A) state + dt x B^T;   y = state C + D x

A decode step reads and writes each state once, and that is its cost. Sums in fp32; the state keeps its own type.
Shapes: B sequences, H heads, P head width, G groups, S state width.
"""

# mypy: disable-error-code="import-not-found,import-untyped,no-untyped-def"
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from h1r.kernels.triton.launch import grid

CHANNELS = 8  # of a head in one program: with S = 256 that is 16 bytes a thread and load


def step(
    state_BHPS: Tensor, x_BHP: Tensor, dt_BH: Tensor, A_H: Tensor, B_BGS: Tensor, C_BGS: Tensor, D_H: Tensor
) -> Tensor:
    rows, H, P, S = state_BHPS.shape
    if state_BHPS.stride()[1:] != (P * S, S, 1):
        raise ValueError("step updates the state in place, so heads, channels and columns of a row must be contiguous")
    x, B, C = (t if t.stride(2) == 1 else t.contiguous() for t in (x_BHP, B_BGS, C_BGS))
    y = torch.empty(rows, H, P, dtype=x.dtype, device=x.device)
    _step[grid(rows * H, triton.cdiv(P, CHANNELS))](
        state_BHPS, x, dt_BH, A_H, B, C, D_H, y, state_BHPS.stride(0), *x.stride()[:2], *dt_BH.stride(),
        *B.stride()[:2], *C.stride()[:2], H,
        R=H // B.shape[1], P=P, S=S, BP=CHANNELS, BS=triton.next_power_of_2(S), num_warps=4,
    )  # fmt: skip
    return y


@triton.jit
def _step(
    state, x, dt, A, B, C, D, y, state_b, x_b, x_h, dt_b, dt_h, B_b, B_g, C_b, C_g, H,
    R: tl.constexpr, P: tl.constexpr, S: tl.constexpr, BP: tl.constexpr, BS: tl.constexpr,
):  # fmt: skip
    row, h = (tl.program_id(0) // H).to(tl.int64), tl.program_id(0) % H
    p, s = tl.program_id(1) * BP + tl.arange(0, BP), tl.arange(0, BS)
    inside = (p < P)[:, None] & (s < S)[None, :]
    at = state + row * state_b + h * P * S + p[:, None] * S + s[None, :]
    dt_here = tl.load(dt + row * dt_b + h * dt_h).to(tl.float32)
    x_here = tl.load(x + row * x_b + h * x_h + p, mask=p < P, other=0.0).to(tl.float32)
    b = tl.load(B + row * B_b + h // R * B_g + s, mask=s < S, other=0.0).to(tl.float32)
    c = tl.load(C + row * C_b + h // R * C_g + s, mask=s < S, other=0.0).to(tl.float32)
    value = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    value = value * tl.exp(dt_here * tl.load(A + h).to(tl.float32)) + (dt_here * x_here)[:, None] * b[None, :]
    tl.store(at, value, mask=inside)
    out = tl.sum(value * c[None, :], 1) + tl.load(D + h).to(tl.float32) * x_here
    tl.store(y + (row * H + h) * P + p, out, mask=p < P)
