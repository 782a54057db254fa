"""Attention in C: on tile units for documents of any length, on vector units for those of up to `LONGEST` tokens."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from h1r.kernels.cpu.build import library
from h1r.kernels.cpu.common import LONGEST, need_memory, ptr, strides
from h1r.kernels.cpu.products import tiles
from h1r.kernels.layout import Layout

SHORTEST = 256
"""Tokens of the longest document from which tile units gain: with fewer, what they pack and mask costs more."""


def takes(layout: Layout) -> bool:
    """Whether documents this long are for `attend`; torch's blocked attention is better on others."""
    return layout.longest <= LONGEST or _on_tiles(layout)


def _on_tiles(layout: Layout) -> bool:
    return layout.longest >= SHORTEST and tiles()[0]


def attend(q: Tensor, k: Tensor, v: Tensor, layout: Layout, H: int, J: int) -> tuple[Tensor, Tensor]:
    """(heads' outputs like q, log-sum-exp of the scores [T, H]) of dense q [T, H * E] and k, v [T, J * E]."""
    wide, narrow = q.numel() // len(q), k.numel() // len(k)
    out, lse = torch.empty_like(q), q.new_empty(len(q), H)
    kernel, sizes = _kernel("forward", layout)
    done = kernel(
        ptr(q), ptr(k), ptr(v), ptr(layout.cu_seqlens), strides(wide, narrow, wide), *sizes, H, J, wide // H,
        ptr(out), ptr(lse), torch.get_num_threads(),
    )  # fmt: skip
    need_memory(done)
    return out, lse


def attend_backward(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, grad: Tensor, layout: Layout
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of q, k and v; grad, that of `out`, is dense too."""
    H, wide, narrow = lse.shape[1], q.numel() // len(q), k.numel() // len(k)
    d_q, d_k, d_v = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
    kernel, sizes = _kernel("backward", layout)
    done = kernel(
        ptr(q), ptr(k), ptr(v), ptr(layout.cu_seqlens), strides(wide, narrow, wide, wide, wide, narrow), *sizes,
        H, narrow * H // wide, wide // H, ptr(out), ptr(lse), ptr(grad), ptr(d_q), ptr(d_k), ptr(d_v),
        torch.get_num_threads(),
    )  # fmt: skip
    need_memory(done)
    return d_q, d_k, d_v


def _kernel(direction: str, layout: Layout) -> tuple[Callable[..., int], tuple[int, ...]]:
    documents = len(layout.cu_seqlens) - 1
    if _on_tiles(layout):
        return getattr(library(), f"amx_attention_{direction}"), (documents,)
    return getattr(library(), f"attention_{direction}"), (documents, layout.longest)
