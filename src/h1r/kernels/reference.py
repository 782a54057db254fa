"""The operators as they are defined, one token at a time: to be read, and to test the others against. Slow.

Mamba-2: Dao & Gu, arXiv 2405.21060; the block around it: arXiv 2507.22448. Shapes as in `h1r.kernels`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from h1r.kernels.contract import Kernels
from h1r.kernels.layout import Layout


def conv_silu(xBC_TN: Tensor, weight_NK: Tensor, bias_N: Tensor | None, layout: Layout) -> Tensor:
    taps = weight_NK.shape[1]
    out = []
    for t, position in enumerate(layout.positions.tolist()):
        total_N = torch.zeros_like(xBC_TN[0]) if bias_N is None else bias_N
        for back in range(min(taps, position + 1)):
            total_N = total_N + weight_NK[:, taps - 1 - back] * xBC_TN[t - back]
        out.append(total_N * torch.sigmoid(total_N))
    return torch.stack(out)


def scan(
    x_THP: Tensor,
    dt_TH: Tensor,
    A_H: Tensor,
    B_TGS: Tensor,
    C_TGS: Tensor,
    D_H: Tensor,
    layout: Layout,
    chunk_size: int,
) -> Tensor:
    _, heads, width = x_THP.shape
    zero_HPS = x_THP.new_zeros(heads, width, B_TGS.shape[2])
    state_HPS, out = zero_HPS, []
    for t, position in enumerate(layout.positions.tolist()):
        state_HPS, y_HP = recurrence(
            state_HPS if position else zero_HPS, x_THP[t], dt_TH[t], A_H, B_TGS[t], C_TGS[t], D_H
        )
        out.append(y_HP)
    return torch.stack(out)


def recurrence(
    state: Tensor, x: Tensor, dt: Tensor, A_H: Tensor, B: Tensor, C: Tensor, D_H: Tensor
) -> tuple[Tensor, Tensor]:
    """One token: state [..., H, P, S], x [..., H, P], dt [..., H], B and C [..., G, S]. Returns the new state and y."""
    repeat = x.shape[-2] // B.shape[-2]
    B, C = B.repeat_interleave(repeat, -2), C.repeat_interleave(repeat, -2)
    decay = torch.exp(dt * A_H)[..., None, None]
    state = state * decay + (dt[..., None] * x)[..., :, None] * B[..., None, :]
    return state, (state * C[..., None, :]).sum(-1) + D_H[:, None] * x


def step(
    state_BHPS: Tensor, x_BHP: Tensor, dt_BH: Tensor, A_H: Tensor, B_BGS: Tensor, C_BGS: Tensor, D_H: Tensor
) -> Tensor:
    state, y = recurrence(state_BHPS, x_BHP, dt_BH, A_H, B_BGS, C_BGS, D_H)
    state_BHPS.copy_(state)
    return y


def gate(y: Tensor, z: Tensor, weight_M: Tensor | None, groups: int, eps: float, norm_before_gate: bool) -> Tensor:
    opened = z * torch.sigmoid(z)
    if weight_M is None:
        return y * opened
    value = y if norm_before_gate else y * opened
    grouped = value.unflatten(-1, (groups, -1))
    normed = (grouped / torch.sqrt(grouped.square().mean(-1, keepdim=True) + eps)).flatten(-2) * weight_M
    return normed * opened if norm_before_gate else normed


def attention(q_THE: Tensor, k_TJE: Tensor, v_TJE: Tensor, layout: Layout) -> Tensor:
    repeat = q_THE.shape[1] // k_TJE.shape[1]
    k_THE, v_THE = k_TJE.repeat_interleave(repeat, 1), v_TJE.repeat_interleave(repeat, 1)
    out = []
    for t, position in enumerate(layout.positions.tolist()):
        seen = slice(t - position, t + 1)
        scores_HL = torch.einsum("he,lhe->hl", q_THE[t], k_THE[seen]) * q_THE.shape[-1] ** -0.5
        out.append(torch.einsum("hl,lhe->he", scores_HL.softmax(-1), v_THE[seen]))
    return torch.stack(out)


def rms_norm(x: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    return x / torch.sqrt(x.square().mean(-1, keepdim=True) + eps) * weight_D


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    return up * gate * torch.sigmoid(gate)


def rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    turned = torch.view_as_complex(torch.stack([x[..., :half], x[..., half:]], -1))
    turned = turned * torch.complex(cos, sin)[..., None, :]
    return torch.cat([turned.real, turned.imag], -1)


def token_logprobs(logits_TV: Tensor, targets_T: Tensor) -> Tensor:
    return torch.stack([row.softmax(-1)[target].log() for row, target in zip(logits_TV, targets_T, strict=True)])


REFERENCE = Kernels(
    "reference", conv_silu=conv_silu, scan=scan, gate=gate, attention=attention, rms_norm=rms_norm, swiglu=swiglu,
    rotary=rotary, token_logprobs=token_logprobs, step=step,
)  # fmt: skip
