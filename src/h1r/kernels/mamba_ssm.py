"""The kernels of mamba-ssm and causal-conv1d behind our contract, to measure ours against on one card.

Documents go to them as `seq_idx`. Their sums of the gradients of A, B, C and D use atomics or autotuned tiles, so two
runs may differ in the last bits. Attention is torch's variable-length one and what they do not have is plain PyTorch.
Interfaces: mamba-ssm 2.2 and causal-conv1d 1.4 or newer. Shapes as in `h1r.kernels`.
"""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor

from h1r.kernels.contract import Kernels
from h1r.kernels.layout import Layout
from h1r.kernels.torch.operators import gate as portable_gate
from h1r.kernels.torch.operators import rms_norm, rotary, swiglu, token_logprobs


def obstacle(device_type: str) -> str | None:
    """Why these kernels cannot run on such a device; None when they can."""
    if device_type != "cuda":
        return f"they run on CUDA, not on {device_type}"
    missing = [name for name in ("mamba_ssm", "causal_conv1d", "triton") if importlib.util.find_spec(name) is None]
    if missing:
        return f"{', '.join(missing)} cannot be imported; pip install mamba-ssm causal-conv1d"
    return None


def conv_silu(xBC_TN: Tensor, weight_NK: Tensor, bias_N: Tensor | None, layout: Layout) -> Tensor:
    from causal_conv1d import causal_conv1d_fn  # type: ignore[import-not-found,unused-ignore]

    channels_last_1NT = xBC_TN[None].transpose(1, 2)
    y_1NT = causal_conv1d_fn(channels_last_1NT, weight_NK, bias_N, seq_idx=_documents(layout), activation="silu")
    return y_1NT[0].t()  # type: ignore[no-any-return,unused-ignore]


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
    from mamba_ssm.ops.triton.ssd_combined import (  # type: ignore[import-not-found,unused-ignore]
        mamba_chunk_scan_combined,
    )

    y_1THP = mamba_chunk_scan_combined(
        x_THP[None], dt_TH[None], A_H, B_TGS[None], C_TGS[None], chunk_size, D=D_H, seq_idx=_documents(layout)
    )
    return y_1THP[0]  # type: ignore[no-any-return,unused-ignore]


def gate(y: Tensor, z: Tensor, weight_M: Tensor | None, groups: int, eps: float, norm_before_gate: bool) -> Tensor:
    if weight_M is None:
        return portable_gate(y, z, weight_M, groups, eps, norm_before_gate)
    from mamba_ssm.ops.triton.layernorm_gated import rmsnorm_fn  # type: ignore[import-not-found,unused-ignore]

    width = weight_M.shape[0] // groups
    return rmsnorm_fn(  # type: ignore[no-any-return,unused-ignore]
        y, weight_M, None, z=z, eps=eps, group_size=width, norm_before_gate=norm_before_gate
    )


def attention(q_THE: Tensor, k_TJE: Tensor, v_TJE: Tensor, layout: Layout) -> Tensor:
    from h1r.kernels.triton.attention import attention as varlen

    return varlen(q_THE, k_TJE, v_TJE, layout)


def step(
    state_BHPS: Tensor, x_BHP: Tensor, dt_BH: Tensor, A_H: Tensor, B_BGS: Tensor, C_BGS: Tensor, D_H: Tensor
) -> Tensor:
    from mamba_ssm.ops.triton.selective_state_update import (  # type: ignore[import-not-found,unused-ignore]
        selective_state_update,
    )

    _, heads, width, columns = state_BHPS.shape
    A_HPS = A_H[:, None, None].expand(heads, width, columns)
    D_HP, dt_BHP = D_H[:, None].expand(heads, width), dt_BH[..., None].expand_as(x_BHP)
    return selective_state_update(state_BHPS, x_BHP, dt_BHP, A_HPS, B_BGS, C_BGS, D=D_HP)  # type: ignore[no-any-return,unused-ignore]


def _documents(layout: Layout) -> Tensor:
    """Document number of each token [1, T] in the 32 bits that they want."""
    return layout.seq_idx.to(torch.int32)[None]


MAMBA_SSM = Kernels(
    "mamba-ssm", conv_silu=conv_silu, scan=scan, gate=gate, attention=attention, rms_norm=rms_norm, swiglu=swiglu,
    rotary=rotary, token_logprobs=token_logprobs, step=step,
)  # fmt: skip
