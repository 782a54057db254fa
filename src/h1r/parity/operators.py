"""The model's operators one at a time, on its own shapes: the kernels in use against their definition in float64.

Inputs are random; the parameters that an operator takes are those of the model's first layer. Inputs in half precision
are handed to the definition as they were rounded, so that only the arithmetic is compared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from h1r.kernels.contract import Kernels
from h1r.kernels.layout import Layout
from h1r.kernels.reference import REFERENCE
from h1r.models.falcon_h1.hybrid import Block
from h1r.parity.measure import Worst, compare_gradients
from h1r.parity.subject import Subject

_REFERENCE_BYTES = 2**31
"""What autograd may keep of the scan's definition: one state per token."""


@dataclass(frozen=True)
class Operator:
    """One operator with its inputs. The first `per_token` inputs have a leading dimension of tokens."""

    names: tuple[str, ...]
    inputs: list[Tensor]
    per_token: int
    run: Callable[[Kernels, list[Tensor], Layout], Tensor]

    def slice(self, inputs: list[Tensor], start: int, end: int) -> list[Tensor]:
        """The inputs of tokens [start, end)."""
        return [t[start:end] if i < self.per_token else t for i, t in enumerate(inputs)]


def convolution(subject: Subject) -> Operator:
    mixer, config = _first(subject).mamba, subject.config
    bias = [] if mixer.conv1d.bias is None else [mixer.conv1d.bias]
    return Operator(
        ("xBC", "weight", *["bias"] * len(bias)),
        [subject.noise(subject.tokens, config.conv_dim), *_copies(mixer.conv1d.weight[:, 0], *bias)],
        1,
        lambda kernels, t, layout: kernels.conv_silu(t[0], t[1], t[2] if bias else None, layout),
    )


def scan(subject: Subject) -> Operator:
    mixer, c, T = _first(subject).mamba, subject.config, subject.tokens
    wide = torch.promote_types(subject.dtype, torch.float32)  # dt and A are never narrower, as in the model
    low, high = c.time_step_limit
    dt_TH = F.softplus(subject.noise(T, c.mamba_n_heads, stream=3, dtype=wide) + mixer.dt_bias.to(wide)).clamp(
        low, high
    )
    groups = (T, c.mamba_n_groups, c.mamba_d_state)
    return Operator(
        ("x", "dt", "B", "C", "A", "D"),
        [
            subject.noise(T, c.mamba_n_heads, c.mamba_d_head),
            dt_TH.detach(),
            subject.noise(*groups, stream=4),
            subject.noise(*groups, stream=5),
            *_copies(-torch.exp(mixer.A_log.to(wide)), mixer.D),
        ],
        4,
        lambda kernels, t, layout: kernels.scan(t[0], t[1], t[4], t[2], t[3], t[5], layout, c.mamba_chunk_size),
    )


def attention(subject: Subject) -> Operator:
    c, T = subject.config, subject.tokens
    shapes = [(T, heads, c.head_dim) for heads in (c.num_attention_heads, *[c.num_key_value_heads] * 2)]
    return Operator(
        ("q", "k", "v"),
        [subject.noise(*shape, stream=6 + i) for i, shape in enumerate(shapes)],
        3,
        lambda kernels, t, layout: kernels.attention(t[0], t[1], t[2], layout),
    )


def gate(subject: Subject) -> Operator:
    mixer, c, T = _first(subject).mamba, subject.config, subject.tokens
    weight = _copies(mixer.norm.weight) if c.mamba_rms_norm else []
    return Operator(
        ("y", "z", *["weight"] * len(weight)),
        [subject.noise(T, c.mamba_d_ssm), subject.noise(T, c.mamba_d_ssm, stream=1), *weight],
        2,
        lambda kernels, t, layout: kernels.gate(
            t[0], t[1], t[2] if weight else None, c.mamba_n_groups, c.rms_norm_eps, c.mamba_norm_before_gate
        ),
    )


