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
from h1r.models.layers.norm import RMSNorm


def folded_weights(
    config: HybridConfig, norm: RMSNorm, attention: Attention, mamba: Mamba2, ff_norm: RMSNorm, mlp: MLP
) -> FoldedWeights:
    """The weights of a layer's parts, scaled and laid end to end."""
    wide, key = config.attention_in_multiplier, config.key_multiplier
    q, k, v = attention.q_proj, attention.k_proj, attention.v_proj
    scale_W = mamba.mup_vector.to(mamba.in_proj.weight.dtype)
    out, o, down = mamba.out_proj, attention.o_proj, mlp.down_proj
    attention_out, ssm_out = config.attention_out_multiplier, config.ssm_out_multiplier
    gate_by, down_by = config.mlp_multipliers
    inward = torch.cat(
        [
            _scaled(q.weight, wide),
            _scaled(k.weight, wide * key),
            _scaled(v.weight, wide),
            mamba.in_proj.weight * (scale_W * config.ssm_in_multiplier)[:, None],
        ]
    )
    k_bias, in_bias = k.bias, mamba.in_proj.bias
    inward_bias = _joined(
        (q.bias, q.out_features),
        (None if k_bias is None else _scaled(k_bias, key), k.out_features),
        (v.bias, v.out_features),
        (None if in_bias is None else in_bias * scale_W, mamba.in_proj.out_features),
    )
    out_biases = [_scaled(b, by) for b, by in ((o.bias, attention_out), (out.bias, ssm_out)) if b is not None]
    gate_bias = mlp.gate_proj.bias
    return FoldedWeights(
        norm.weight,
        inward,
        inward_bias,
        mamba.conv1d.weight[:, 0].flip(1).t().contiguous(),
        mamba.conv1d.bias,
        mamba.dt_bias,
        -torch.exp(mamba.A_log),
        mamba.D,
        mamba.norm.weight if config.mamba_rms_norm else None,
        _scaled(o.weight, attention_out),
        _scaled(out.weight, ssm_out),
        sum(out_biases[1:], out_biases[0]) if out_biases else None,
        ff_norm.weight,
        torch.cat([_scaled(mlp.gate_proj.weight, gate_by), mlp.up_proj.weight]),
        None if gate_bias is None else torch.cat([_scaled(gate_bias, gate_by), mlp.up_proj.bias]),
        _scaled(down.weight, down_by),
        None if down.bias is None else _scaled(down.bias, down_by),
    )


def _scaled(weight: Tensor, by: float) -> Tensor:
    return weight if by == 1.0 else weight * by


def _joined(*biases: tuple[Tensor | None, int]) -> Tensor | None:
    """Biases end to end, zeros for those that are missing; None when all are."""
    some = next((bias for bias, _ in biases if bias is not None), None)
    if some is None:
        return None
    return torch.cat([some.new_zeros(width) if bias is None else bias for bias, width in biases])
