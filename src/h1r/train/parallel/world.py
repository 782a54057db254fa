"""The processes that train one model together: a grid of data-parallel x context-parallel ranks.

    rank = data_rank * context_degree + context_rank

The ranks of one row share sequences (`context.py`); other rows take other sequences. Sharing is the heavier traffic, so
it is neighbours that share. Parameters are replicated over the whole grid and gradients summed over all of it, or both
are in shards over all of it (`shard`), or over each of several equal parts of it (`replicate`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from h1r.common.prose import counted
from h1r.config import ParallelSection
from h1r.errors import UserError
from h1r.models import CausalLM
from h1r.models.device import default_device
from h1r.models.layers.exchange import share
from h1r.train.parallel.context import parallelize
from h1r.train.parallel.gradients import Sharded, Trained, shard_parameters, sync_gradients, weights_of

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """This process's place in the grid. `World()` is a process alone, for which everything is the identity."""

    data_rank: int = 0
    data_degree: int = 1
    context_rank: int = 0
    context_degree: int = 1
    context: dist.ProcessGroup | None = None
    everyone: dist.ProcessGroup | None = None
    mesh: DeviceMesh | None = None
    """Where parameters are sharded: all processes in one dimension, or (copies, shards of a copy); None: they are
    replicated."""
    beside: World | None = None
    """The same grid for what goes on in another thread while this one trains: where parameters are sharded, on a mesh
    and a group of its own over gloo. None: nothing does."""

    @property
    def main(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.data_rank == 0 and self.context_rank == 0

    @property
    def rank(self) -> int:
        """Of this process among all of the grid."""
        return self.data_rank * self.context_degree + self.context_rank

    @property
    def size(self) -> int:
        """Processes of the grid."""
        return self.data_degree * self.context_degree

    @property
    def spare(self) -> bool:
        """Whether another process has the same shards, and counts for this one."""
        return self.mesh is not None and self.mesh.ndim == 2 and self.mesh.get_local_rank(0) > 0

    def parallelize(self, model: CausalLM) -> CausalLM:
        """See `context.parallelize`; a context degree of 1 leaves the model as it is."""
        return model if self.context is None or self.context_degree == 1 else parallelize(model, self.context)

    def shard(self, model: CausalLM, compute_dtype: torch.dtype | None = None) -> CausalLM | Sharded:
        """See `shard_parameters`; the model as it is where parameters are replicated."""
        return model if self.mesh is None else shard_parameters(model, self.mesh, compute_dtype)

    def deal(self, items: Sequence[T]) -> Sequence[T]:
        """The items (prompts) of this process, of a row's ranks each some."""
        return items[self.rank :: self.size]

    def idle_rounds(self, rounds: Sequence[int]) -> int:
        """How many forward and backward passes without a micro-batch of its own this row of the grid must run along,
        of the rounds that each row has: every pass gathers sharded parameters from all processes. 0 where they are
        replicated."""
        return 0 if self.mesh is None else max(rounds) - rounds[self.data_rank]

    def share(self, num_tokens: int) -> slice:
        """The flat tokens of a micro-batch that this rank holds."""
        return share(num_tokens, self.context_rank, self.context_degree)

    def sync_gradients(self, model: Trained) -> None:
        """Sums gradients over the grid; those of sharded parameters are summed already."""
        if self.everyone is not None and not isinstance(model, Sharded):
            sync_gradients(weights_of(model), self.everyone)

    def sum(self, value: float) -> float:
        """Of a number over the grid, the same on every rank."""
        return self.sums([value])[0]

    def sums(self, values: Sequence[float]) -> list[float]:
        """Of several numbers, each over the grid."""
        if self.everyone is None:
            return list(values)
        totals = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(totals, group=self.everyone)
        found: list[float] = totals.tolist()
        return found

    def gather(self, mine: Sequence[T]) -> list[T]:
        """What all processes made of what `deal` gave them, together again in its order. Objects travel pickled."""
        said = self._said(mine)
        return [said[i % len(said)][i // len(said)] for i in range(sum(map(len, said)))]

    def rows(self, mine: Sequence[T]) -> list[list[T]]:
        """What the first rank of each row of the grid has. Objects travel pickled."""
        return self._said(mine)[:: self.context_degree]

    def _said(self, mine: Sequence[T]) -> list[list[T]]:
        if self.everyone is None:
            return [list(mine)]
        said: list[list[T]] = [[]] * self.size
        dist.all_gather_object(said, list(mine), group=self.everyone)
        return said

    def joined(self, own: Tensor, start: int, total: int) -> Tensor:
        """[total] numbers of one per token, of which each rank of the row has those from its `start` on. The backward
        pass gives a rank the gradient of its own: a loss of all of them must be the same on the whole row, and counts
        once."""
        if self.context is None or self.context_degree == 1:
            return own
        whole: Tensor = _Joined.apply(own, start, total, self.context)
        return whole

    def told(self, value: T) -> T:
        """What the main process has as `value`, on all of them."""
        if self.everyone is None:
            return value
        said = [value]
        dist.broadcast_object_list(said, src=0, group=self.everyone)
        return said[0]

    @contextmanager
    def agreed(self) -> Iterator[None]:
        """A `UserError` inside the block on any rank is raised on all of them, so that none waits for one that left."""
        mine: UserError | None = None
        try:
            yield
        except UserError as error:
            mine = error
        if self.everyone is None:
            if mine is not None:
                raise mine
            return
        said: list[str | None] = [None] * dist.get_world_size(self.everyone)
        dist.all_gather_object(said, None if mine is None else str(mine), group=self.everyone)
        if mistakes := [text for text in said if text is not None]:
            raise UserError(mistakes[0])


class _Joined(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor, start: int, total: int, group: dist.ProcessGroup) -> Tensor:
        ctx.place = slice(start, start + len(own))
        whole = own.new_zeros(total)
        whole[ctx.place] = own
        dist.all_reduce(whole, group=group)  # zeros elsewhere, so nothing is rounded
        return whole

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return grads[0][ctx.place], None, None, None


ALONE = World()


def degrees(section: ParallelSection, processes: int) -> tuple[int, int]:
    """(data, context) degrees on so many processes. Raises `UserError` when they do not multiply to it."""
    context = section.context
    data = processes // context if section.data == -1 else section.data
    if data < 1 or data * context != processes:
        wanted = f"a multiple of {context} processes" if section.data == -1 else counted(data * context, "process")
        raise UserError(
            f"[parallel] context = {context}, data = {section.data} needs {wanted}, and there "
            f"{'is 1' if processes == 1 else f'are {processes}'}; change [parallel], or start as many with "
            "`torchrun --nproc-per-node N -m h1r ...`"
        )
    return data, context


def check_copies(section: ParallelSection, processes: int) -> None:
    """Raises `UserError` when `parallel.replicate` does not divide the processes."""
    if processes % section.replicate:
        raise UserError(
            f"parallel.replicate = {section.replicate} copies of the shards do not divide "
            f"{counted(processes, 'process')}; give a divisor"
        )


def _mesh(
    section: ParallelSection, everyone: dist.ProcessGroup, timeout: timedelta, kind: str, backend: str | None = None
) -> DeviceMesh:
    """Every process must call it. Neighbours make up a copy, so that weights are gathered over short ways."""
    if section.replicate == 1:
        return DeviceMesh.from_group(everyone, kind)
    ranks = torch.arange(dist.get_world_size()).view(section.replicate, -1)
    copies = [dist.new_group(one.tolist(), timeout, backend) for one in ranks]
    across = [dist.new_group(one.tolist(), timeout, backend) for one in ranks.T]
    copy, shard = divmod(dist.get_rank(), ranks.shape[1])
    return DeviceMesh.from_group([across[shard], copies[copy]], kind, mesh=ranks, mesh_dim_names=("copy", "shard"))


def open_world(section: ParallelSection) -> World:
    """The grid of this run out of the processes that torch.distributed knows, or of this one alone.

    Every process must call it. Raises `UserError` (see `degrees`) on all of them alike.
    """
    if not (dist.is_available() and dist.is_initialized()):
        degrees(section, 1)
        check_copies(section, 1)
        return World(beside=ALONE) if section.async_checkpoint else ALONE
    data, context = degrees(section, dist.get_world_size())
    check_copies(section, dist.get_world_size())
    rank, timeout = dist.get_rank(), timedelta(seconds=section.timeout_s)
    rows = [dist.new_group(list(range(row * context, (row + 1) * context)), timeout) for row in range(data)]
    everyone = dist.new_group(timeout=timeout)
    mesh = _mesh(section, everyone, timeout, default_device().type) if section.shard else None
    world = World(rank // context, data, rank % context, context, rows[rank // context], everyone, mesh)
    if not section.async_checkpoint:
        return world
    beside = replace(world, context=None, everyone=None)
    if mesh is not None:
        group = dist.new_group(timeout=timeout, backend="gloo")
        beside = replace(beside, everyone=group, mesh=_mesh(section, group, timeout, "cpu", "gloo"))
    return replace(world, beside=beside)
