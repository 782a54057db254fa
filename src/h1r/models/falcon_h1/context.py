"""The hybrid with 1/c of its query heads and of its SSM heads on each of c ranks (`h1r.train.parallel.context`).

Memory: a mixer holds the whole sequence, but only H/c heads of it, which is as many numbers as one rank's tokens with
all heads, plus what is replicated: 2 G S columns of B and C, and key/value heads beyond c. The state of the scan is
H/c heads. z never moves, because the gated RMSNorm needs all channels of one token, which its own rank has.

Shapes as in `layers/exchange.py`; H SSM heads, M = d_ssm, P SSM head width, G groups, S d_state.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from h1r.kernels.layout import Layout
from h1r.models.falcon_h1.attention import Attention
from h1r.models.falcon_h1.config import HybridConfig
from h1r.models.falcon_h1.hybrid import HybridForCausalLM
from h1r.models.falcon_h1.mamba2 import Mamba2, Recurrence
from h1r.models.layers.context_attention import ContextAttention, ContextParallel
from h1r.models.layers.exchange import HeadExchange, columns_of, groups_of_share, share


class ContextHybridAttention(ContextAttention, Attention):
    """The hybrid's attention with this rank's share of the query heads."""


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
        x = [columns_of(s, config.mamba_d_head) for s in mine]
        channels = [
            [x_r, *(columns_of(slice(g, g + 1), n, at) for at in (B_at, C_at) for g in used)]
            for x_r, used in zip(x, groups, strict=True)
        ]
        dt = [columns_of(s, 1, config.conv_dim) for s in mine]
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


def _pick(whole: Tensor, slices: Sequence[slice]) -> Tensor:
    return torch.cat([whole[s] for s in slices])


def _heads(config: HybridConfig) -> dict[str, int]:
    return {"query heads": config.num_attention_heads, "SSM heads": config.mamba_n_heads}


def _take_over(model: HybridForCausalLM, group: dist.ProcessGroup) -> None:
    for module in list(model.modules()):
        if isinstance(module, Attention):
            ContextHybridAttention.take_over(module, group)
        elif isinstance(module, Mamba2):
            ContextMamba2.take_over(module, group)


CONTEXT_PARALLEL = ContextParallel(_heads, _take_over)
