"""Whole weights to sample from, beside weights in shards.

    shards   fp32   1/n of each tensor on each of n processes: what is trained
    copy     bf16   every tensor whole, in the type that computes: what an engine in this process reads

After a step the copy takes the weights tensor by tensor, cast before they travel, so that besides the copy one tensor
is whole at a time. Then both are held against each other by sums over their bits, each multiplied by a number made of
its place: a bit, an order or a tensor that differs shows. Sums of shards add up to that of the whole, so a check moves
one number a tensor.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from h1r.models import CausalLM
from h1r.models.shards import own_rows
from h1r.train.parallel.precision import empty_like
from h1r.train.parallel.world import World

_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
_ODD = -7046029254386353131  # 2^64 over the golden ratio, as a signed number: Knuth's multiplier of hashes
_PART = 1 << 22


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
        from torch.distributed.tensor import DTensor

        for _, mine, weight in self._pairs:
            narrow = weight.to(self._dtype)
            mine.copy_(narrow.full_tensor() if isinstance(narrow, DTensor) else narrow)
        self.check()

    @torch.no_grad()
    def check(self) -> None:
        """Raises `RuntimeError` on all processes where the copy of one does not have the weights in training."""
        device = self.model.device
        shards = torch.tensor([self._of_own_rows(weight) for _, _, weight in self._pairs], device=device)
        copy = torch.tensor([checksum(mine.to(self._dtype)) for _, mine, _ in self._pairs], device=device)
        if self._world.everyone is not None:
            dist.all_reduce(shards, group=self._world.everyone)
        differing = (shards != copy).int()
        if self._world.everyone is not None:
            dist.all_reduce(differing, dist.ReduceOp.MAX, group=self._world.everyone)
        if names := [name for (name, _, _), bad in zip(self._pairs, differing.tolist(), strict=True) if bad]:
            raise RuntimeError(
                f"the engine's weights are not those in training after a sync: {names[0]} ({len(names)} in all)"
            )

    def _of_own_rows(self, weight: Tensor) -> int:
        mine, rows = own_rows(weight)
        if rows is None and self._world.rank:
            return 0  # whole on every process, and counted once
        return checksum(mine.to(self._dtype), 0 if rows is None else rows.start * weight[0].numel())


def checksum(tensor: Tensor, first: int = 0) -> int:
    """sum_i bits_i * (2 (first + i) odd + 1) modulo 2^64, signed: elements are numbered from `first` on, so the sums of
    a tensor's parts add up to that of the tensor."""
    flat = tensor.detach().contiguous().view(-1)
    bits = flat.view(_BITS[flat.element_size()])
    total = 0
    for start in range(0, len(bits), _PART):
        part = bits[start : start + _PART].long()
        place = torch.arange(first + start, first + start + len(part), device=part.device)
        total += int((part * (2 * place * _ODD + 1)).sum())
    return (total + (1 << 63)) % (1 << 64) - (1 << 63)
