"""The fixed multipliers of a layer's matrices, and how they are folded into weights: the only place that does either.

    y = after * (W (before * x) + b)  =  (before * after * W) x + after * b

PyTorch's forward, the weights of a fused layer (`folded_weights`) and the packing of the C decoder (`decode`) all read
them here. Source: arXiv 2507.22448, section 3.2.3 (forward multipliers), and transformers' `falcon_h1`.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from h1r.models.falcon_h1.config import HybridConfig


class Scale(NamedTuple):
    """The factors of one linear layer: `before` on its input, `after` on its output, one number or one a row [out]."""

    before: float = 1.0
    after: float | Tensor = 1.0

    def of_weight(self) -> float | Tensor:
        """The factor on the weight: a number, or one a row [out]."""
        return self.after * self.before

    def weight(self, linear: nn.Linear) -> Tensor:
        """The weight with the factors folded in; itself where they are 1."""
        return self.scaled_weight(linear.weight)

    def bias(self, linear: nn.Linear) -> Tensor | None:
        """The bias with its factor folded in; None without one."""
        bias: Tensor | None = linear.bias
        return None if bias is None else self.on_output(bias)

    def linear(self, x: Tensor, linear: nn.Linear) -> Tensor:
        """after * (W (before * x) + b): the factors scale the weight, one product per parameter instead of one per
        token. The scaled weight is made again in the backward pass, so that no copy of it waits there."""
        factor, bias = self.of_weight(), self.bias(linear)
        if not isinstance(factor, Tensor) and factor == 1.0:
            return F.linear(x, linear.weight, bias)
        y: Tensor = _ScaledLinear.apply(x, linear.weight, self)
        return y if bias is None else y + bias

    def scaled_weight(self, weight: Tensor) -> Tensor:
        """`weight` with the factors folded in; itself where they are 1."""
        if isinstance(self.after, Tensor):
            return weight * (self.after.to(weight.dtype) * self.before)[:, None]
        return scaled(weight, self.after * self.before)

    def on_output(self, y: Tensor) -> Tensor:
        """after * y, for products that were not folded."""
        return y * self.after.to(y.dtype) if isinstance(self.after, Tensor) else scaled(y, self.after)


class _ScaledLinear(torch.autograd.Function):
    """x [..., D], weight [N, D] -> x (factors * weight)^T [..., N]. Keeps x and the weight."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, scale: Scale) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.scale = scale
        return F.linear(x, scale.scaled_weight(weight))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        grad = grads[0]
        d_x = grad @ ctx.scale.scaled_weight(weight) if ctx.needs_input_grad[0] else None
        if not ctx.needs_input_grad[1]:
            return d_x, None, None
        return d_x, ctx.scale.scaled_weight(grad.flatten(0, -2).t() @ x.flatten(0, -2)), None


class Scales(NamedTuple):
    """Of the matrices of one layer; those that are not here have none."""

    query: Scale
    key: Scale
    value: Scale
    attention_out: Scale
    mixer_in: Scale
    mixer_out: Scale
    gate: Scale
    down: Scale


@functools.cache
def scales_of(config: HybridConfig) -> Scales:
    """The factors of every layer of a model; `mixer_in` without `mup_vector`, which `Mamba2.in_scale` adds."""
    inward = config.attention_in_multiplier
    gate, down = config.mlp_multipliers
    return Scales(
        query=Scale(inward),
        key=Scale(inward, config.key_multiplier),
        value=Scale(inward),
        attention_out=Scale(after=config.attention_out_multiplier),
        mixer_in=Scale(config.ssm_in_multiplier),
        mixer_out=Scale(after=config.ssm_out_multiplier),
        gate=Scale(after=gate),
        down=Scale(after=down),
    )


def mup_vector(config: HybridConfig) -> Tensor:
    """The fixed scale of in_proj's outputs: segments [z | x | B | C | dt] times `ssm_multipliers`."""
    width = config.mamba_n_groups * config.mamba_d_state
    sizes = (config.mamba_d_ssm, config.mamba_d_ssm, width, width, config.mamba_n_heads)
    scales = zip(sizes, config.ssm_multipliers, strict=True)
    return torch.tensor([scale for size, scale in scales for _ in range(size)])


def scaled(tensor: Tensor, by: float) -> Tensor:
    """tensor * by; itself where `by` is 1."""
    return tensor if by == 1.0 else tensor * by
