"""What every model is to trainers, engines and checks: `CausalLM`, a `Backbone` and a head.

A family derives both. It gets from here kernels, padding, random weights and their parts, and formulas of memory for a
decoder of attention and an MLP; what it does differently it overrides. `docs/guide/add-a-model.md` walks through it.

Shapes: T flat tokens of documents laid end to end, B rows, D hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from h1r.kernels.contract import Kernels
from h1r.kernels.layout import Layout
from h1r.kernels.torch.operators import TORCH
from h1r.models.cache import KVCache
from h1r.models.config import ModelConfig


class Backbone(nn.Module):
    """A model without its head: `model.*` in a checkpoint."""

    embed_tokens: nn.Embedding
    layers: nn.ModuleList

    def forward(self, ids_T: Tensor, layout: Layout) -> Tensor:
        """Hidden states [T, D] after the final norm, for documents laid end to end; none sees another."""
        raise NotImplementedError

    def cached(self, ids_BT: Tensor, cache: Any, num_new: Tensor | None, length: int | None = None) -> Tensor:
        """Hidden states [B, T, D] of T new tokens per row; the cache (B slots) takes them in and grows.

        Row b has `num_new[b]` real tokens, the rest is padding on the right (None: all are real). `length`: positions
        of the cache that attention goes through, no fewer than any row then holds. None asks the device for the longest
        row, which the host has to wait for. Raises `ValueError` when the cache does not hold so many."""
        raise NotImplementedError


class CausalLM(nn.Module):
    """A whole model. `state_dict()` has exactly the tensors of the family's checkpoints; `lm_head` has no bias."""

    cache_type: ClassVar[type[KVCache]] = KVCache
    wide_parameters: ClassVar[tuple[str, ...]] = ()
    """Last parts of the names of parameters that keep the type they are stored in when a checkpoint is loaded."""
    computed_buffers: ClassVar[tuple[str, ...]] = ()
    """Last parts of the names of buffers that follow from the config; tensors of these names in a checkpoint are passed
    over."""

    config: ModelConfig
    model: Backbone
    lm_head: nn.Linear
    kernels: Kernels = TORCH
    """What the operators run on; set by `use`."""

    def tie_weights(self) -> None:
        """Makes the head share the embedding's tensor where the config says so (moving off meta unshares it)."""
        if self.config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    def restore_buffers(self) -> None:
        """Fills the buffers that are computed from the config, after a model was built on the meta device."""

    def materialise(self, device: torch.device | str) -> Self:
        """Memory for a model that was built on the meta device: its buffers have their values, its parameters not yet.

        `Module.to_empty` goes through torch's decompositions, which import sympy.
        """
        self._apply(lambda like: torch.empty(like.shape, dtype=like.dtype, device=device))
        self.tie_weights()
        self.restore_buffers()
        return self

    @property
    def logits_scale(self) -> float:
        """A fixed factor on the logits."""
        return 1.0

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., D] -> [..., V]."""
        linear = self.kernels.linear or F.linear
        scale = self.logits_scale
        return linear(hidden if scale == 1.0 else hidden * scale, self.lm_head.weight)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Logits [B, T, V] of a batch [B, T].

        `attention_mask` [B, T] marks real tokens with 1; padding may stand left or right. Padded positions are taken
        out before the model runs, so they cannot leak into anything; their logits are zero.
        """
        rows, T = input_ids.shape
        if attention_mask is None:
            layout = Layout.of([T] * rows, input_ids.device)
            return self.logits(self.model(input_ids.flatten(), layout)).view(rows, T, -1)
        real = attention_mask.bool()
        lengths = [n for n in real.sum(1).tolist() if n > 0]
        hidden = self.model(input_ids[real], Layout.of(lengths, input_ids.device))
        logits = hidden.new_zeros(rows, T, self.config.vocab_size)
        logits[real] = self.logits(hidden)
        return logits

    def keeps_type(self, name: str) -> bool:
        """Whether the parameter of this name keeps its type where the others are cast (`wide_parameters`)."""
        return name.rpartition(".")[2] in self.wide_parameters

    def cast(self, dtype: torch.dtype) -> Self:
        """Casts the parameters in place; those that keep their type become no narrower than `dtype`, which kernels read
        all of them in. Before kernels are chosen."""
        for name, parameter in self.named_parameters():
            wide = torch.promote_types(parameter.dtype, dtype) if self.keeps_type(name) else dtype
            parameter.data = parameter.data.to(wide)
        return self

    def use(self, kernels: Kernels) -> Self:
        """Runs every operator through `kernels` from now on; a new model starts with the portable ones."""
        for module in self.modules():
            if hasattr(type(module), "kernels"):
                module.kernels = kernels  # type: ignore[assignment]
        return self

    @property
    def device(self) -> torch.device:
        return self.model.embed_tokens.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.embed_tokens.weight.dtype

    def new_cache(self, slots: int, max_length: int) -> KVCache:
        """An empty cache of the model's type and device."""
        return self.cache_type.allocate(self.config, slots, max_length, self.dtype, self.device)

    def init_weights(self, generator: torch.Generator | None = None) -> Self:
        """Random weights for training from scratch (`init_module`)."""
        _init(self, type(self), self.config, generator)
        return self

    @classmethod
    def init_module(cls, module: nn.Module, config: ModelConfig, generator: torch.Generator | None) -> None:
        """Random values for the tensors that `module` itself holds: linear layers and embeddings are
        normal(0, initializer_range), biases 0; norms stay as they are built."""
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, 0.0, config.initializer_range, generator=generator)
            if getattr(module, "bias", None) is not None:
                nn.init.zeros_(cast(Tensor, module.bias))

    @classmethod
    def parts(cls, config: ModelConfig) -> list[tuple[str, Callable[[], nn.Module]]]:
        """The model in parts that are built one after the other, by name, in the order of `modules()`. One part, the
        model itself, where a family does not say more; a start in shards then holds it whole for a moment."""
        return [("", lambda: cls(config))]

    @classmethod
    def random_parts(cls, config: ModelConfig, generator: torch.Generator) -> Iterator[tuple[str, nn.Module]]:
        """The `parts` with the weights that `init_weights` gives them: for a model of which no process holds the whole.
        With tied embeddings the head's weights are those of both."""
        for name, make in cls.parts(config):
            part = make()
            _init(part, cls, config, generator)
            yield name, part

    def fsdp_units(self) -> list[nn.Module]:
        """The modules whose parameters FSDP2 gathers together, besides what is left over at the root."""
        return list(self.model.layers)

    def step_bytes(self, length: int) -> int:
        """What a decoding step in PyTorch holds at once at most, in bytes per row, with `length` cached positions.
        Attention is taken to be a fused kernel's, which keeps no scores."""
        c, element = self.config, self.dtype.itemsize
        part = max(attention_step_bytes(c, element, length), 4 * element * c.intermediate_size)
        return 6 * element * c.hidden_size + part + length

    def prefill_bytes(self, rows: int, columns: int, length: int) -> int:
        """What a prefill in PyTorch holds at once at most besides its cache, in bytes: `columns` tokens of each of
        `rows` prompts, of `length` in all."""
        c, element, T = self.config, self.dtype.itemsize, rows * columns
        attention = T * attention_step_bytes(c, element, length) + repeated_keys_bytes(c, element, rows * length)
        part = max(attention, 4 * element * T * c.intermediate_size)
        return 3 * element * T * c.hidden_size + T * length + part


def attention_step_bytes(config: ModelConfig, element: int, length: int) -> int:
    """Of one token, what cached attention holds at once: its projections, rotated, and the mask as numbers."""
    heads, keys = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    return 3 * element * (heads + 2 * keys) + (1 + element) * length


def repeated_keys_bytes(config: ModelConfig, element: int, positions: int) -> int:
    """Of a prefill on a card: keys and values of so many positions of the cache, once for every query head."""
    return 2 * element * positions * config.num_attention_heads * config.head_dim


def _init(part: nn.Module, cls: type[CausalLM], config: ModelConfig, generator: torch.Generator | None) -> None:
    """In the order of `modules()`, from one generator: parts in order get the weights of the whole."""
    for module in part.modules():
        cls.init_module(module, config, generator)
