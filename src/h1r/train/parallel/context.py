"""Context parallelism: c ranks train on one packed sequence, each with 1/c of its tokens and of its heads.

Outside the mixers every rank computes on its own share of the flat tokens: norms, projections, MLP, residuals, head
and loss are local. Inside a mixer it sees every token of its share of the heads (`exchange.py`):

    attention   q, k, v [t, .]  -> [T, share]   causal attention per document   -> [t, H E]
    Mamba-2     x, B, C, dt [t, .] -> [T, share]   convolution, scan, D x       -> [t, M], then the gate with local z

So the convolution and the scan run over whole documents, wherever the borders between ranks and between documents
fall. Nothing about the mathematics changes: the loss and every gradient equal those of one process, up to the order of
sums. z never moves, because the gated RMSNorm needs all channels of one token, which its own rank has.

The idea of exchanging heads for tokens is DeepSpeed-Ulysses' (arXiv 2309.14509), there for attention alone. Its bound
stands: c must divide the query heads and the SSM heads. Key/value heads and B/C groups are fewer; a rank gets those
that its heads use, and their gradients are summed over the ranks that used them.

Memory: a mixer holds the whole sequence, but only H/c heads of it, which is as many numbers as one rank's tokens with
all heads, plus what is replicated: 2 G S columns of B and C, and key/value heads beyond c. The state of the scan is
H/c heads. Left out: overlap of the exchange with arithmetic, and ring attention, which would lift the bound on c.

Parameters are replicated. A rank's gradient is its share; the sum over the ranks is the gradient (`gradients.py`),
given a loss that every rank divides by the token count of the whole batch.

Shapes as in `exchange.py`; D hidden, H query or SSM heads, E attention head width, M = d_ssm, P SSM head width,
G groups, S d_state.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from h1r.errors import UserError
from h1r.kernels.layout import Layout
from h1r.models import HybridForCausalLM
from h1r.models.falcon_h1.attention import Attention
from h1r.models.falcon_h1.config import HybridConfig
from h1r.models.falcon_h1.mamba2 import Mamba2, Recurrence
from h1r.train.parallel.exchange import HeadExchange, share


def degrees_allowed(config: HybridConfig) -> list[int]:
    """The context-parallel degrees at which every rank gets as many heads as any other, 1 included."""
    common = math.gcd(config.num_attention_heads, config.mamba_n_heads)
    return [degree for degree in range(1, common + 1) if common % degree == 0]


def check_degree(config: HybridConfig, degree: int) -> None:
    """Raises `UserError` when `degree` ranks cannot share the heads evenly."""
    allowed = degrees_allowed(config)
    if degree not in allowed:
        raise UserError(
            f"parallel.context = {degree} does not divide both the {config.num_attention_heads} query heads and the "
            f"{config.mamba_n_heads} SSM heads of this model; set it to {_either(allowed)}"
        )


def parallelize(model: HybridForCausalLM, group: dist.ProcessGroup) -> HybridForCausalLM:
    """Makes the model's training forward context-parallel over `group`, in place, and returns it.

    From then on `model.model(ids[share(T, rank, degree)], layout)` takes this rank's tokens and the layout of the whole
    batch, and returns their hidden states; every rank of the group must run it, forward and backward, in step.
    Decoding with a cache stays what it was. Raises `UserError` for a degree that does not fit the heads.
    """
    check_degree(model.config, dist.get_world_size(group))
    for module in list(model.modules()):
        if isinstance(module, Attention):
            ContextAttention.take_over(module, group)
        elif isinstance(module, Mamba2):
            ContextMamba2.take_over(module, group)
    return model


class ContextAttention(Attention):
    """Attention over the whole batch with this rank's share of the heads."""

    inward: HeadExchange
    outward: HeadExchange
    widths: list[int]
    """Columns of q, k and v that this rank receives."""

    @classmethod
    def take_over(cls, module: Attention, group: dist.ProcessGroup) -> None:
        """Makes `module`, with its parameters and kernels, one of these."""
        config, degree = module.config, dist.get_world_size(group)
        heads, kv, e = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        inward, outward, widths = [], [], []
        for rank in range(degree):
            q = _scaled(share(heads, rank, degree), e)
            used = [slice(g, g + 1) for g in groups_of_share(heads, kv, rank, degree)]
            k = [_scaled(g, e, heads * e) for g in used]
            v = [_scaled(g, e, (heads + kv) * e) for g in used]
            inward.append([q, *k, *v])
            outward.append([q])
            widths.append([q.stop - q.start, len(used) * e, len(used) * e])
        module.__class__ = cls
        assert isinstance(module, cls)
        module.inward, module.outward = HeadExchange(group, inward), HeadExchange(group, outward)
        module.widths = widths[module.inward.rank]

    def forward(self, h_tD: Tensor, layout: Layout, table: tuple[Tensor, Tensor]) -> Tensor:
        """As `Attention.forward`, on this rank's tokens; `layout` and `table` are those of the whole batch."""
        mine = share(layout.num_tokens, self.inward.rank, self.inward.degree)
        cos, sin = table
        q, k, v = self.project(h_tD, (cos[mine], sin[mine]))
        row_tW = torch.cat([q.flatten(-2), k.flatten(-2), v.flatten(-2)], dim=-1)
        row_TW = self.inward.to_heads(row_tW, layout.num_tokens)
        q, k, v = (part.unflatten(-1, (-1, self.config.head_dim)) for part in row_TW.split(self.widths, dim=-1))
        return self.outward.to_tokens(self.kernels.attention(q, k, v, layout).flatten(-2))


