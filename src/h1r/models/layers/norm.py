"""RMSNorm: x / sqrt(mean(x^2) + eps) * weight over the last dimension."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from h1r.kernels.contract import Kernels
from h1r.kernels.torch.operators import TORCH


class RMSNorm(nn.Module):
    """The arithmetic is `Kernels.rms_norm`."""

    kernels: Kernels = TORCH

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return self.kernels.rms_norm(x, self.weight, self.eps)
