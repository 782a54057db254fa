"""SiLU gates and RMSNorm in Triton, one pass over memory each way.

    product     out = a SiLU(b)                                          (swiglu, and the gate where there is no norm)
    norm        out = w x / rms(x)                                        rms_norm
    gate        out = w u / rms(u), u = y SiLU(z);  or  w (y / rms(y)) SiLU(z)   rms over the M / G channels of a group

rms(u) = sqrt(mean(u^2) + eps). Arithmetic in fp32, results in the type of the first input. The backward pass computes
the norms again. A weight's gradient is summed in parts by rows, then in order: two runs agree to the last bit.

Shapes: R rows, W channels of a group, G groups. Rows may have any stride (slices of a projection are not copied).
"""

# mypy: disable-error-code="import-not-found,import-untyped,no-untyped-def"
from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from h1r.kernels.triton.launch import grid, row_stride, rows_of

PARTS = 512  # of a weight's gradient: a constant, so that the order of the sum depends on the rows alone
PLAIN, GATE_FIRST, NORM_FIRST = 0, 1, 2


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    return _Product.apply(up, gate)


def gate(y: Tensor, z: Tensor, weight_M: Tensor | None, groups: int, eps: float, norm_before_gate: bool) -> Tensor:
    if weight_M is None:
        return _Product.apply(y, z)
    return _Norm.apply(y, z, weight_M, groups, eps, NORM_FIRST if norm_before_gate else GATE_FIRST)


def rms_norm(x: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    return _Norm.apply(x, None, weight_D, 1, eps, PLAIN)


class _Product(torch.autograd.Function):
    BLOCK = 1024

    @classmethod
    def _grid(cls, rows: Tensor) -> tuple[int, int]:
        return grid(rows.shape[0], triton.cdiv(rows.shape[1], cls.BLOCK))

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        rows_a, rows_b = rows_of(a), rows_of(b)
        out = torch.empty(a.shape, dtype=a.dtype, device=a.device)
        (a_stride, a_align), (b_stride, b_align) = row_stride(rows_a), row_stride(rows_b)
        _product[_Product._grid(rows_a)](
            rows_a, rows_b, out, a_stride, b_stride, rows_a.shape[1],
            A_ALIGN=a_align, B_ALIGN=b_align, BLOCK=_Product.BLOCK,
        )  # fmt: skip
        ctx.save_for_backward(a, b)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        a, b = ctx.saved_tensors
        rows_a, rows_b, pull = rows_of(a), rows_of(b), rows_of(grads[0])
        grad_a, grad_b = (torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in (a, b))
        (a_stride, a_align), (b_stride, b_align) = row_stride(rows_a), row_stride(rows_b)
        _product_grads[_Product._grid(rows_a)](
            rows_a, rows_b, pull, grad_a, grad_b, a_stride, b_stride, pull.stride(0), rows_a.shape[1],
            A_ALIGN=a_align, B_ALIGN=b_align, BLOCK=_Product.BLOCK,
        )  # fmt: skip
        return grad_a, grad_b


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, z: Tensor | None, weight: Tensor, groups: int, eps: float, order: int) -> Tensor:
        rows, gates = rows_of(x), None if z is None else rows_of(z)
        z_stride, z_align = (0, 1) if gates is None else row_stride(gates)
        width = rows.shape[1] // groups
        out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        _norm[grid(rows.shape[0], groups)](
            rows, gates, weight, out, rows.stride(0), z_stride, groups, eps,
            Z_ALIGN=z_align, W=width, BLOCK=triton.next_power_of_2(width), ORDER=order, num_warps=_warps(width),
        )  # fmt: skip
        ctx.save_for_backward(x, z, weight)
        ctx.shape = (groups, eps, order)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, z, weight = ctx.saved_tensors
        groups, eps, order = ctx.shape
        rows, gates, pull = rows_of(x), None if z is None else rows_of(z), rows_of(grads[0])
        z_stride, z_align = (0, 1) if gates is None else row_stride(gates)
        count, width = rows.shape[0], rows.shape[1] // groups
        each = triton.cdiv(count, PARTS)
        parts = triton.cdiv(count, each)
        grad_x = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        grad_z = None if z is None else torch.empty(z.shape, dtype=z.dtype, device=z.device)
        partial = torch.empty(parts, weight.shape[0], dtype=torch.float32, device=x.device)
        _norm_grads[grid(parts, groups)](
            rows, gates, weight, pull, grad_x, grad_z, partial, count, each, rows.stride(0), z_stride, pull.stride(0),
            groups, eps,
            Z_ALIGN=z_align, W=width, BLOCK=triton.next_power_of_2(width), ORDER=order, num_warps=_warps(width),
        )  # fmt: skip
        return grad_x, grad_z, partial.sum(0).to(weight.dtype), None, None, None


