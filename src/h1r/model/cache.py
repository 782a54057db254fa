"""The hybrid cache: what a sequence leaves behind for its next token.

Per layer and slot: keys and values [K, L, E] (grow with length), the last d_conv - 1 inputs of the convolution
[N, d_conv-1], and the recurrent state [heads, P, S]. The recurrent state stays in fp32 whatever the model's dtype: a
bf16 state drifts between prefill and decode.

A slot is a row of every tensor. Forking a sequence is copying its row; the rows [0, n) of a cache are a cache (`rows`),
as views.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from h1r.model.config import HybridConfig


@dataclass
class HybridCache:
    keys: list[Tensor]
    values: list[Tensor]
    conv: list[Tensor]
    ssm: list[Tensor]
    lengths: Tensor
    """[slots] tokens held by each slot."""

    @classmethod
    def allocate(
        cls, config: HybridConfig, slots: int, max_length: int, dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> HybridCache:
        """An empty cache; memory is `bytes_per_slot` times `slots`."""
        c, layers = config, range(config.num_hidden_layers)

        def zeros(*shape: int, kind: torch.dtype = dtype) -> list[Tensor]:
            return [torch.zeros(slots, *shape, dtype=kind, device=device) for _ in layers]

        return cls(
            keys=zeros(c.num_key_value_heads, max_length, c.head_dim),
            values=zeros(c.num_key_value_heads, max_length, c.head_dim),
            conv=zeros(c.conv_dim, c.mamba_d_conv - 1),
            ssm=zeros(c.mamba_n_heads, c.mamba_d_head, c.mamba_d_state, kind=torch.float32),
            lengths=torch.zeros(slots, dtype=torch.long, device=device),
        )

    @staticmethod
    def bytes_per_slot(config: HybridConfig, max_length: int, dtype: torch.dtype) -> int:
        """Memory of one slot: 2 K L E + N (d_conv-1) elements of `dtype` and heads P S of fp32, per layer."""
        c = config
        moving = 2 * c.num_key_value_heads * max_length * c.head_dim + c.conv_dim * (c.mamba_d_conv - 1)
        state = c.mamba_n_heads * c.mamba_d_head * c.mamba_d_state
        return c.num_hidden_layers * (moving * dtype.itemsize + state * 4) + 8

    @property
    def max_length(self) -> int:
        return self.keys[0].shape[2]

    def rows(self, n: int) -> HybridCache:
        """The first n slots, as views."""
        groups = ([t[:n] for t in group] for group in (self.keys, self.values, self.conv, self.ssm))
        keys, values, conv, ssm = groups
        return HybridCache(keys, values, conv, ssm, self.lengths[:n])

    def copy_rows_(self, target: Tensor, other: HybridCache, source: Tensor, length: int) -> None:
        """Copies slots `source` of `other`, whose first `length` positions are in use, to slots `target` of self."""
        for mine, theirs in ((self.keys, other.keys), (self.values, other.values)):
            for a, b in zip(mine, theirs, strict=True):
                a[target, :, :length] = b[source, :, :length]
        for mine, theirs in ((self.conv, other.conv), (self.ssm, other.ssm)):
            for a, b in zip(mine, theirs, strict=True):
                a[target] = b[source]
        self.lengths[target] = other.lengths[source]
