"""What the launches share: row views, grids and how exact a product of fp32 operands is."""

from __future__ import annotations

import torch
from torch import Tensor


def checked(x: Tensor) -> Tensor:
    """x, if the kernels take its type: they compute in fp32, which would round fp64 without a word."""
    if x.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        kind = str(x.dtype).removeprefix("torch.")
        raise TypeError(f"triton kernels take fp32, bf16 and fp16, not {kind}; use torch kernels")
    return x


def rows_of(x: Tensor) -> Tensor:
    """x [..., N] as rows [R, N] of adjacent elements: a view of slices of a wider matrix, a copy of what is not."""
    checked(x)
    rows = x if x.dim() == 2 else x.flatten(0, -2)
    return rows if rows.stride(-1) == 1 else rows.contiguous()


def row_stride(rows: Tensor) -> tuple[int, int]:
    """The distance between rows as (n, a), n * a elements with a the largest power of two up to 16.

    Triton reads 16 bytes at once where it can prove the alignment, and of a run-time integer it only sees whether 16
    divides it. in_proj's rows are a multiple of 8 elements apart: kernels multiply by the constant `a` to say so.
    """
    stride = rows.stride(0)
    align = min(stride & -stride, 16) if stride else 16
    return stride // align, align


def grid(first: int, second: int = 1) -> tuple[int, int]:
    """A launch grid; only the first axis may be long."""
    if second > 65535:
        raise ValueError(f"a grid's second axis holds 65535 programs, not {second}")
    return (first, second)


def precision(dtype: torch.dtype) -> str:
    """How Triton multiplies the operands of `tl.dot` that are fp32.

    fp16 is widened to tf32, which has its mantissa and fp32's exponent: states and score sums pass 65504. fp32 follows
    `torch.set_float32_matmul_precision`: exact at "highest", torch's default, and tf32 otherwise.
    """
    exact = dtype == torch.float32 and torch.get_float32_matmul_precision() == "highest"
    return "ieee" if exact else "tf32"
