"""One gradient from many ranks: summed into replicated parameters, or into FSDP2's shards.

Every rank divides its loss by the token count of the whole batch, over all data- and context-parallel ranks. Its
gradient is then its share, and the gradient is the plain sum, whatever the two degrees are: an average would be wrong
by a factor and is never taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from h1r.errors import UserError
from h1r.models import CausalLM

T = TypeVar("T")
BUCKET = 64 << 20
"""Bytes that one all-reduce carries; a larger parameter goes alone."""


def sync_gradients(model: nn.Module, group: dist.ProcessGroup) -> None:
    """Replaces every gradient by its sum over `group`: all ranks that hold a share of the batch.

    A parameter that had no part in this rank's loss counts as zero. Gradients are summed in their own type.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    for p in parameters:
        if p.grad is None:
            p.grad = torch.zeros_like(p)
    for bucket in _buckets([p.grad for p in parameters if p.grad is not None]):
        flat = torch.cat([grad.reshape(-1) for grad in bucket])
        dist.all_reduce(flat, group=group)
        for grad, part in zip(bucket, flat.split([grad.numel() for grad in bucket]), strict=True):
            grad.copy_(part.view_as(grad))


def _buckets(grads: list[Tensor]) -> Iterator[list[Tensor]]:
    """Neighbours of one type, up to `BUCKET` bytes together."""
    bucket: list[Tensor] = []
    size = 0
    for grad in grads:
        if bucket and (grad.dtype != bucket[0].dtype or size + grad.nbytes > BUCKET):
            yield bucket
            bucket, size = [], 0
        bucket.append(grad)
        size += grad.nbytes
    if bucket:
        yield bucket


class Sharded(nn.Module):
    """A model whose parameters lie in shards: `sharded(function, ...)` is `function(model, ...)` with whole ones.

    What `function` returns may be differentiated. Outside of it, parameters and gradients are DTensors.
    """

    def __init__(self, model: CausalLM) -> None:
        super().__init__()
        self.model = model

    def forward(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return function(self.model, *arguments)


def call(model: CausalLM | Sharded, function: Callable[..., T], *arguments: Any) -> T:
    """`function(model, ...)` with whole parameters, sharded or not."""
    return model(function, *arguments) if isinstance(model, Sharded) else function(model, *arguments)


def shard_parameters(model: CausalLM, mesh: DeviceMesh, compute_dtype: torch.dtype | None = None) -> Sharded:
    """FSDP2 over a one-dimensional mesh: a rank keeps 1/n of each parameter, gradient and optimiser state.

    mesh: data- and context-parallel ranks flattened into one dimension, since both hold replicas. compute_dtype: what
    gathered weights are cast to (None: as stored); gradients are then reduced in fp32. Gradients are summed, not
    averaged, and `sync_gradients` has no part in it. `model` itself is changed; call this after `parallelize`. All
    ranks must run the same number of forward and backward passes. Raises `UserError` where torch is too old to sum.
    """
    from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard  # takes seconds to import

    if not hasattr(FSDPModule, "set_force_sum_reduction_for_comms"):
        raise UserError(f"sharded parameters need torch 2.9 or newer, not {torch.__version__}; update torch")
    # Inputs keep their types: the rotary table stays in fp32 whatever the weights are.
    reduce_dtype = None if compute_dtype is None else torch.float32
    precision = MixedPrecisionPolicy(compute_dtype, reduce_dtype, cast_forward_inputs=False)
    for unit in model.fsdp_units():
        fully_shard(unit, mesh=mesh, mp_policy=precision)
    sharded: Any = fully_shard(Sharded(model), mesh=mesh, mp_policy=precision, reshard_after_forward=False)
    for module in sharded.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
    return sharded
