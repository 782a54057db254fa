"""The norm and the gated feed-forward part of a layer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from h1r.kernels.contract import Kernels
from h1r.kernels.torch.operators import TORCH
from h1r.models.falcon_h1.config import HybridConfig


class RMSNorm(nn.Module):
    kernels: Kernels = TORCH

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return self.kernels.rms_norm(x, self.weight, self.eps)


class MLP(nn.Module):
    kernels: Kernels = TORCH

    def __init__(self, config: HybridConfig) -> None:
        super().__init__()
        d, ff, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        self.gate_proj = nn.Linear(d, ff, bias=bias)
        self.up_proj = nn.Linear(d, ff, bias=bias)
        self.down_proj = nn.Linear(ff, d, bias=bias)
        self.gate_multiplier = config.mlp_multipliers[0]

    def forward(self, u: Tensor, decoding: bool = False) -> Tensor:
        """[..., D] -> [..., ff], before the down projection."""
        if decoding:
            return self.kernels.swiglu(self.gate_proj(u) * self.gate_multiplier, self.up_proj(u))
        # The multiplier scales the weight, not the activations: one product per parameter instead of one per token.
        bias = None if self.gate_proj.bias is None else self.gate_proj.bias * self.gate_multiplier
        gate = F.linear(u, self.gate_proj.weight * self.gate_multiplier, bias)
        return self.kernels.swiglu(gate, self.up_proj(u))
