"""What `h1r parity` checks of the hybrid besides what every family has: convolution, scan, gate and recurrent step.

The parameters that an operator takes are those of the model's first layer.
"""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from h1r.kernels.contract import Kernels
from h1r.kernels.layout import Layout
from h1r.kernels.reference import REFERENCE
from h1r.models.checks import FamilyChecks, Inputs, Operator, copies
from h1r.models.falcon_h1.hybrid import Block, HybridForCausalLM
from h1r.models.falcon_h1.mamba2 import Mamba2
from h1r.models.falcon_h1.multipliers import scales_of

_REFERENCE_BYTES = 2**31
"""What autograd may keep of the scan's definition: one state per token."""


def convolution(model: HybridForCausalLM, inputs: Inputs) -> Operator:
    mixer, config = _first(model), model.config
    bias = [] if mixer.conv1d.bias is None else [mixer.conv1d.bias]
    return Operator(
        ("xBC", "weight", *["bias"] * len(bias)),
        [inputs.noise(inputs.tokens, config.conv_dim), *copies(mixer.conv1d.weight[:, 0], *bias)],
        1,
        lambda kernels, t, layout: kernels.conv_silu(t[0], t[1], t[2] if bias else None, layout),
    )


def scan(model: HybridForCausalLM, inputs: Inputs) -> Operator:
    mixer, c, T = _first(model), model.config, inputs.tokens
    wide = torch.promote_types(model.dtype, torch.float32)  # dt and A are never narrower, as in the model
    low, high = c.time_step_limit
    dt_TH = F.softplus(inputs.noise(T, c.mamba_n_heads, stream=3, dtype=wide) + mixer.dt_bias.to(wide)).clamp(low, high)
    groups = (T, c.mamba_n_groups, c.mamba_d_state)
    return Operator(
        ("x", "dt", "B", "C", "A", "D"),
        [
            inputs.noise(T, c.mamba_n_heads, c.mamba_d_head),
            dt_TH.detach(),
            inputs.noise(*groups, stream=4),
            inputs.noise(*groups, stream=5),
            *copies(-torch.exp(mixer.A_log.to(wide)), mixer.D),
        ],
        4,
        lambda kernels, t, layout: kernels.scan(t[0], t[1], t[4], t[2], t[3], t[5], layout, c.mamba_chunk_size),
    )


def exact_scan(model: HybridForCausalLM, inputs: Inputs) -> Operator:
    """The definition keeps a state per token and head, so that of a large model runs over some heads of each group; a
    head sees no other head, and the pull on the rest is zero."""
    c, whole = model.config, scan(model, inputs)
    per_group = c.mamba_n_heads // c.mamba_n_groups
    one_head = 48 * inputs.tokens * c.mamba_n_groups * c.mamba_d_head * c.mamba_d_state
    few = min(per_group, max(1, _REFERENCE_BYTES // one_head))
    heads = torch.arange(c.mamba_n_heads).view(c.mamba_n_groups, per_group)[:, :few].flatten().to(model.device)

    def chosen(kernels: Kernels, t: list[Tensor], layout: Layout) -> Tensor:
        if kernels is REFERENCE:
            t = [t[0][:, heads], t[1][:, heads], t[2], t[3], t[4][heads], t[5][heads]]
            return whole.run(kernels, t, layout)
        return whole.run(kernels, t, layout)[:, heads]

    return Operator(whole.names, whole.inputs, whole.per_token, chosen)


def step(model: HybridForCausalLM, inputs: Inputs) -> tuple[Tensor, list[list[Tensor]]]:
    """Three tokens of two sequences, one after the other."""
    c, rows = model.config, 2
    wide = torch.promote_types(model.dtype, torch.float32)
    state = inputs.noise(rows, c.mamba_n_heads, c.mamba_d_head, c.mamba_d_state, stream=9, dtype=wide)
    x, dt, B, C, A, D = scan(model, inputs).inputs
    at = [slice(rows * i, rows * (i + 1)) for i in range(3)]
    return state, [[x[s], dt[s], A, B[s], C[s], D] for s in at]


def gate(model: HybridForCausalLM, inputs: Inputs) -> Operator:
    mixer, c, T = _first(model), model.config, inputs.tokens
    weight = copies(mixer.norm.weight) if c.mamba_rms_norm else []
    return Operator(
        ("y", "z", *["weight"] * len(weight)),
        [inputs.noise(T, c.mamba_d_ssm), inputs.noise(T, c.mamba_d_ssm, stream=1), *weight],
        2,
        lambda kernels, t, layout: kernels.gate(
            t[0], t[1], t[2] if weight else None, c.mamba_n_groups, c.rms_norm_eps, c.mamba_norm_before_gate
        ),
    )


def unit_scale(model: HybridForCausalLM) -> None:
    """Divides weights by the multipliers that act on them, and lets the embedding come out at unit size."""
    config, scales = model.config, scales_of(model.config)
    embedding = model.model.embed_tokens.weight
    embedding.mul_(math.sqrt(config.hidden_size) / config.embedding_multiplier)
    if not config.tie_word_embeddings:
        model.lm_head.weight.div_(config.lm_head_multiplier)
    for layer in model.model.layers:
        layer = cast(Block, layer)
        mixer, attention, mlp = layer.mamba, layer.self_attn, layer.feed_forward
        for linear, scale in (
            (mixer.in_proj, mixer.in_scale),
            (mixer.out_proj, scales.mixer_out),
            (attention.q_proj, scales.query),
            (attention.k_proj, scales.key),
            (attention.v_proj, scales.value),
            (attention.o_proj, scales.attention_out),
            (mlp.gate_proj, scales.gate),
            (mlp.down_proj, scales.down),
        ):
            by = scale.of_weight()
            linear.weight.div_(by[:, None] if isinstance(by, Tensor) else by)


CHECKS = FamilyChecks(
    {"convolution": convolution, "scan": scan, "exact_scan": exact_scan, "gate": gate}, step, unit_scale
)


def _first(model: HybridForCausalLM) -> Mamba2:
    return cast(Block, model.model.layers[0]).mamba
