"""A whole layer as one operator, with its backward pass written out.

    h = RMSNorm(x);    P = h inward^T = [q | k | v | z | xBC | dt]
    a = attention(rotary(q), rotary(k), v);    g = gate(scan(conv(xBC), dt), z)
    x' = x + a attention_out^T + g mixer_out^T
    u = RMSNorm(x');   x'' = x' + swiglu(u gate_up^T) down^T

What it gains over the operators one by one: each product reads its input once for all of its outputs; the operators
read their columns of P in place and write their gradients into columns of one matrix, so nothing is cut, joined or
added up by copies; sums of gradients ride on the norms' backward passes. Shapes as in
`kernels/layer.py`; T flat tokens.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from h1r.kernels.cpu.build import library
from h1r.kernels.cpu.common import check, need_memory, ptr, scan_tasks
from h1r.kernels.cpu.head_attention import attend, attend_backward, takes
from h1r.kernels.cpu.products import product
from h1r.kernels.cpu.workspace import BackwardMemory
from h1r.kernels.layer import FoldedWeights, LayerSizes
from h1r.kernels.layout import Layout
from h1r.kernels.torch import operators as portable

_memory = BackwardMemory()


def layer(x_TD: Tensor, weights: FoldedWeights, cos: Tensor, sin: Tensor, layout: Layout, config: LayerSizes) -> Tensor:
    """x [T, D] after the layer. Differentiable in x and every weight."""
    check(x_TD, *weights, cos, sin)
    inputs = (x_TD, *weights)
    keep = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs)
    return _Layer.apply(_Columns(config), layout, cos.contiguous(), sin.contiguous(), keep, *inputs)


class _Columns:
    """Where the parts of P stand, and the sizes of the operators."""

    def __init__(self, config: LayerSizes) -> None:
        self.H, self.J, self.E = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        self.heads, self.G, self.S = config.mamba_n_heads, config.mamba_n_groups, config.mamba_d_state
        self.P, self.M, self.N = config.mamba_d_head, config.mamba_d_ssm, config.conv_dim
        self.q, self.kv = self.H * self.E, self.J * self.E
        self.z = self.q + 2 * self.kv
        self.xBC = self.z + self.M
        self.dt = self.xBC + self.N
        self.eps, self.limit = config.rms_norm_eps, config.time_step_limit
        self.norm = 0 if not config.mamba_rms_norm else 2 if config.mamba_norm_before_gate else 1
        groups = self.G if self.norm else 1
        self.gate = (groups, self.M // groups, self.eps, self.norm)
        self.bounded = self.limit != (0.0, float("inf"))


class _Layer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, at: _Columns, layout: Layout, cos: Tensor, sin: Tensor, keep: bool, x: Tensor, *weights: Tensor | None
    ) -> Tensor:
        w, x = FoldedWeights(*weights), x.contiguous()  # type: ignore[arg-type]
        T, threads = len(x), torch.get_num_threads()
        h = _rms_norm(x, w.norm, at.eps)
        P = product(h, w.inward.t())
        if w.inward_bias is not None:
            P += w.inward_bias
        # Attention walks along the tokens of one head and wants rows as narrow as can be.
        q, k = _rotate(P[:, : at.q], at, cos, sin, 1.0), _rotate(P[:, at.q : at.q + at.kv], at, cos, sin, 1.0)
        v = P[:, at.q + at.kv : at.z].contiguous()
        ctx.graph, a, lse = _attend(q, k, v, at, layout, keep)

        xBC = x.new_empty(T, at.N)
        library().conv_forward(
            ptr(P[:, at.xBC :]), P.stride(0), ptr(w.taps), ptr(w.conv_bias), ptr(layout.positions), ptr(xBC), T, at.N,
            len(w.taps), threads,
        )  # fmt: skip
        dt = F.softplus(P[:, at.dt :] + w.dt_bias)
        if at.bounded:
            dt = dt.clamp(*at.limit)
        first, chunk, blocks = scan_tasks(layout, at.heads, at.G, at.P * at.S)
        sizes = (len(first) - 1, at.N, at.N, at.heads, at.G, at.P, at.S, chunk, blocks)
        states = x.new_empty(int(first[-1]), at.heads, at.S, -(-at.P // 16) * 16) if keep else None
        y = x.new_empty(T, at.M)
        need_memory(
            library().scan_forward(*_scan_inputs(xBC, dt, w, at, layout, first), *sizes, ptr(y), ptr(states), threads)
        )
        g = torch.empty_like(y)
        library().gate_forward(
            ptr(y), ptr(P[:, at.z :]), P.stride(0), ptr(w.gate_norm), ptr(g), at.M, T, *at.gate, threads
        )
        middle = product(a, w.attention_out.t(), plus=x)
        middle = product(g, w.mixer_out.t(), out=middle, plus=middle)
        if w.out_bias is not None:
            middle += w.out_bias
        u = _rms_norm(middle, w.ff_norm, at.eps)
        gate_up = product(u, w.gate_up.t())
        if w.gate_up_bias is not None:
            gate_up += w.gate_up_bias
        width = w.down.shape[1]
        inner = x.new_empty(T, width)
        library().swiglu_forward(ptr(gate_up), ptr(gate_up[:, width:]), 2 * width, ptr(inner), T, width, threads)
        out = product(inner, w.down.t(), plus=middle)
        if w.down_bias is not None:
            out += w.down_bias
        if keep:
            ctx.save_for_backward(
                x, h, P, q, k, v, a, lse, g, xBC, dt, y, states, middle, u, gate_up, inner, cos, sin, first, *weights
            )
            ctx.at, ctx.layout, ctx.sizes = at, layout, sizes
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, h, P, q, k, v, a, lse, g, xBC, dt, y, states, middle, u, gate_up, inner, cos, sin, first, *rest = (
            ctx.saved_tensors
        )
        w, at, layout = FoldedWeights(*rest), ctx.at, ctx.layout
        T, threads, grad = len(x), torch.get_num_threads(), grads[0].contiguous()
        like = _memory.like  # what dies with this function lies where the layer before had it

        d_inner, d_gate_up = product(grad, w.down, like(inner, "inner")), like(gate_up, "gate_up")
        width = inner.shape[1]
        library().swiglu_backward(
            ptr(gate_up), ptr(gate_up[:, width:]), 2 * width, ptr(d_inner), ptr(d_gate_up), ptr(d_gate_up[:, width:]),
            T, width, threads,
        )  # fmt: skip
        d_middle = product(d_gate_up, w.gate_up, like(middle, "middle"))
        d_middle, d_ff_norm = _rms_norm_backward(middle, w.ff_norm, d_middle, grad, at.eps)

        d_a = product(d_middle, w.attention_out, like(a, "a"))
        d_g = product(d_middle, w.mixer_out, like(g, "g"))
        d_P, d_y = like(P, "P"), like(y, "y")
        d_gate_norm = None if w.gate_norm is None else x.new_zeros(threads, at.M)
        library().gate_backward(
            ptr(y), ptr(P[:, at.z :]), P.stride(0), ptr(w.gate_norm), ptr(d_g), at.M, ptr(d_y),
            ptr(d_P[:, at.z :]), P.stride(0), ptr(d_gate_norm), T, *at.gate, threads,
        )  # fmt: skip
        d_q, d_k, d_P[:, at.q + at.kv : at.z] = _attend_backward(ctx.graph, q, k, v, a, lse, d_a, layout)
        _rotate(d_q, at, cos, sin, -1.0, d_P[:, : at.q])
        _rotate(d_k, at, cos, sin, -1.0, d_P[:, at.q : at.q + at.kv])

        d_xBC, d_dt, d_A, d_D = _scan_backward(xBC, dt, w, at, layout, first, ctx.sizes, d_y, states)
        d_taps, scratch = x.new_zeros(threads, len(w.taps) + 1, at.N), like(d_xBC, "scratch")
        library().conv_backward(
            ptr(P[:, at.xBC :]), P.stride(0), ptr(w.taps), ptr(w.conv_bias), ptr(layout.positions),
            ptr(layout.remaining), ptr(d_xBC), ptr(scratch), ptr(d_P[:, at.xBC :]), P.stride(0),
            ptr(d_taps), T, at.N, len(w.taps), threads,
        )  # fmt: skip
        d_taps = d_taps.sum(0)
        if at.bounded:  # a time step at its bound does not follow its input
            d_dt = d_dt * ((dt > at.limit[0]) & (dt < at.limit[1]))
        d_dt = torch.mul(d_dt, torch.sigmoid(P[:, at.dt :] + w.dt_bias), out=d_P[:, at.dt :])
        d_x, d_norm = _rms_norm_backward(x, w.norm, product(d_P, w.inward), d_middle, at.eps)
        return (
            *(None,) * 5,
            d_x,
            d_norm,
            product(d_P.t(), h),
            _bias(w.inward_bias, d_P),
            d_taps[:-1],
            None if w.conv_bias is None else d_taps[-1],
            d_dt.sum(0),
            d_A,
            d_D,
            None if d_gate_norm is None else d_gate_norm.sum(0),
            product(d_middle.t(), a),
            product(d_middle.t(), g),
            _bias(w.out_bias, d_middle),
            d_ff_norm,
            product(d_gate_up.t(), u),
            _bias(w.gate_up_bias, d_gate_up),
            product(grad.t(), inner),
            _bias(w.down_bias, grad),
        )


def _bias(bias: Tensor | None, grad_TW: Tensor) -> Tensor | None:
    return None if bias is None else grad_TW.sum(0)


def _rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    out = torch.empty_like(x)
    library().rms_norm_forward(ptr(x), ptr(weight), ptr(out), *x.shape, eps, torch.get_num_threads())
    return out


def _rms_norm_backward(x: Tensor, weight: Tensor, grad: Tensor, beside: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The gradient of x, with `beside`, that of the path around the norm; and that of the weight. Overwrites `grad`."""
    threads = torch.get_num_threads()
    partial = x.new_zeros(threads, x.shape[1])
    library().rms_norm_backward(
        ptr(x), ptr(weight), ptr(grad), ptr(beside), ptr(grad), ptr(partial), *x.shape, eps, threads
    )
    return grad, partial.sum(0)


