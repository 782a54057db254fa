"""A layer's weights with their multipliers folded in, and the matrices that read the same input as one.

For kernels that run a whole layer (`h1r.kernels.layer`). Folded out of the parameters in each forward pass, by
differentiable copies that cost one pass over the weights: the parameters, and what is saved, stay those of the
checkpoint.
"""

from __future__ import annotations

import torch
from torch import Tensor

from h1r.kernels.layer import FoldedWeights
from h1r.models.falcon_h1.attention import Attention
from h1r.models.falcon_h1.config import HybridConfig
from h1r.models.falcon_h1.feed_forward import MLP
from h1r.models.falcon_h1.mamba2 import Mamba2
from h1r.models.falcon_h1.multipliers import scales_of
from h1r.models.layers.norm import RMSNorm


def folded_weights(
    config: HybridConfig, norm: RMSNorm, attention: Attention, mamba: Mamba2, ff_norm: RMSNorm, mlp: MLP
) -> FoldedWeights:
    """The weights of a layer's parts, scaled and laid end to end."""
    scales = scales_of(config)
    inward = [
        (attention.q_proj, scales.query),
        (attention.k_proj, scales.key),
        (attention.v_proj, scales.value),
        (mamba.in_proj, mamba.in_scale),
    ]
    out, o, down = mamba.out_proj, attention.o_proj, mlp.down_proj
    out_biases = [bias for bias in (scales.attention_out.bias(o), scales.mixer_out.bias(out)) if bias is not None]
    gate_bias = scales.gate.bias(mlp.gate_proj)
    return FoldedWeights(
        norm.weight,
        torch.cat([scale.weight(linear) for linear, scale in inward]),
        _joined(*((scale.bias(linear), linear.out_features) for linear, scale in inward)),
        mamba.conv1d.weight[:, 0].flip(1).t().contiguous(),
        mamba.conv1d.bias,
        mamba.dt_bias,
        -torch.exp(mamba.A_log),
        mamba.D,
        mamba.norm.weight if config.mamba_rms_norm else None,
        scales.attention_out.weight(o),
        scales.mixer_out.weight(out),
        sum(out_biases[1:], out_biases[0]) if out_biases else None,
        ff_norm.weight,
        torch.cat([scales.gate.weight(mlp.gate_proj), mlp.up_proj.weight]),
        None if gate_bias is None else torch.cat([gate_bias, mlp.up_proj.bias]),
        scales.down.weight(down),
        scales.down.bias(down),
    )


def _joined(*biases: tuple[Tensor | None, int]) -> Tensor | None:
    """Biases end to end, zeros for those that are missing; None when all are."""
    some = next((bias for bias, _ in biases if bias is not None), None)
    if some is None:
        return None
    return torch.cat([some.new_zeros(width) if bias is None else bias for bias, width in biases])
