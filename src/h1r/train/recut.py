"""Reads what an optimiser keeps from shards that were cut otherwise.

torch.distributed.checkpoint reads the rows of a saved shard that a process wants. Moments of 8 bits (torchao's, of a
shard with at least 4,096 numbers in whole blocks of 256, and in fp32 otherwise) can be taken apart between blocks only,
and cuts between rows seldom fall there. So a saved shard that is wanted in part is read whole, in fp32, and its part
copied; what is to be kept in 8 bits is brought to them when all its parts have been read. Whole shards, and cuts that
do fall between blocks, keep their bits.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.metadata import MetadataIndex, TensorStorageMetadata
from torch.distributed.checkpoint.planner import LoadPlan, ReadItem

from h1r.train.optim import in_codes


class Recut(DefaultLoadPlanner):
    """A plan of `torch.distributed.checkpoint.load` for one state; `finish` when that has returned."""

    def __init__(self) -> None:
        super().__init__()
        self._wanted: dict[ReadItem, ReadItem] = {}
        self._wide: dict[MetadataIndex, Tensor] = {}

    def finish_plan(self, new_plan: LoadPlan) -> LoadPlan:
        """Asks for whole shards in the place of parts."""
        return dataclasses.replace(new_plan, items=[self._whole(item) for item in new_plan.items])

    def _whole(self, item: ReadItem) -> ReadItem:
        assert self.metadata is not None
        saved = self.metadata.state_dict_metadata[item.dest_index.fqn]
        if not isinstance(saved, TensorStorageMetadata) or not item.lengths:
            return item
        size = next(chunk.sizes for chunk in saved.chunks if chunk.offsets == item.storage_index.offset)
        target = self.lookup_tensor(item.dest_index)
        if item.lengths == size == target.shape or (in_codes(target) and _between_blocks(item, target)):
            return item
        whole = dataclasses.replace(item, storage_offsets=torch.Size([0] * len(size)), lengths=size)
        self._wanted[whole] = item
        return whole

    def resolve_tensor(self, read_item: ReadItem) -> Tensor:
        """Where a shard is read to."""
        if read_item not in self._wanted:
            target: Tensor = super().resolve_tensor(read_item)
            return target
        return torch.empty(read_item.lengths, dtype=self.lookup_tensor(read_item.dest_index).dtype)

    def commit_tensor(self, read_item: ReadItem, tensor: Tensor) -> None:
        """Takes of it what is wanted."""
        if (item := self._wanted.get(read_item)) is None:
            return
        target = self.lookup_tensor(item.dest_index)
        if in_codes(target):
            target = self._wide.setdefault(item.dest_index, torch.zeros(target.shape, dtype=target.dtype))
        _part(target, item.dest_offsets, item.lengths).copy_(_part(tensor, item.storage_offsets, item.lengths))

    def finish(self) -> None:
        """Brings what was put together to its 8 bits."""
        for index, wide in self._wide.items():
            self.lookup_tensor(index).copy_(wide)


def _between_blocks(item: ReadItem, moments: Any) -> bool:
    """Whether rows that are wanted begin and end with blocks, there and here."""
    row = moments.numel() // moments.shape[0]
    cuts = item.storage_offsets[0], item.dest_offsets[0], item.lengths[0]
    return all(rows * row % moments.block_size == 0 for rows in cuts)


def _part(tensor: Tensor, offsets: torch.Size, lengths: torch.Size) -> Tensor:
    return tensor[tuple(slice(start, start + length) for start, length in zip(offsets, lengths, strict=True))]