def _rotate(x: Tensor, at: _Columns, cos: Tensor, sin: Tensor, sign: float, out: Tensor | None = None) -> Tensor:
    """The heads of x [T, heads * E] turned, into `out` or a new matrix."""
    out = x.new_empty(x.shape) if out is None else out
    library().rotate(
        ptr(x), x.stride(0), ptr(cos), ptr(sin), ptr(out), out.stride(0), len(x), x.shape[1] // at.E, at.E // 2, sign,
        torch.get_num_threads(),
    )  # fmt: skip
    return out


def _attend(
    q: Tensor, k: Tensor, v: Tensor, at: _Columns, layout: Layout, keep: bool
) -> tuple[Any, Tensor, Tensor | None]:
    """(graph, heads' outputs, log-sum-exp of the scores). What `takes` leaves to torch has a graph, which is
    kept for the backward pass; the rest has none."""
    if not takes(layout, at.H):
        inputs = [t.unflatten(1, (-1, at.E)).requires_grad_(keep) for t in (q, k, v)]
        with torch.set_grad_enabled(keep):
            out = portable.attention(inputs[0], inputs[1], inputs[2], layout).flatten(1)
        return ((out, inputs) if keep else None), out.detach(), None
    return None, *attend(q, k, v, layout, at.H, at.J)


