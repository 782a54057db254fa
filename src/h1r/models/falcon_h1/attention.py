"""The hybrid's attention (Falcon-H1: theta 1e11, half rotation over the full head width) with its muP multipliers.

Shapes: T flat tokens, B sequences, D hidden, H query heads, K key/value heads, E head width.
"""

from __future__ import annotations

from torch import Tensor

from h1r.models.falcon_h1.config import HybridConfig
from h1r.models.falcon_h1.multipliers import scaled, scales_of
from h1r.models.layers.attention import GroupedQueryAttention


class Attention(GroupedQueryAttention):
    """Parameter names are those of transformers' `falcon_h1`."""

    def __init__(self, config: HybridConfig) -> None:
        super().__init__(config, config.attention_bias)
        self.config = config

    def project(self, h: Tensor, table: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """q [..., H, E], k and v [..., K, E] of [..., D], rotated and scaled."""
        key = scales_of(self.config).key
        h, e = scaled(h, key.before), self.config.head_dim  # the same for queries and values
        q, k, v = (p(h).unflatten(-1, (-1, e)) for p in (self.q_proj, self.k_proj, self.v_proj))
        return self.kernels.rotary(q, *table), self.kernels.rotary(key.on_output(k), *table), v
