"""Matrix products: on the tile units of the processor where it has them, by torch elsewhere.

Tiles (AMX, in Intel servers since 2023) multiply bf16. An fp32 number is exactly the sum of three bf16 numbers, and six
products of such parts, summed in fp32, are as exact as fp32 arithmetic and faster: see `amx.h`.
`H1R_TILES=0` in the environment leaves them alone.
"""

from __future__ import annotations

import functools
import os
from typing import Any

import torch
from torch import Tensor

from h1r.kernels.cpu.build import library
from h1r.kernels.cpu.common import check, need_memory, ptr
from h1r.kernels.cpu.toolchain import processor

SMALLEST = 1 << 20
"""Multiply-adds below which a call costs more than tiles save."""


@functools.cache
def tiles() -> tuple[bool, str]:
    """Whether products run on tiles, and what to tell the user about it."""
    if os.environ.get("H1R_TILES") == "0":
        return False, "products by torch, as H1R_TILES=0 asks"
    ready = library().amx_ready()
    if ready > 0:
        return True, "products on AMX tiles, each number in three bf16 parts"
    if ready:
        return False, "products by torch, since Linux refused AMX"
    compiled_without = "amx_bf16" in processor().split()
    return (
        False,
        f"products by torch, since {'these kernels have' if compiled_without else 'this processor has'} no AMX",
    )


def product(a_MK: Tensor, b_KN: Tensor, out: Tensor | None = None, plus: Tensor | None = None) -> Tensor:
    """plus + a b [M, N], fp32, in `out` or a new matrix. `plus` and `out` are dense, and may be the same."""
    M, K = a_MK.shape
    N = b_KN.shape[1]
    if out is None:
        out = a_MK.new_empty(M, N)
    if M * N * K < SMALLEST or not tiles()[0]:
        return torch.mm(a_MK, b_KN, out=out) if plus is None else torch.addmm(plus, a_MK, b_KN, out=out)
    a, b = _readable(a_MK), _readable(b_KN)
    done = library().amx_gemm(
        M, N, K, ptr(a), *a.stride(), ptr(b), *b.stride(), ptr(plus), ptr(out), N, torch.get_num_threads()
    )
    need_memory(done)
    return out


def _readable(x: Tensor) -> Tensor:
    """x, or a copy of it with one dense dimension."""
    return x if 1 in x.stride() else x.contiguous()


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight.t())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        of_x, of_weight = ctx.needs_input_grad
        return (
            product(grads[0], weight) if of_x else None,
            product(grads[0].t(), x) if of_weight else None,
        )


def linear(x: Tensor, weight_ND: Tensor) -> Tensor:
    """x [..., D] weight^T -> [..., N], differentiable in both."""
    check(x, weight_ND)
    return _Linear.apply(x.flatten(0, -2), weight_ND).unflatten(0, x.shape[:-1])
