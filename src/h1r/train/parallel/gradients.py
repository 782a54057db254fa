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
from h1r.kernels.torch.operators import at_least_fp32
from h1r.models import CausalLM
from h1r.train.lora import Adapted, Adapters
from h1r.train.parallel.precision import ComputeCopy, fitting

T = TypeVar("T")
BUCKET = 64 << 20
"""Bytes that one all-reduce carries; a larger parameter goes alone."""


def sync_gradients(model: nn.Module, group: dist.ProcessGroup) -> None:
    """Replaces every gradient by its sum over `group`: all ranks that hold a share of the batch.

    A parameter that had no part in this rank's loss counts as zero. Sums are taken in fp32 or wider.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    for p in parameters:
        if p.grad is None:
            p.grad = torch.zeros_like(p)
    for bucket in _buckets([p.grad for p in parameters if p.grad is not None]):
        flat = at_least_fp32(torch.cat([grad.reshape(-1) for grad in bucket]))
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

    @property
    def weights(self) -> CausalLM:
        """The model whose parameters are optimised."""
        return self.model


_BETWEEN = (Sharded, ComputeCopy, Adapted)
Trained = CausalLM | Sharded | ComputeCopy | Adapted
"""What a trainer's forward pass is called through (`call`): the model itself, or what stands between."""


def call(model: Trained, function: Callable[..., T], *arguments: Any) -> T:
    """`function(model, ...)` with the parameters that compute: whole ones, in the type they compute in."""
    return model(function, *arguments) if isinstance(model, _BETWEEN) else function(model, *arguments)


def give_back(model: Trained) -> None:
    """After passes without a backward pass: gathered shards are given back. FSDP2 keeps those of the root for a
    backward pass, and the next step would not see what the optimiser has changed."""
    for module in model.modules() if isinstance(model, Sharded) else ():
        if callable(reshard := getattr(module, "reshard", None)):
            reshard()


def computing_model(model: Trained) -> CausalLM:
    """The model that runs forward and backward, and that an engine may sample from."""
    return model.model if isinstance(model, _BETWEEN) else model


def weights_of(model: Trained) -> CausalLM | Adapters:
    """Whose parameters are optimised and checkpointed."""
    return model.weights if isinstance(model, _BETWEEN) else model


def published_model(model: Trained) -> CausalLM:
    """What a stage publishes: the weights, or the sums with adapters."""
    if isinstance(model, Adapted):
        return model.model
    return model.weights if isinstance(model, Sharded | ComputeCopy) else model


def shard_parameters(model: CausalLM, mesh: DeviceMesh, compute_dtype: torch.dtype | None = None) -> Sharded:
    """FSDP2 over a mesh of one dimension, or HSDP over one of (copies, shards): a rank keeps 1/n of each parameter,
    gradient and optimiser state, n shards.

    mesh: data- and context-parallel ranks flattened, since both hold replicas. compute_dtype: what
    gathered weights are cast to (None: as stored). Gradients are reduced in fp32 or wider, summed, not averaged, and
    `sync_gradients` has no part in it. `model` itself is changed; call this after `parallelize`. All ranks must run the
    same number of forward and backward passes. Raises `UserError` where torch is too old to sum, and for weights of
    several types.
    """
    from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard  # takes seconds to import

    if not hasattr(FSDPModule, "set_force_sum_reduction_for_comms"):
        raise UserError(f"sharded parameters need torch 2.9 or newer, not {torch.__version__}; update torch")
    kinds = {parameter.dtype for parameter in model.parameters()}
    if len(kinds) > 1:
        names = " and ".join(sorted(str(kind).removeprefix("torch.") for kind in kinds))
        raise UserError(
            f"the checkpoint holds weights in {names}, and shards take one type; set "
            f"sft.compute_dtype, or rl.compute_dtype, to {fitting(mesh.device_type)}, which keeps all of them in "
            "float32"
        )
    # Inputs keep their types: the rotary table stays in fp32 whatever the weights are.
    reduce_dtype = torch.float32 if (compute_dtype or model.dtype).itemsize < 4 else None
    precision = MixedPrecisionPolicy(compute_dtype, reduce_dtype, cast_forward_inputs=False)
    for unit in model.fsdp_units():
        fully_shard(unit, mesh=mesh, mp_policy=precision)
    sharded: Any = fully_shard(Sharded(model), mesh=mesh, mp_policy=precision, reshard_after_forward=False)
    for module in sharded.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
    return sharded