def _attend_backward(
    graph: Any, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor | None, grad: Tensor, layout: Layout
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of q, k and v."""
    if lse is not None:
        return attend_backward(q, k, v, out, lse, grad, layout)
    d_q, d_k, d_v = (found.flatten(1) for found in torch.autograd.grad(graph[0], graph[1], grad))
    return d_q, d_k, d_v


def _scan_inputs(
    xBC: Tensor, dt: Tensor, w: FoldedWeights, at: _Columns, layout: Layout, first: Tensor
) -> tuple[int | None, ...]:
    B, C = xBC[:, at.M :], xBC[:, at.M + at.G * at.S :]
    return tuple(ptr(t) for t in (xBC, dt, w.A, B, C, w.D, layout.cu_seqlens, first))


def _scan_backward(
    xBC: Tensor, dt: Tensor, w: FoldedWeights, at: _Columns, layout: Layout, first: Tensor, sizes: tuple[int, ...],
    d_y: Tensor, states: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of xBC after the convolution, of dt, A and D."""
    documents, blocks, width = sizes[0], sizes[-1], at.G * at.S
    d_xBC, d_dt = _memory.like(xBC, "xBC"), torch.empty_like(dt)
    d_A, d_D = dt.new_zeros(2, documents, at.heads)
    d_B, d_C = d_xBC[:, at.M : at.M + width], d_xBC[:, at.M + width :]
    # Blocks of heads share B and C: each writes a part of their gradients.
    parts = (d_B, d_C) if blocks == 1 else xBC.new_empty(2, blocks, len(xBC), width).unbind()
    done = library().scan_backward(
        *_scan_inputs(xBC, dt, w, at, layout, first), *sizes, ptr(d_y), ptr(states), ptr(d_xBC), at.N, ptr(d_dt),
        ptr(d_A), ptr(parts[0]), ptr(parts[1]), at.N if blocks == 1 else width, ptr(d_D), torch.get_num_threads(),
    )  # fmt: skip
    need_memory(done)
    if blocks > 1:
        torch.sum(parts[0], 0, out=d_B)
        torch.sum(parts[1], 0, out=d_C)
    return d_xBC, d_dt, d_A.sum(0), d_D.sum(0)
