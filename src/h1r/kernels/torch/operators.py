"""The operators in plain PyTorch, for every device and float type. Shapes as in `h1r.kernels`.

The chunked scan lies in `ssd.py`, the shifted convolution in `conv.py`. Sums that half precision would spoil are taken
in fp32.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from h1r.kernels.contract import Kernels
from h1r.kernels.layout import Layout
from h1r.kernels.torch.conv import causal_conv
from h1r.kernels.torch.ssd import ssd_scan, ssd_step


def at_least_fp32(x: Tensor) -> Tensor:
    """Half precisions widen to fp32; fp32 and fp64 stay."""
    return x.float() if x.dtype.itemsize < 4 else x


def conv_silu(xBC_TN: Tensor, weight_NK: Tensor, bias_N: Tensor | None, layout: Layout) -> Tensor:
    return F.silu(causal_conv(xBC_TN, weight_NK, bias_N, layout))


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
    x, B, C = (at_least_fp32(t) for t in (x_THP, B_TGS, C_TGS))
    y = ssd_scan(x, dt_TH, A_H, B, C, layout.seq_idx, chunk_size)
    return add_skip(y, x_THP, D_H)


def step(
    state_BHPS: Tensor, x_BHP: Tensor, dt_BH: Tensor, A_H: Tensor, B_BGS: Tensor, C_BGS: Tensor, D_H: Tensor
) -> Tensor:
    y = ssd_step(
        state_BHPS, x_BHP.to(state_BHPS.dtype), dt_BH, A_H, B_BGS.to(state_BHPS.dtype), C_BGS.to(state_BHPS.dtype)
    )
    return add_skip(y, x_BHP, D_H)


def add_skip(y: Tensor, x: Tensor, D_H: Tensor) -> Tensor:
    """y + D x in x's type."""
    return torch.addcmul(y.to(x.dtype), x, D_H[:, None].to(x.dtype))


def gate(y: Tensor, z: Tensor, weight_M: Tensor | None, groups: int, eps: float, norm_before_gate: bool) -> Tensor:
    if weight_M is None:
        return y * F.silu(z)
    opened = F.silu(at_least_fp32(z))
    value = at_least_fp32(y) if norm_before_gate else at_least_fp32(y) * opened
    grouped = value.unflatten(-1, (groups, -1))
    grouped = grouped * torch.rsqrt(grouped.square().mean(-1, keepdim=True) + eps)
    value = grouped.flatten(-2) * weight_M
    return (value * opened if norm_before_gate else value).to(y.dtype)


def attention(q_THE: Tensor, k_TJE: Tensor, v_TJE: Tensor, layout: Layout) -> Tensor:
    if layout.rectangle is not None:
        shape = layout.rectangle
        return _causal(*(t.unflatten(0, shape) for t in (q_THE, k_TJE, v_TJE))).flatten(0, 1)
    parts = [_causal(q_THE[b.gather], k_TJE[b.gather], v_TJE[b.gather]).flatten(0, 1)[b.source] for b in layout.buckets]
    where = torch.cat([b.scatter for b in layout.buckets])
    return torch.empty_like(q_THE).index_copy(0, where, torch.cat(parts))


def _causal(q_BTHE: Tensor, k_BTJE: Tensor, v_BTJE: Tensor) -> Tensor:
    q, k, v = (t.transpose(1, 2) for t in (q_BTHE, k_BTJE, v_BTJE))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).transpose(1, 2)


def rms_norm(x: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    return F.rms_norm(x, weight_D.shape, weight_D, eps)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    return up * F.silu(gate)


def rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    cos, sin = cos[..., None, :], sin[..., None, :]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)


def token_logprobs(logits_TV: Tensor, targets_T: Tensor) -> Tensor:
    return at_least_fp32(logits_TV).log_softmax(-1).gather(-1, targets_T[:, None]).squeeze(-1)


TORCH = Kernels(
    "torch", conv_silu=conv_silu, scan=scan, gate=gate, attention=attention, rms_norm=rms_norm, swiglu=swiglu,
    rotary=rotary, token_logprobs=token_logprobs, step=step,
)  # fmt: skip
