"""The operators in C for fp32 on a CPU: one pass over memory each, forward and backward. Shapes as in `kernels`.

`*.c` hold the arithmetic, `build.py` compiles and loads them, this file hands them tensors. Threads are torch's own
(`torch.set_num_threads`). A tensor of another type or device raises `TypeError`: nothing is converted in silence.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from h1r.kernels.contract import Kernels
from h1r.kernels.cpu.build import library, obstacle, origin
from h1r.kernels.cpu.common import check, need_memory, ptr, scan_tasks
from h1r.kernels.cpu.fused_layer import layer
from h1r.kernels.cpu.head_attention import attend, attend_backward, takes
from h1r.kernels.cpu.products import linear, tiles
from h1r.kernels.layout import Layout
from h1r.kernels.torch import operators as portable

__all__ = ["NATIVE", "obstacle", "origin", "tiles"]


def _rows(x: Tensor) -> Tensor:
    """x with its last dimension dense and equal strides between rows: a slice of columns stays a view."""
    return x if x.dim() == 2 and x.stride(1) == 1 else x.contiguous()


class _Swiglu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        gate, up = gate.contiguous(), up.contiguous()
        ctx.save_for_backward(gate, up)
        out = torch.empty_like(gate)
        width = gate.shape[-1]
        library().swiglu_forward(
            ptr(gate), ptr(up), width, ptr(out), gate.numel() // width, width, torch.get_num_threads()
        )
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        grad = grads[0].contiguous()
        grad_gate, grad_up = torch.empty_like(gate), torch.empty_like(up)
        width = gate.shape[-1]
        library().swiglu_backward(
            ptr(gate), ptr(up), width, ptr(grad), ptr(grad_gate), ptr(grad_up), gate.numel() // width, width,
            torch.get_num_threads(),
        )  # fmt: skip
        return grad_gate, grad_up


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        x, weight = x.contiguous(), weight.contiguous()
        ctx.save_for_backward(x, weight)
        ctx.eps = eps
        out = torch.empty_like(x)
        width = x.shape[-1]
        library().rms_norm_forward(
            ptr(x), ptr(weight), ptr(out), x.numel() // width, width, eps, torch.get_num_threads()
        )
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight = ctx.saved_tensors
        grad = grads[0].contiguous()
        threads, width = torch.get_num_threads(), x.shape[-1]
        grad_x, partial = torch.empty_like(x), x.new_zeros(threads, width)
        library().rms_norm_backward(
            ptr(x), ptr(weight), ptr(grad), None, ptr(grad_x), ptr(partial), x.numel() // width, width, ctx.eps,
            threads,
        )  # fmt: skip
        return grad_x, partial.sum(0), None


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, z: Tensor, weight: Tensor | None, groups: int, eps: float, norm: int) -> Tensor:
        y, z = y.contiguous(), _rows(z)
        ctx.save_for_backward(y, z, weight)
        ctx.settings = (groups, y.shape[1] // groups, eps, norm)
        out = torch.empty_like(y)
        library().gate_forward(
            ptr(y), ptr(z), z.stride(0), ptr(weight), ptr(out), y.shape[1], y.shape[0], *ctx.settings,
            torch.get_num_threads(),
        )  # fmt: skip
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        y, z, weight = ctx.saved_tensors
        grad, threads = grads[0].contiguous(), torch.get_num_threads()
        grad_y, grad_z = torch.empty_like(y), torch.empty_like(y)
        partial = None if weight is None else y.new_zeros(threads, y.shape[1])
        library().gate_backward(
            ptr(y), ptr(z), z.stride(0), ptr(weight), ptr(grad), y.shape[1], ptr(grad_y), ptr(grad_z), y.shape[1],
            ptr(partial), y.shape[0], *ctx.settings, threads,
        )  # fmt: skip
        return grad_y, grad_z, None if partial is None else partial.sum(0), None, None, None


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_THE: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turn(x_THE, cos, sin, 1.0)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _turn(grads[0], cos, sin, -1.0), None, None


def _turn(x_THE: Tensor, cos: Tensor, sin: Tensor, sign: float) -> Tensor:
    T, heads, width = x_THE.shape
    flat = _rows(x_THE.flatten(1))
    out = x_THE.new_empty(T, heads, width)
    library().rotate(
        ptr(flat), flat.stride(0), ptr(cos), ptr(sin), ptr(out), heads * width, T, heads, width // 2, sign,
        torch.get_num_threads(),
    )  # fmt: skip
    return out


class _Logprobs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor) -> Tensor:
        logits, target = logits.contiguous(), target.contiguous()
        logprob, lse = logits.new_empty(logits.shape[0]), logits.new_empty(logits.shape[0])
        library().logprobs_forward(
            ptr(logits), ptr(target), ptr(logprob), ptr(lse), *logits.shape, torch.get_num_threads()
        )
        ctx.save_for_backward(logits, target, lse)
        return logprob

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        logits, target, lse = ctx.saved_tensors
        grad, grad_logits = grads[0].contiguous(), torch.empty_like(logits)
        library().logprobs_backward(
            ptr(logits), ptr(target), ptr(lse), ptr(grad), ptr(grad_logits), *logits.shape, torch.get_num_threads()
        )
        return grad_logits, None


class _ConvSilu(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, position: Tensor, remaining: Tensor
    ) -> Tensor:
        x, taps = _rows(x), weight.flip(1).t().contiguous()
        ctx.save_for_backward(x, taps, bias, position, remaining)
        out = x.new_empty(x.shape)
        library().conv_forward(
            ptr(x), x.stride(0), ptr(taps), ptr(bias), ptr(position), ptr(out), *x.shape, taps.shape[0],
            torch.get_num_threads(),
        )  # fmt: skip
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, taps, bias, position, remaining = ctx.saved_tensors
        grad, threads = grads[0].contiguous(), torch.get_num_threads()
        K, N = taps.shape
        scratch, grad_x = torch.empty_like(grad), torch.empty_like(grad)
        partial = x.new_zeros(threads, K + 1, N)
        library().conv_backward(
            ptr(x), x.stride(0), ptr(taps), ptr(bias), ptr(position), ptr(remaining), ptr(grad), ptr(scratch),
            ptr(grad_x), N, ptr(partial), *x.shape, K, threads,
        )  # fmt: skip
        sums = partial.sum(0)
        return grad_x, sums[:K].t().flip(1), None if bias is None else sums[K], None, None


class _Scan(torch.autograd.Function):
    """x [T, H*P], B and C [T, G*S]."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, groups: int, layout: Layout
    ) -> Tensor:
        x, dt, A, D = _rows(x), dt.contiguous(), A.contiguous(), D.contiguous()
        B, C = (_rows(B), _rows(C)) if B.stride() == C.stride() else (B.contiguous(), C.contiguous())
        (T, H), S = dt.shape, B.shape[1] // groups
        P = x.shape[1] // H
        first, chunk, blocks = scan_tasks(layout, H, groups, P * S)
        ctx.sizes = (len(first) - 1, x.stride(0), B.stride(0), H, groups, P, S, chunk, blocks)
        states = x.new_empty(int(first[-1]), H, S, -(-P // 16) * 16) if any(ctx.needs_input_grad) else None
        y = x.new_empty(T, H, P)
        ctx.save_for_backward(x, dt, A, B, C, D, layout.cu_seqlens, first, states)
        inputs = (ptr(t) for t in ctx.to_save[:-1])
        need_memory(library().scan_forward(*inputs, *ctx.sizes, ptr(y), ptr(states), torch.get_num_threads()))
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, states = ctx.saved_tensors
        documents, _, _, H, G, _, S, _, blocks = ctx.sizes
        x, dt = inputs[:2]
        grad = grads[0].contiguous()
        grad_x, grad_dt = x.new_empty(x.shape), torch.empty_like(dt)
        grad_B, grad_C = x.new_empty(2, blocks, len(x), G * S)
        grad_A, grad_D = x.new_zeros(2, documents, H)
        done = library().scan_backward(
            *(ptr(t) for t in inputs), *ctx.sizes, ptr(grad), ptr(states), ptr(grad_x), x.shape[1], ptr(grad_dt),
            ptr(grad_A), ptr(grad_B), ptr(grad_C), G * S, ptr(grad_D), torch.get_num_threads(),
        )  # fmt: skip
        need_memory(done)
        return grad_x, grad_dt, grad_A.sum(0), grad_B.sum(0), grad_C.sum(0), grad_D.sum(0), None, None


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, layout: Layout) -> Tensor:
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
        out, lse = attend(q, k, v, layout, q.shape[1], k.shape[1])
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.layout = layout
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, lse = ctx.saved_tensors
        return *attend_backward(q, k, v, out, lse, grads[0].contiguous(), ctx.layout), None


def conv_silu(xBC_TN: Tensor, weight_NK: Tensor, bias_N: Tensor | None, layout: Layout) -> Tensor:
    check(xBC_TN, weight_NK, bias_N)
    return _ConvSilu.apply(xBC_TN, weight_NK, bias_N, layout.positions, layout.remaining)


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
    check(x_THP, dt_TH, A_H, B_TGS, C_TGS, D_H)
    groups = B_TGS.shape[1]
    return _Scan.apply(x_THP.flatten(1), dt_TH, A_H, B_TGS.flatten(1), C_TGS.flatten(1), D_H, groups, layout)


def step(
    state_BHPS: Tensor, x_BHP: Tensor, dt_BH: Tensor, A_H: Tensor, B_BGS: Tensor, C_BGS: Tensor, D_H: Tensor
) -> Tensor:
    check(state_BHPS, x_BHP, dt_BH, A_H, B_BGS, C_BGS, D_H)
    if not state_BHPS.is_contiguous():
        raise ValueError("the native step updates the state in place and needs it dense")
    rows, H, P, S = state_BHPS.shape
    x, B, C = _rows(x_BHP.flatten(1)), _rows(B_BGS.flatten(1)), _rows(C_BGS.flatten(1))
    if B.stride(0) != C.stride(0):
        B, C = B.contiguous(), C.contiguous()
    dt, A, D = dt_BH.contiguous(), A_H.contiguous(), D_H.contiguous()
    y = x.new_empty(rows, H, P)
    library().scan_step(
        ptr(state_BHPS), ptr(x), x.stride(0), ptr(dt), ptr(A), ptr(B), ptr(C), B.stride(0), ptr(D), ptr(y),
        rows, H, B_BGS.shape[1], P, S, torch.get_num_threads(),
    )  # fmt: skip
    return y


def gate(y: Tensor, z: Tensor, weight_M: Tensor | None, groups: int, eps: float, norm_before_gate: bool) -> Tensor:
    check(y, z, weight_M)
    norm = 0 if weight_M is None else 2 if norm_before_gate else 1
    out = _Gate.apply(y.flatten(0, -2), z.flatten(0, -2), weight_M, 1 if norm == 0 else groups, eps, norm)
    return out.view(y.shape)


def attention(q_THE: Tensor, k_TJE: Tensor, v_TJE: Tensor, layout: Layout) -> Tensor:
    check(q_THE, k_TJE, v_TJE)
    if not takes(layout, q_THE.shape[1]):
        return portable.attention(q_THE, k_TJE, v_TJE, layout)
    return _Attention.apply(q_THE, k_TJE, v_TJE, layout)


def rms_norm(x: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    check(x, weight_D)
    return _RMSNorm.apply(x, weight_D, eps)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    check(gate, up)
    return _Swiglu.apply(gate, up)


def rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    check(x, cos, sin)
    return _Rotate.apply(x.flatten(0, -3), cos.flatten(0, -2), sin.flatten(0, -2)).view(x.shape)


def token_logprobs(logits_TV: Tensor, targets_T: Tensor) -> Tensor:
    check(logits_TV)
    return _Logprobs.apply(logits_TV, targets_T)


NATIVE = Kernels(
    "native", conv_silu=conv_silu, scan=scan, gate=gate, attention=attention, rms_norm=rms_norm, swiglu=swiglu,
    rotary=rotary, token_logprobs=token_logprobs, step=step, layer=layer, linear=linear,
)  # fmt: skip