def _warps(width: int) -> int:
    return min(max(triton.next_power_of_2(width) // 256, 1), 16)


@triton.jit
def _product(
    a, b, out, a_stride, b_stride, W, A_ALIGN: tl.constexpr, B_ALIGN: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    row, i = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    first = tl.load(a + row * a_stride * A_ALIGN + i, mask=i < W, other=0.0).to(tl.float32)
    second = tl.load(b + row * b_stride * B_ALIGN + i, mask=i < W, other=0.0).to(tl.float32)
    tl.store(out + row * W + i, first * second * tl.sigmoid(second), mask=i < W)


@triton.jit
def _product_grads(
    a, b, pull, grad_a, grad_b, a_stride, b_stride, pull_stride, W, A_ALIGN: tl.constexpr, B_ALIGN: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    row, i = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    first = tl.load(a + row * a_stride * A_ALIGN + i, mask=i < W, other=0.0).to(tl.float32)
    second = tl.load(b + row * b_stride * B_ALIGN + i, mask=i < W, other=0.0).to(tl.float32)
    grad = tl.load(pull + row * pull_stride + i, mask=i < W, other=0.0).to(tl.float32)
    opened = tl.sigmoid(second)
    tl.store(grad_a + row * W + i, grad * second * opened, mask=i < W)
    tl.store(grad_b + row * W + i, grad * first * opened * (1 + second * (1 - opened)), mask=i < W)


@triton.jit
def _norm(
    x, z, weight, out, x_stride, z_stride, groups, eps, Z_ALIGN: tl.constexpr, W: tl.constexpr, BLOCK: tl.constexpr,
    ORDER: tl.constexpr,
):  # fmt: skip
    row, i = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    at = tl.program_id(1) * W + i
    value = tl.load(x + row * x_stride + at, mask=i < W, other=0.0).to(tl.float32)
    if ORDER != 0:
        shut = tl.load(z + row * z_stride * Z_ALIGN + at, mask=i < W, other=0.0).to(tl.float32)
        opened = shut * tl.sigmoid(shut)
    if ORDER == 1:
        value *= opened
    value *= tl.rsqrt(tl.sum(value * value, 0) / W + eps)
    value *= tl.load(weight + at, mask=i < W, other=0.0).to(tl.float32)
    if ORDER == 2:
        value *= opened
    tl.store(out + row * W * groups + at, value, mask=i < W)


@triton.jit(do_not_specialize=["rows", "each"])
def _norm_grads(
    x, z, weight, pull, grad_x, grad_z, partial, rows, each, x_stride, z_stride, pull_stride, groups, eps,
    Z_ALIGN: tl.constexpr, W: tl.constexpr, BLOCK: tl.constexpr, ORDER: tl.constexpr,
):  # fmt: skip
    part, i = tl.program_id(0), tl.arange(0, BLOCK)
    at = tl.program_id(1) * W + i
    scale = tl.load(weight + at, mask=i < W, other=0.0).to(tl.float32)
    grad_weight = tl.zeros([BLOCK], tl.float32)
    for turn in range(each):
        row = tl.cast(part, tl.int64) * each + turn
        inside = (i < W) & (row < rows)
        value = tl.load(x + row * x_stride + at, mask=inside, other=0.0).to(tl.float32)
        grad = tl.load(pull + row * pull_stride + at, mask=inside, other=0.0).to(tl.float32)
        normed = value
        if ORDER != 0:
            shut = tl.load(z + row * z_stride * Z_ALIGN + at, mask=inside, other=0.0).to(tl.float32)
            sigmoid = tl.sigmoid(shut)
            opened = shut * sigmoid
            slope = sigmoid * (1 + shut * (1 - sigmoid))
        if ORDER == 1:
            normed = value * opened
        scaling = tl.rsqrt(tl.sum(normed * normed, 0) / W + eps)
        normed *= scaling
        out = row * W * groups + at
        if ORDER == 2:
            tl.store(grad_z + out, grad * normed * scale * slope, mask=inside)
            grad *= opened
        grad_weight += grad * normed
        grad *= scale
        # Through x / rms(x): what lies along the normed row does not change it
        grad = scaling * (grad - normed * (tl.sum(grad * normed, 0) / W))
        if ORDER == 1:
            tl.store(grad_z + out, grad * value * slope, mask=inside)
            grad *= opened
        tl.store(grad_x + out, grad, mask=inside)
    tl.store(partial + part.to(tl.int64) * W * groups + at, grad_weight, mask=i < W)
