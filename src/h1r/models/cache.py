"""The hybrid cache: what a sequence leaves behind for its next token.

Per layer and slot: keys and values [K, L, E] (grow with length), the last d_conv - 1 inputs of the convolution
[d_conv-1, N], and the recurrent state [heads, P, S]. The recurrent state is never narrower than fp32: a bf16 state
drifts between prefill and decode.

A slot is a row of every tensor. Forking a sequence is copying its row; the rows [0, n) of a cache are a cache (`rows`),
as views. `tensors` is what a sequence in progress has to leave on disk, and `restore` goes on from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from h1r.models.falcon_h1.config import HybridConfig


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
            conv=zeros(c.mamba_d_conv - 1, c.conv_dim),
            ssm=zeros(c.mamba_n_heads, c.mamba_d_head, c.mamba_d_state, kind=_state_dtype(dtype)),
            lengths=torch.zeros(slots, dtype=torch.long, device=device),
        )

    @staticmethod
    def bytes_per_slot(config: HybridConfig, max_length: int, dtype: torch.dtype) -> int:
        """Memory of one slot: 2 K L E + N (d_conv-1) elements of `dtype` and heads P S of fp32 (fp64
        for an fp64 model), per layer."""
        c = config
        moving = 2 * c.num_key_value_heads * max_length * c.head_dim + c.conv_dim * (c.mamba_d_conv - 1)
        state = c.mamba_n_heads * c.mamba_d_head * c.mamba_d_state
        return c.num_hidden_layers * (moving * dtype.itemsize + state * _state_dtype(dtype).itemsize) + 8

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

    def fork_(self, first: int, count: int, other: HybridCache, row: int, length: int) -> None:
        """Copies slot `row` of `other`, whose first `length` positions are in use, to slots [first, first + count)."""
        end = first + count
        for mine, theirs in ((self.keys, other.keys), (self.values, other.values)):
            for a, b in zip(mine, theirs, strict=True):
                a[first:end, :, :length] = b[row, :, :length]
        for mine, theirs in ((self.conv, other.conv), (self.ssm, other.ssm)):
            for a, b in zip(mine, theirs, strict=True):
                a[first:end] = b[row]
        self.lengths[first:end] = other.lengths[row]

    def tensors(self) -> dict[str, Tensor]:
        """Everything that the next token depends on, by name: copies without the unused positions, ready for
        `safetensors.torch.save_file` or `torch.save`."""
        views = self._views(int(self.lengths.max()))
        return {name: view.clone(memory_format=torch.contiguous_format) for name, view in views.items()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes over what `tensors` of another cache returned: same model, dtype and number of slots; `max_length` may
        differ. Raises `KeyError` for a missing tensor and `ValueError` for one that does not fit; then nothing changed.
        """
        views = self._views(int(tensors["lengths"].max()))
        for name, view in views.items():
            found = tensors[name]
            if (found.shape, found.dtype) != (view.shape, view.dtype):
                raise ValueError(
                    f"state {name} is {found.dtype} {list(found.shape)}, "
                    f"this cache takes {view.dtype} {list(view.shape)}"
                )
        for name, view in views.items():
            view.copy_(tensors[name])

    def _views(self, used: int) -> dict[str, Tensor]:
        """All tensors by name, keys and values up to position `used`."""
        views = {"lengths": self.lengths}
        for layer in range(len(self.keys)):
            views |= {
                f"layers.{layer}.keys": self.keys[layer][:, :, :used],
                f"layers.{layer}.values": self.values[layer][:, :, :used],
                f"layers.{layer}.conv": self.conv[layer],
                f"layers.{layer}.ssm": self.ssm[layer],
            }
        return views


def _state_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