class ContextMamba2(Mamba2):
    """Convolution and scan over the whole batch with this rank's share of the heads; projection and gate are local."""

    inward: HeadExchange
    outward: HeadExchange
    heads: slice
    channels: list[slice]
    """Of the convolution: x of this rank's heads, then B and C of their groups."""
    groups: int

    @classmethod
    def take_over(cls, module: Mamba2, group: dist.ProcessGroup) -> None:
        """Makes `module`, with its parameters and kernels, one of these."""
        config, degree = module.config, dist.get_world_size(group)
        heads, n = config.mamba_n_heads, config.mamba_d_state
        B_at, C_at = config.mamba_d_ssm, config.mamba_d_ssm + config.mamba_n_groups * n
        mine = [share(heads, rank, degree) for rank in range(degree)]
        groups = [groups_of_share(heads, config.mamba_n_groups, rank, degree) for rank in range(degree)]
        x = [_scaled(s, config.mamba_d_head) for s in mine]
        channels = [
            [x_r, *(_scaled(slice(g, g + 1), n, at) for at in (B_at, C_at) for g in used)]
            for x_r, used in zip(x, groups, strict=True)
        ]
        dt = [_scaled(s, 1, config.conv_dim) for s in mine]
        module.__class__ = cls
        assert isinstance(module, cls)
        module.inward = HeadExchange(group, [[*c, dt_r] for c, dt_r in zip(channels, dt, strict=True)])
        module.outward = HeadExchange(group, [[x_r] for x_r in x])
        rank = module.inward.rank
        module.heads, module.channels, module.groups = mine[rank], channels[rank], len(groups[rank])

    def forward(self, h_tD: Tensor, layout: Layout) -> Tensor:
        """As `Mamba2.forward`, on this rank's tokens; `layout` is that of the whole batch."""
        z, xBC, dt = self.project(h_tD)
        row_TW = self.inward.to_heads(torch.cat([xBC, dt], dim=-1), layout.num_tokens)
        heads = self.heads.stop - self.heads.start
        xBC, dt = row_TW.split([row_TW.shape[-1] - heads, heads], dim=-1)
        y_THP = self.mix(xBC, dt, layout, self.recurrence_share())
        return self.gate(self.outward.to_tokens(y_THP.flatten(-2)), z)

    def recurrence_share(self) -> Recurrence:
        """The parameters of `mix` for this rank's heads. Gradients flow to the whole parameters, zero elsewhere."""
        whole = self.recurrence()
        conv_bias = None if whole.conv_bias is None else _pick(whole.conv_bias, self.channels)
        dt_bias, A_log, D = (t[self.heads] for t in (whole.dt_bias, whole.A_log, whole.D))
        return Recurrence(_pick(whole.conv_weight, self.channels), conv_bias, dt_bias, A_log, D, self.groups)


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


def _scaled(heads: slice, width: int, offset: int = 0) -> slice:
    """The columns of `heads`, each `width` wide, in rows where head 0 starts at `offset`."""
    return slice(offset + heads.start * width, offset + heads.stop * width)


def _pick(whole: Tensor, slices: Sequence[slice]) -> Tensor:
    return torch.cat([whole[s] for s in slices])


def _either(degrees: list[int]) -> str:
    *others, last = map(str, degrees)
    return f"{', '.join(others)} or {last}" if others else last
