"""Whole weights to sample from, beside weights in shards.

    shards   fp32   1/n of each tensor on each of n processes: what is trained
    copy     bf16   every tensor whole, in the type that computes: what an engine in this process reads

After a step the copy takes the weights tensor by tensor, cast before they travel, so that besides the copy one tensor
is whole at a time. Then both are held against each other by sums over their bits, each multiplied by a number made of
its place: a bit, an order or a tensor that differs shows. Sums of shards add up to that of the whole, so a check moves
one number a tensor.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor

from h1r.models import CausalLM
from h1r.models.checksum import checksum
from h1r.models.shards import own_rows, whole
from h1r.train.parallel.precision import empty_like
from h1r.train.parallel.world import World


class SamplingCopy:
    """`model` has the weights in shards whole, in `dtype`, as of the last `refresh`, and no gradients.

    Every process of `world` makes one and refreshes it, in step.
    """

    def __init__(self, weights: CausalLM, dtype: torch.dtype, world: World) -> None:
        self.model = empty_like(weights, dtype).requires_grad_(False)
        self._dtype, self._world = dtype, world
        pairs = zip(self.model.named_parameters(), weights.parameters(), strict=True)
        self._pairs = [(name, mine, weight) for (name, mine), weight in pairs]
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Takes the weights as they are now, rounded as the passes round them, and checks that it has them. Raises
        `RuntimeError` on all processes where one has others."""
        for _, mine, weight in self._pairs:
            mine.copy_(whole(weight.to(self._dtype)))
        self.check()

    @torch.no_grad()
    def check(self) -> None:
        """Raises `RuntimeError` on all processes where the copy of one does not have the weights in training."""
        device = self.model.device
        sums = checksums({name: weight for name, _, weight in self._pairs}, self._world, self._dtype)
        shards = torch.tensor(list(sums.values()), device=device)
        copy = torch.tensor([checksum(mine.to(self._dtype)) for _, mine, _ in self._pairs], device=device)
        differing = (shards != copy).int()
        if self._world.everyone is not None:
            dist.all_reduce(differing, dist.ReduceOp.MAX, group=self._world.everyone)
        if names := [name for (name, _, _), bad in zip(self._pairs, differing.tolist(), strict=True) if bad]:
            raise RuntimeError(
                f"the engine's weights are not those in training after a sync: {names[0]} ({len(names)} in all)"
            )


def checksums(weights: Mapping[str, Tensor], world: World, dtype: torch.dtype | None = None) -> dict[str, int]:
    """`checksum` of each whole tensor, cast to `dtype` (None: as it is), the same on all processes of `world`, which
    hold them whole, or in shards."""

    def of_own_rows(weight: Tensor) -> int:
        mine, rows = own_rows(weight.detach())
        if world.spare or (rows is None and world.mesh is not None and world.rank):
            return 0  # there on several processes, and counted once
        mine = mine if dtype is None else mine.to(dtype)
        return checksum(mine, 0 if rows is None else rows.start * weight[0].numel())

    sums = torch.tensor([of_own_rows(weight) for weight in weights.values()])
    if world.mesh is not None:
        sums = sums.to(world.mesh.device_type)
        dist.all_reduce(sums, group=world.everyone)
    return dict(zip(weights, sums.tolist(), strict=True))
