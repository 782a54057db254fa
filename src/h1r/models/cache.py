"""What a sequence leaves behind for its next token, in slots that the engine fills and empties.

Per layer and slot: keys and values [K, L, E], which grow with the length, and whatever state of a fixed size the family
keeps beside them (`state_shapes`). A slot is a row of every tensor. Forking a sequence is copying its row; the rows
[0, n) of a cache are a cache (`rows`), as views. `tensors` is what a sequence in progress has to leave on disk, and
`restore` goes on from it.

Shapes: K key/value heads, L positions, E head width.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Self

import torch
from torch import Tensor

from h1r.models.config import ModelConfig


class KVCache:
    """Keys and values of every layer, and `states`: by name, a list of tensors [slots, ...], one for each layer.

    lengths [slots]: tokens held by each slot.
    """

    def __init__(
        self, keys: list[Tensor], values: list[Tensor], lengths: Tensor, states: dict[str, list[Tensor]] | None = None
    ) -> None:
        self.keys, self.values, self.lengths = keys, values, lengths
        self.states = states or {}

    @classmethod
    def state_shapes(cls, config: ModelConfig) -> dict[str, tuple[tuple[int, ...], bool]]:
        """Of each state of a layer: its shape for one slot, and whether it is kept in fp32 or wider."""
        return {}

    @classmethod
    def allocate(
        cls, config: ModelConfig, slots: int, max_length: int, dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> Self:
        """An empty cache; memory is `bytes_per_slot` times `slots`."""

        def zeros(shape: tuple[int, ...], kind: torch.dtype = dtype) -> list[Tensor]:
            return [torch.zeros(slots, *shape, dtype=kind, device=device) for _ in range(config.num_hidden_layers)]

        growing = (config.num_key_value_heads, max_length, config.head_dim)
        return cls(
            zeros(growing),
            zeros(growing),
            torch.zeros(slots, dtype=torch.long, device=device),
            {
                name: zeros(shape, _state_dtype(dtype) if wide else dtype)
                for name, (shape, wide) in cls.state_shapes(config).items()
            },
        )

    @classmethod
    def bytes_per_slot(cls, config: ModelConfig, max_length: int, dtype: torch.dtype) -> int:
        """Memory of one slot: 2 K L E elements of `dtype` and the states, per layer, and its length."""
        layer = 2 * config.num_key_value_heads * max_length * config.head_dim * dtype.itemsize
        for shape, wide in cls.state_shapes(config).values():
            layer += prod(shape) * (_state_dtype(dtype) if wide else dtype).itemsize
        return config.num_hidden_layers * layer + 8

    @property
    def max_length(self) -> int:
        return self.keys[0].shape[2]

    def rows(self, n: int) -> Self:
        """The first n slots, as views."""
        keys, values, *states = ([t[:n] for t in group] for group in (self.keys, self.values, *self.states.values()))
        return type(self)(keys, values, self.lengths[:n], dict(zip(self.states, states, strict=True)))

    def copy_rows_(self, target: Tensor, other: Self, source: Tensor, length: int) -> None:
        """Copies slots `source` of `other`, whose first `length` positions are in use, to slots `target` of self."""
        for mine, theirs in self._growing(other):
            mine[target, :, :length] = theirs[source, :, :length]
        for mine, theirs in self._fixed(other):
            mine[target] = theirs[source]
        self.lengths[target] = other.lengths[source]

    def fork_(self, first: int, count: int, other: Self, row: int, length: int) -> None:
        """Copies slot `row` of `other`, whose first `length` positions are in use, to slots [first, first + count)."""
        end = first + count
        for mine, theirs in self._growing(other):
            mine[first:end, :, :length] = theirs[row, :, :length]
        for mine, theirs in self._fixed(other):
            mine[first:end] = theirs[row]
        self.lengths[first:end] = other.lengths[row]

    def _growing(self, other: Self) -> list[tuple[Tensor, Tensor]]:
        return list(zip((*self.keys, *self.values), (*other.keys, *other.values), strict=True))

    def _fixed(self, other: Self) -> list[tuple[Tensor, Tensor]]:
        return [pair for name, mine in self.states.items() for pair in zip(mine, other.states[name], strict=True)]

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
            views[f"layers.{layer}.keys"] = self.keys[layer][:, :, :used]
            views[f"layers.{layer}.values"] = self.values[layer][:, :, :used]
            views |= {f"layers.{layer}.{name}": state[layer] for name, state in self.states.items()}
        return views


def _state_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
