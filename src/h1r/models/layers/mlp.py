"""The gated MLP (SwiGLU): down(up(u) * SiLU(gate(u))). Shapes: D hidden, F feed-forward width."""

from __future__ import annotations

from torch import Tensor, nn

from h1r.kernels.contract import Kernels
from h1r.kernels.torch.operators import TORCH


class GatedMLP(nn.Module):
    """Parameter names are those of transformers."""

    kernels: Kernels = TORCH

    def __init__(self, hidden_size: int, intermediate_size: int, bias: bool = False) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden_size, intermediate_size, bias=bias)
        self.up_proj = nn.Linear(hidden_size, intermediate_size, bias=bias)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=bias)

    def inner(self, u: Tensor) -> Tensor:
        """[..., D] -> [..., F], before the down projection."""
        return self.kernels.swiglu(self.gate_proj(u), self.up_proj(u))

    def forward(self, u: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        out: Tensor = self.down_proj(self.inner(u))
        return out
