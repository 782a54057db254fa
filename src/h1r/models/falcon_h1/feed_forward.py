"""The gated feed-forward part of a layer, with a multiplier on the gate; the layer applies the one on the way down."""

from __future__ import annotations

from torch import Tensor

from h1r.models.falcon_h1.config import HybridConfig
from h1r.models.falcon_h1.multipliers import scales_of
from h1r.models.layers.mlp import GatedMLP


class MLP(GatedMLP):
    """Parameter names are those of transformers' `falcon_h1`."""

    def __init__(self, config: HybridConfig) -> None:
        super().__init__(config.hidden_size, config.intermediate_size, config.mlp_bias)
        self.gate_scale = scales_of(config).gate

    def inner(self, u: Tensor, decoding: bool = False) -> Tensor:
        """[..., D] -> [..., F], before the down projection."""
        scale = self.gate_scale
        if decoding:
            return self.kernels.swiglu(scale.on_output(self.gate_proj(u)), self.up_proj(u))
        return self.kernels.swiglu(scale.linear(u, self.gate_proj), self.up_proj(u))
