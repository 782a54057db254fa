"""Attention in C: on tile units for documents of any length, on vector units where there is a task for each thread."""

from __future__ import annotations

import torch
from torch import Tensor

from h1r.kernels.cpu.build import library
from h1r.kernels.cpu.common import need_memory, ptr, strides
from h1r.kernels.cpu.products import tiles
from h1r.kernels.layout import Layout

SHORTEST = 256
"""Tokens of the longest document from which tile units gain: with fewer, what they pack and mask costs more."""

LONG = 2048
"""Tokens of a document from which threads without a task are worth more than what vector units gain."""


def takes(layout: Layout, H: int) -> bool:
    """Whether documents this long, with H query heads, are for `attend`. Torch's attention has a task for each block of
    queries, ours on vector units one for each head of a document at most."""
    documents = len(layout.cu_seqlens) - 1
    return layout.longest <= LONG or _on_tiles(layout) or documents * H >= torch.get_num_threads()


def _on_tiles(layout: Layout) -> bool:
    return layout.longest >= SHORTEST and tiles()[0]


def _parts(layout: Layout, H: int, J: int) -> int:
    """Parts of the query heads of a key head: as many as give each thread two tasks."""
    documents, threads = len(layout.cu_seqlens) - 1, torch.get_num_threads()
    return min(H // J, -(-2 * threads // (documents * J))) if threads > 1 else 1


def attend(q: Tensor, k: Tensor, v: Tensor, layout: Layout, H: int, J: int) -> tuple[Tensor, Tensor]:
    """(heads' outputs like q, log-sum-exp of the scores [T, H]) of dense q [T, H * E] and k, v [T, J * E]."""
    wide, narrow = q.numel() // len(q), k.numel() // len(k)
    out, lse = torch.empty_like(q), q.new_empty(len(q), H)
    inputs = (ptr(q), ptr(k), ptr(v), ptr(layout.cu_seqlens), strides(wide, narrow, wide), len(layout.cu_seqlens) - 1)
    results = (ptr(out), ptr(lse), torch.get_num_threads())
    sizes = (H, J, wide // H)
    if _on_tiles(layout):
        need_memory(library().amx_attention_forward(*inputs, *sizes, *results))
    else:
        need_memory(library().attention_forward(*inputs, layout.longest, *sizes, _parts(layout, H, J), *results))
    return out, lse


def attend_backward(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, grad: Tensor, layout: Layout
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of q, k and v; grad, that of `out`, is dense too."""
    H, wide, narrow = lse.shape[1], q.numel() // len(q), k.numel() // len(k)
    J, threads, d_q = narrow * H // wide, torch.get_num_threads(), torch.empty_like(q)
    rows = strides(wide, narrow, wide, wide, wide, narrow)
    inputs = (ptr(q), ptr(k), ptr(v), ptr(layout.cu_seqlens), rows, len(layout.cu_seqlens) - 1)
    saved, sizes = (ptr(out), ptr(lse), ptr(grad), ptr(d_q)), (H, J, wide // H)
    if _on_tiles(layout):
        d_k, d_v = torch.empty_like(k), torch.empty_like(v)
        need_memory(library().amx_attention_backward(*inputs, *sizes, *saved, ptr(d_k), ptr(d_v), threads))
        return d_q, d_k, d_v
    parts = _parts(layout, H, J)
    d_k, d_v = k.new_empty(2, parts, *k.shape)
    need_memory(
        library().attention_backward(*inputs, layout.longest, *sizes, parts, *saved, ptr(d_k), ptr(d_v), threads)
    )
    return (d_q, d_k[0], d_v[0]) if parts == 1 else (d_q, d_k.sum(0), d_v.sum(0))