def rms_norm(subject: Subject) -> Operator:
    return Operator(
        ("x", "weight"),
        [subject.noise(subject.tokens, subject.config.hidden_size), *_copies(_first(subject).input_layernorm.weight)],
        1,
        lambda kernels, t, layout: kernels.rms_norm(t[0], t[1], subject.config.rms_norm_eps),
    )


def swiglu(subject: Subject) -> Operator:
    shape = (subject.tokens, subject.config.intermediate_size)
    return Operator(
        ("gate", "up"),
        [subject.noise(*shape), subject.noise(*shape, stream=1)],
        2,
        lambda kernels, t, layout: kernels.swiglu(t[0], t[1]),
    )


def kernel_convolution(subject: Subject) -> Worst:
    return against_definition(subject, convolution(subject))


def kernel_attention(subject: Subject) -> Worst:
    return against_definition(subject, attention(subject))


def kernel_gate(subject: Subject) -> Worst:
    return against_definition(subject, gate(subject))


def kernel_rms_norm(subject: Subject) -> Worst:
    return against_definition(subject, rms_norm(subject))


def kernel_swiglu(subject: Subject) -> Worst:
    return against_definition(subject, swiglu(subject))


def kernel_scan(subject: Subject) -> Worst:
    """The definition keeps a state per token and head, so that of a large model runs over some heads of each group; a
    head sees no other head, and the pull on the rest is zero."""
    c, whole = subject.config, scan(subject)
    per_group = c.mamba_n_heads // c.mamba_n_groups
    one_head = 48 * subject.tokens * c.mamba_n_groups * c.mamba_d_head * c.mamba_d_state
    few = min(per_group, max(1, _REFERENCE_BYTES // one_head))
    heads = torch.arange(c.mamba_n_heads).view(c.mamba_n_groups, per_group)[:, :few].flatten().to(subject.device)

    def chosen(kernels: Kernels, t: list[Tensor], layout: Layout) -> Tensor:
        if kernels is REFERENCE:
            t = [t[0][:, heads], t[1][:, heads], t[2], t[3], t[4][heads], t[5][heads]]
            return whole.run(kernels, t, layout)
        return whole.run(kernels, t, layout)[:, heads]

    return against_definition(subject, Operator(whole.names, whole.inputs, whole.per_token, chosen))


def kernel_step(subject: Subject) -> Worst:
    """Three tokens of two sequences, one after the other; outputs and the state they leave."""
    c, rows = subject.config, 2
    wide = torch.promote_types(subject.dtype, torch.float32)
    state = subject.noise(rows, c.mamba_n_heads, c.mamba_d_head, c.mamba_d_state, stream=9, dtype=wide)
    exact = state.double()
    x, dt, B, C, A, D = scan(subject).inputs
    worst = Worst()
    with torch.no_grad():
        for i in range(3):
            at = slice(rows * i, rows * (i + 1))
            inputs = [x[at], dt[at], A, B[at], C[at], D]
            y = subject.model.kernels.step(state, *inputs)
            expected = REFERENCE.step(exact, *[t.double() for t in inputs])
            worst.compare(f"output of step {i + 1}", y, expected).compare(f"state after step {i + 1}", state, exact)
    return worst


def against_definition(subject: Subject, operator: Operator) -> Worst:
    """Output and the gradient of every input, packed documents, kernels in use against `reference` in float64."""
    layout = Layout.of(subject.lengths(), subject.device)
    inputs = [t.requires_grad_() for t in operator.inputs]
    exact = [t.detach().double().requires_grad_() for t in inputs]
    got, expected = operator.run(subject.model.kernels, inputs, layout), operator.run(REFERENCE, exact, layout)
    pull = subject.noise(*got.shape, stream=1, dtype=got.dtype)
    found = torch.autograd.grad((got * pull).sum(), inputs)
    wanted = torch.autograd.grad((expected * pull.double()).sum(), exact)
    return compare_gradients(Worst().compare("output", got, expected), operator.names, found, wanted)


def _first(subject: Subject) -> Block:
    block = subject.model.model.layers[0]
    assert isinstance(block, Block)
    return block


def _copies(*tensors: Tensor) -> list[Tensor]:
    return [t.detach().clone() for t in tensors]
