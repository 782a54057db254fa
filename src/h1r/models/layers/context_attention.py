"""Context parallelism of a family: who shares its heads, and its attention with a share of them.

A family whose attention derives from `GroupedQueryAttention` mixes `ContextAttention` into it:

    class ContextQwenAttention(ContextAttention, QwenAttention): ...

`h1r.train.parallel.context` says how it works as a whole. Shapes as in `exchange.py`; D hidden, H query heads,
E attention head width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from h1r.kernels.layout import Layout
from h1r.models.layers.attention import GroupedQueryAttention
from h1r.models.layers.exchange import HeadExchange, columns_of, groups_of_share, share


@dataclass(frozen=True)
class ContextParallel:
    """heads: the counts that the degree must divide, by what they count ({"query heads": 12}), of a configuration.
    take_over: makes the layers of a model run over the process group, in place."""

    heads: Callable[[Any], dict[str, int]]
    take_over: Callable[[Any, dist.ProcessGroup], None]


class ContextAttention(GroupedQueryAttention):
    """Attention over the whole batch with this rank's share of the heads."""

    inward: HeadExchange
    outward: HeadExchange
    widths: list[int]
    """Columns of q, k and v that this rank receives."""

    @classmethod
    def take_over(cls, module: GroupedQueryAttention, group: dist.ProcessGroup) -> None:
        """Makes `module`, with its parameters and kernels, one of these."""
        degree, e = dist.get_world_size(group), module.head_dim
        heads, kv = module.q_proj.out_features // e, module.k_proj.out_features // e
        inward, outward, widths = [], [], []
        for rank in range(degree):
            q = columns_of(share(heads, rank, degree), e)
            used = [slice(g, g + 1) for g in groups_of_share(heads, kv, rank, degree)]
            k = [columns_of(g, e, heads * e) for g in used]
            v = [columns_of(g, e, (heads + kv) * e) for g in used]
            inward.append([q, *k, *v])
            outward.append([q])
            widths.append([q.stop - q.start, len(used) * e, len(used) * e])
        module.__class__ = cls
        assert isinstance(module, cls)
        module.inward, module.outward = HeadExchange(group, inward), HeadExchange(group, outward)
        module.widths = widths[module.inward.rank]

    def forward(self, h_tD: Tensor, layout: Layout, table: tuple[Tensor, Tensor]) -> Tensor:
        """As `GroupedQueryAttention.forward`, on this rank's tokens; `layout` and `table` are the whole batch's."""
        mine = share(layout.num_tokens, self.inward.rank, self.inward.degree)
        cos, sin = table
        q, k, v = self.project(h_tD, (cos[mine], sin[mine]))
        row_tW = torch.cat([q.flatten(-2), k.flatten(-2), v.flatten(-2)], dim=-1)
        row_TW = self.inward.to_heads(row_tW, layout.num_tokens)
        q, k, v = (part.unflatten(-1, (-1, self.head_dim)) for part in row_TW.split(self.widths, dim=-1))
        return self.outward.to_tokens(self.kernels.attention(q, k, v, layout).flatten(-2))
