"""Grouped-query attention with rotary positions, over flat documents and over a cache.

A family derives from `GroupedQueryAttention` and says how queries, keys and values come about (`project`).

Shapes: T flat tokens, B sequences, D hidden, H query heads, K key/value heads, E head width, L cache length.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from h1r.kernels.contract import Kernels
from h1r.kernels.layout import Layout
from h1r.kernels.torch.operators import TORCH
from h1r.models.cache import KVCache
from h1r.models.config import ModelConfig


def rotary_table(head_dim: int, theta: float, positions: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin [..., E/2] in fp32 for integer positions [...], where whole heads rotate."""
    exponent = torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32) / head_dim
    angle = positions[..., None].float() * (1.0 / theta**exponent)
    return angle.cos(), angle.sin()


class GroupedQueryAttention(nn.Module):
    """Parameter names are those of transformers. `forward` and `cached` return the heads' outputs, before `o_proj`."""

    kernels: Kernels = TORCH

    def __init__(self, config: ModelConfig, bias: bool) -> None:
        super().__init__()
        d, e = config.hidden_size, config.head_dim
        self.head_dim = e
        self.q_proj = nn.Linear(d, config.num_attention_heads * e, bias=bias)
        self.k_proj = nn.Linear(d, config.num_key_value_heads * e, bias=bias)
        self.v_proj = nn.Linear(d, config.num_key_value_heads * e, bias=bias)
        self.o_proj = nn.Linear(config.num_attention_heads * e, d, bias=bias)

    def project(self, h: Tensor, table: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """q [..., H, E], k and v [..., K, E] of [..., D], rotated by the `table` of cos and sin."""
        raise NotImplementedError

    def forward(self, h_TD: Tensor, layout: Layout, table: tuple[Tensor, Tensor]) -> Tensor:
        """Causal attention inside each document of flat tokens. Returns the heads' outputs [T, H*E]."""
        return self.kernels.attention(*self.project(h_TD, table), layout).flatten(-2)

    def cached(
        self, h_BTD: Tensor, table: tuple[Tensor, Tensor], keys: Tensor, values: Tensor, start_B: Tensor, mask: Tensor
    ) -> Tensor:
        """T new tokens per sequence after `start_B` cached ones; keys and values are written into the cache
        [B, K, L, E] in place. `mask` [B, 1, T, L] is True where a query may look. Returns [B, T, H*E]."""
        q_BTHE, k_BTKE, v_BTKE = self.project(h_BTD, table)
        rows, T, heads, _ = q_BTHE.shape
        groups = keys.shape[1]
        length = mask.shape[-1]
        row = torch.arange(rows, device=h_BTD.device)
        if T == 1:
            keys[row, :, start_B] = k_BTKE[:, 0].to(keys.dtype)
            values[row, :, start_B] = v_BTKE[:, 0].to(values.dtype)
            # The query heads of a group look through the same mask, so they stand where query positions would:
            # keys need no repetition.
            q = q_BTHE.view(rows, groups, heads // groups, -1)
            out = F.scaled_dot_product_attention(q, keys[:, :, :length], values[:, :, :length], attn_mask=mask)
            return out.reshape(rows, 1, -1)
        place_BT = start_B[:, None] + torch.arange(T, device=h_BTD.device)
        keys[row[:, None], :, place_BT] = k_BTKE.to(keys.dtype)
        values[row[:, None], :, place_BT] = v_BTKE.to(values.dtype)
        out = masked_attention(
            q_BTHE.transpose(1, 2), keys[:, :, :length], values[:, :, :length], mask, keys.device.type != "cpu"
        )
        return out.transpose(1, 2).reshape(rows, T, -1)


def masked_attention(q_BHTE: Tensor, k_BKLE: Tensor, v_BKLE: Tensor, mask: Tensor, repeat: bool) -> Tensor:
    """[B, H, T, E] of queries that look where `mask` [B, 1, T, L] is True.

    repeat: keys and values are repeated for the query heads of their group. A card wants it: PyTorch has no fused
    kernel there that takes a mask and grouped heads together, and would write all scores [B, H, T, L] in fp32.
    """
    if not repeat:
        return F.scaled_dot_product_attention(q_BHTE, k_BKLE, v_BKLE, attn_mask=mask, enable_gqa=True)
    k_BHLE, v_BHLE = (t.repeat_interleave(q_BHTE.shape[1] // t.shape[1], 1) for t in (k_BKLE, v_BKLE))
    return F.scaled_dot_product_attention(q_BHTE, k_BHLE, v_BHLE, attn_mask=mask)


class CachedStep:
    """What the layers of one cached forward share: where each row starts, how many tokens are new, who sees whom.

    length: positions of the cache that attention goes through; None asks the device for the longest row. Raises
    `ValueError` when the cache does not hold so many.
    """

    def __init__(self, cache: KVCache, T: int, num_new: Tensor | None, length: int | None) -> None:
        device = cache.lengths.device
        self.start = cache.lengths.clone()
        self.num_new = num_new
        self.positions = self.start[:, None] + torch.arange(T, device=device)
        if length is None:
            length = int(self.start.max()) + T
        self.mask = torch.arange(length, device=device) <= self.positions[:, None, :, None]
        if length > cache.max_length:
            raise ValueError(f"the cache holds {cache.max_length} tokens, {length} are needed")
