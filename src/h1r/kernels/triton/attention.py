"""Variable-length causal attention on CUDA, by name and never through a square mask.

bf16 and fp16 go to a FlashAttention kernel that takes borders as cumulative lengths: torch's own (`varlen_attn`, torch
2.10 and newer), or flash-attn where torch is older. fp32, which no FlashAttention kernel takes, runs the layout's
rectangles through PyTorch's memory-efficient kernel; it is there for comparison, not for speed.

Shapes: T flat tokens, H query heads, J key heads, E head width.
"""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from h1r.errors import UserError
from h1r.kernels.layout import Layout
from h1r.kernels.triton.chunks import chunks_of

Varlen = Callable[[Tensor, Tensor, Tensor, Tensor, int], Tensor]


def obstacle() -> str | None:
    """Why half-precision attention cannot run here; None when it can."""
    if importlib.util.find_spec("torch.nn.attention.varlen") or importlib.util.find_spec("flash_attn"):
        return None
    return "variable-length attention needs torch 2.10 or flash-attn"


def attention(q_THE: Tensor, k_TJE: Tensor, v_TJE: Tensor, layout: Layout) -> Tensor:
    if q_THE.dtype == torch.float32:
        return _by_rectangles(q_THE, k_TJE, v_TJE, layout)
    # The chunk table holds cu_seqlens in the 32 bits that these kernels want; every layer shares one.
    cu_seqlens = chunks_of(layout, 128).cu_seqlens
    return _varlen()(q_THE, k_TJE, v_TJE, cu_seqlens, layout.longest)


@lru_cache(maxsize=1)
def _varlen() -> Varlen:
    if why := obstacle():
        raise UserError(f"model.kernels = 'triton' cannot be used: {why}; install one, or choose torch")
    if importlib.util.find_spec("torch.nn.attention.varlen"):
        from torch.nn.attention.varlen import varlen_attn

        # torch 2.10 said is_causal and let the kernel broadcast key heads; later ones say window_size and enable_gqa.
        known = inspect.signature(varlen_attn).parameters
        said: dict[str, Any] = {"is_causal": True} if "is_causal" in known else {"window_size": (-1, 0)}
        grouped = "enable_gqa" in known

        def of_torch(q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, longest: int) -> Tensor:
            extra: dict[str, Any] = {"enable_gqa": True} if grouped and q.shape[1] != k.shape[1] else {}
            return varlen_attn(q, k, v, cu_seqlens, cu_seqlens, longest, longest, **said, **extra)  # type: ignore[return-value]

        return of_torch
    from flash_attn import flash_attn_varlen_func  # type: ignore[import-not-found,unused-ignore]

    def of_flash_attn(q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, longest: int) -> Tensor:
        return flash_attn_varlen_func(q, k, v, cu_seqlens, cu_seqlens, longest, longest, causal=True)  # type: ignore[no-any-return,unused-ignore]

    return of_flash_attn


def _by_rectangles(q_THE: Tensor, k_TJE: Tensor, v_TJE: Tensor, layout: Layout) -> Tensor:
    repeat = q_THE.shape[1] // k_TJE.shape[1]
    k_THE, v_THE = k_TJE.repeat_interleave(repeat, 1), v_TJE.repeat_interleave(repeat, 1)
    if layout.rectangle is not None:
        shape = layout.rectangle
        return _rectangle(*(t.unflatten(0, shape) for t in (q_THE, k_THE, v_THE))).flatten(0, 1)
    parts = [
        _rectangle(q_THE[b.gather], k_THE[b.gather], v_THE[b.gather]).flatten(0, 1)[b.source] for b in layout.buckets
    ]
    where = torch.cat([b.scatter for b in layout.buckets])
    return torch.empty_like(q_THE).index_copy(0, where, torch.cat(parts))


def _rectangle(q_BTHE: Tensor, k_BTHE: Tensor, v_BTHE: Tensor) -> Tensor:
    q, k, v = (t.transpose(1, 2) for t in (q_BTHE, k_BTHE, v_BTHE))
    with sdpa_kernel(SDPBackend.EFFICIENT_ATTENTION):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)
