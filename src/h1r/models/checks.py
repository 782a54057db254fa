"""What a family tells `h1r parity` of itself: the operators of its own on the model's shapes, and weights in which
every branch has a say. Operators that all families have (attention, RMSNorm, SwiGLU) are checked without being told.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from h1r.kernels.contract import Kernels
from h1r.kernels.layout import Layout


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


class Inputs(Protocol):
    """Where an operator's inputs come from: seeded noise for `tokens` tokens, of the model's dtype or `dtype`."""

    tokens: int

    def noise(self, *shape: int, stream: int = 0, dtype: torch.dtype | None = None) -> Tensor: ...


@dataclass(frozen=True)
class FamilyChecks:
    """operators: by name ("convolution", "scan", "gate"), (model, inputs) -> the operator. "exact_scan" is a scan whose
    definition fits in memory; the same as "scan" where that is small. step: (model, inputs) -> the recurrent state
    of two sequences and the inputs of `Kernels.step` for tokens that follow each other. unit_scale: scales random
    weights so that each linear layer's output has unit size after its multiplier.
    """

    operators: Mapping[str, Callable[[Any, Inputs], Operator]] = field(default_factory=dict)
    step: Callable[[Any, Inputs], tuple[Tensor, list[list[Tensor]]]] | None = None
    unit_scale: Callable[[Any], None] | None = None


def copies(*tensors: Tensor) -> list[Tensor]:
    """Parameters as inputs of their own."""
    return [t.detach().clone() for t in tensors]
