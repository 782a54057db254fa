"""fp32 weights in training, beside a copy that computes in a narrower type.

    weights   fp32   what the optimiser steps, what checkpoints keep and stages publish
    copy      bf16   what runs forward and backward, and what an engine samples from

A step of 2e-6 on a bf16 weight of 0.02 is a sixtieth of its last bit, and is lost. So weights are kept in fp32, and so
are their gradients, into which every pass adds its own. Weights in shards have the same from FSDP2
(`shard_parameters`), which casts them layer by layer.

Bytes a parameter with AdamW: 2 for the copy, 4 for the weight, 4 for its gradient, 8 for the optimiser.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from h1r.models import CausalLM
from h1r.models.registry import family_of

T = TypeVar("T")


def fitting(device_type: str) -> str:
    """The `compute_dtype` that keeps weights in fp32 and that a device computes fastest in: on CPUs our kernels want
    fp32."""
    return "float32" if device_type == "cpu" else "bfloat16"


class ComputeCopy:
    """`copy(function, ...)` is `function(copy.model, ...)`; its gradients arrive in `weights`, in their type.

    Parameters that keep their type (`CausalLM.wide_parameters`) have that of `weights` in the copy too.
    """

    def __init__(self, weights: CausalLM, dtype: torch.dtype) -> None:
        self.weights = weights
        self.model = empty_like(weights, dtype).train()
        self._pairs = list(zip(self.model.parameters(), weights.parameters(), strict=True))
        for mine, weight in self._pairs:
            mine.register_post_accumulate_grad_hook(partial(_hand_over, weight))
        self.refresh()

    def __call__(self, function: Callable[..., T], *arguments: Any) -> T:
        return function(self.model, *arguments)

    @torch.no_grad()
    def refresh(self) -> None:
        """Takes the weights as they are now, rounded."""
        for mine, weight in self._pairs:
            mine.copy_(weight)

    def follow(self, optimizer: torch.optim.Optimizer) -> None:
        """From now on every step of `optimizer` refreshes the copy."""
        optimizer.register_step_post_hook(lambda *_: self.refresh())


def _hand_over(weight: Tensor, mine: Tensor) -> None:
    grad, mine.grad = mine.grad, None
    assert grad is not None
    if weight.grad is None:
        weight.grad = grad.to(weight.dtype)
    else:
        weight.grad.add_(grad)


def empty_like(weights: CausalLM, dtype: torch.dtype) -> CausalLM:
    """A whole model of the same config in another type, on the same device, whose parameters have no values yet."""
    with torch.device("meta"):
        model: CausalLM = family_of(weights.config).model_class(weights.config)
    return model.cast(dtype).materialise(weights.device)
