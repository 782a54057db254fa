"""Between shares of tokens and shares of heads: one all-to-all and its adjoint, over the ranks of one sequence.

Rank r of c holds the tokens [r T / c, (r+1) T / c) of a batch of T flat tokens and, inside a mixer, all T tokens of
its share of the heads. A rank's columns are given as slices of one wide row, and the columns of two ranks may overlap:
that is how a key/value head or a B/C group with more ranks than heads of its own is replicated.

    to_heads   x [t, W] -> [T, W_r]    every rank receives its columns of every token
    to_tokens  y [T, W_r] -> [t, W]    the way back; columns that several ranks hold are summed

Each is the adjoint of the other, so each is the other's backward: the gradient of a replicated column is the sum over
the ranks that used it, without a rule of its own. Shares of tokens may be uneven and even empty, so nothing is padded.
The sum runs in rank order and in fp32 or wider: the same result on every run.

Shapes: T flat tokens, t those of this rank, W columns of a whole row, W_r columns of rank r.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from h1r.kernels.torch.operators import at_least_fp32


def share(num_tokens: int, rank: int, degree: int) -> slice:
    """The flat tokens that `rank` of `degree` ranks holds: contiguous, in order, sizes at most one apart."""
    return slice(num_tokens * rank // degree, num_tokens * (rank + 1) // degree)


class HeadExchange:
    """The columns of each rank, and the exchange over their process group.

    group: the ranks that share a sequence. columns: per rank, slices of a row in the order in which the rank wants
    them. Slices may repeat, within a rank and between ranks; together they cover the row.
    """

    def __init__(self, group: dist.ProcessGroup, columns: Sequence[Sequence[slice]]) -> None:
        self.group = group
        self.rank, self.degree = dist.get_rank(group), dist.get_world_size(group)
        if len(columns) != self.degree:
            raise ValueError(f"columns for {len(columns)} ranks, but the group has {self.degree}")
        self.columns = [list(slices) for slices in columns]
        self.widths = [sum(s.stop - s.start for s in slices) for slices in columns]
        self.row_width = max(s.stop for slices in columns for s in slices)
        self._overlap = sum(self.widths) > self.row_width

    def to_heads(self, x_tW: Tensor, num_tokens: int) -> Tensor:
        """[t, W] -> [T, W_r]; every rank of the group must call it. `num_tokens` is T."""
        tokens = self._tokens(num_tokens)
        if x_tW.shape != (tokens[self.rank], self.row_width):
            raise ValueError(
                f"rank {self.rank} of {self.degree} holds {tokens[self.rank]} of {num_tokens} tokens in rows of "
                f"{self.row_width}, but got {tuple(x_tW.shape)}; cut the batch with `share` first"
            )
        gathered: Tensor = _ToHeads.apply(x_tW, self, num_tokens)
        return gathered

    def to_tokens(self, y_TW: Tensor) -> Tensor:
        """[T, W_r] -> [t, W]; every rank of the group must call it."""
        returned: Tensor = _ToTokens.apply(y_TW, self)
        return returned

    def gather(self, x_tW: Tensor, num_tokens: int) -> Tensor:
        """`to_heads` without autograd."""
        tokens = self._tokens(num_tokens)
        mine = tokens[self.rank]
        sizes = [mine * width for width in self.widths]
        send = x_tW.new_empty(sum(sizes))
        for block, slices, width in zip(send.split(sizes), self.columns, self.widths, strict=True):
            torch.cat([x_tW[:, s] for s in slices], dim=-1, out=block.view(mine, width))
        width = self.widths[self.rank]
        received = x_tW.new_empty(num_tokens, width)
        self._all_to_all(received.view(-1), send, [n * width for n in tokens], sizes)
        return received

    def scatter(self, y_TW: Tensor) -> Tensor:
        """`to_tokens` without autograd."""
        num_tokens, width = y_TW.shape
        tokens = self._tokens(num_tokens)
        mine = tokens[self.rank]
        sizes = [mine * w for w in self.widths]
        received = y_TW.new_empty(sum(sizes))
        self._all_to_all(received, y_TW.reshape(-1), sizes, [n * width for n in tokens])
        summed = at_least_fp32(y_TW[:0]).dtype if self._overlap else y_TW.dtype
        row_tW = y_TW.new_zeros(mine, self.row_width, dtype=summed)
        for block, slices, w in zip(received.split(sizes), self.columns, self.widths, strict=True):
            parts = block.view(mine, w).split([s.stop - s.start for s in slices], dim=-1)
            for s, part in zip(slices, parts, strict=True):
                row_tW[:, s] += part
        return row_tW.to(y_TW.dtype)

    def _tokens(self, num_tokens: int) -> list[int]:
        shares = [share(num_tokens, rank, self.degree) for rank in range(self.degree)]
        return [s.stop - s.start for s in shares]

    def _all_to_all(self, received: Tensor, send: Tensor, received_sizes: list[int], send_sizes: list[int]) -> None:
        dist.all_to_all_single(received, send, received_sizes, send_sizes, group=self.group)


class _ToHeads(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_tW: Tensor, exchange: HeadExchange, num_tokens: int) -> Tensor:
        ctx.exchange = exchange
        return exchange.gather(x_tW, num_tokens)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TW: Tensor) -> tuple[Tensor, None, None]:
        return ctx.exchange.scatter(grad_TW), None, None


class _ToTokens(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y_TW: Tensor, exchange: HeadExchange) -> Tensor:
        ctx.exchange, ctx.num_tokens = exchange, y_TW.shape[0]
        return exchange.scatter(y_TW)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_tW: Tensor) -> tuple[Tensor, None]:
        return ctx.exchange.gather(grad_tW, ctx.num_tokens), None


def groups_of_share(num_heads: int, num_groups: int, rank: int, degree: int) -> list[int]:
    """The groups that a rank needs for its h heads: as few as let its head i belong to entry i * len // h.

    A group stands there more than once where shares and groups cut each other unevenly.
    """
    mine = share(num_heads, rank, degree)
    group_of_head = [head * num_groups // num_heads for head in range(mine.start, mine.stop)]
    heads = len(group_of_head)
    for count in range(1, heads + 1):
        if heads % count == 0:
            run = heads // count
            groups = group_of_head[::run]
            if [groups[head // run] for head in range(heads)] == group_of_head:
                return groups
    raise AssertionError("one group per head always holds")


def columns_of(heads: slice, width: int, offset: int = 0) -> slice:
    """The columns of `heads`, each `width` wide, in rows where head 0 starts at `offset`."""
    return slice(offset + heads.start * width, offset + heads.stop * width)
