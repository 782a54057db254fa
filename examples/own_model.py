"""A model family in one file: a plain GPT with learned positions, LayerNorm and a GELU MLP.

    h1r curate examples/own_model.toml && h1r sft examples/own_model.toml && h1r rl examples/own_model.toml

Written here: the configuration, the layers, the training forward over documents laid end to end, the forward over a
cache. From `CausalLM` come padding, random weights, checkpoints, sharding and the memory formulas.
"""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import torch.nn.functional as F
from torch import Tensor, nn

from h1r.kernels.layout import Layout
from h1r.models.cache import KVCache
from h1r.models.causal_lm import Backbone, CausalLM
from h1r.models.config import ModelConfig, check_rules, take_types
from h1r.models.layers.attention import CachedStep, GroupedQueryAttention
from h1r.models.registry import ModelFamily, register


@dataclasses.dataclass(frozen=True)
class GPTConfig(ModelConfig):
    model_type = "own_gpt"

    vocab_size: int = 384
    hidden_size: int = 64
    intermediate_size: int = 256
    num_hidden_layers: int = 2
    num_attention_heads: int = 2
    num_key_value_heads: int = 2
    head_dim: int = 32
    tie_word_embeddings: bool = True
    max_position_embeddings: int = 1024
    initializer_range: float = 0.08
    pad_token_id: int | None = 0
    bos_token_id: int | None = 1
    eos_token_id: int | tuple[int, ...] | None = 2

    def __post_init__(self) -> None:
        take_types(self, ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "head_dim"))
        groups = self.num_attention_heads % self.num_key_value_heads == 0
        check_rules({"num_attention_heads must be a multiple of num_key_value_heads": groups})


class GPTAttention(GroupedQueryAttention):
    def project(self, h: Tensor, table: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = (p(h).unflatten(-1, (-1, self.head_dim)) for p in (self.q_proj, self.k_proj, self.v_proj))
        return q, k, v  # positions are learned: nothing rotates


class Block(nn.Module):
    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(config.hidden_size), nn.LayerNorm(config.hidden_size)
        self.attention = GPTAttention(config, bias=True)
        self.up = nn.Linear(config.hidden_size, config.intermediate_size)
        self.down = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor, layout: Layout, table: tuple[Tensor, Tensor]) -> Tensor:
        return self._residual(x, self.attention(self.norm_1(x), layout, table))

    def cached(self, x: Tensor, table: tuple[Tensor, Tensor], cache: KVCache, layer: int, step: CachedStep) -> Tensor:
        keys, values = cache.keys[layer], cache.values[layer]
        return self._residual(x, self.attention.cached(self.norm_1(x), table, keys, values, step.start, step.mask))

    def _residual(self, x: Tensor, attended: Tensor) -> Tensor:
        x = x + self.attention.o_proj(attended)
        return x + self.down(F.gelu(self.up(self.norm_2(x))))


class GPTModel(Backbone):
    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.embed_positions = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.final_norm = nn.LayerNorm(config.hidden_size)

    def forward(self, ids_T: Tensor, layout: Layout) -> Tensor:
        x, nothing = self.embed_tokens(ids_T) + self.embed_positions(layout.positions), (ids_T, ids_T)
        for layer in self.layers:
            x = layer(x, layout, nothing)
        return cast(Tensor, self.final_norm(x))

    def cached(self, ids_BT: Tensor, cache: KVCache, num_new: Tensor | None, length: int | None = None) -> Tensor:
        step = CachedStep(cache, ids_BT.shape[1], num_new, length)
        # Padding on the right may lie past the last position; what is computed there is not looked at.
        places = step.positions.clamp_max(self.embed_positions.num_embeddings - 1)
        x, nothing = self.embed_tokens(ids_BT) + self.embed_positions(places), (ids_BT, ids_BT)
        for index, layer in enumerate(self.layers):
            x = cast(Block, layer).cached(x, nothing, cache, index, step)
        cache.lengths += ids_BT.shape[1] if num_new is None else num_new
        return cast(Tensor, self.final_norm(x))


class GPT(CausalLM):
    config: GPTConfig
    model: GPTModel

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.model = GPTModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.tie_weights()


def from_hf(raw: dict[str, Any], where: str) -> GPTConfig:
    known = {field.name for field in dataclasses.fields(GPTConfig)}
    return GPTConfig(**{key: value for key, value in raw.items() if key in known})


def to_hf(config: GPTConfig, dtype: str) -> dict[str, Any]:
    return {"model_type": config.model_type, "dtype": dtype, **dataclasses.asdict(config)}


register(
    ModelFamily(
        name=GPTConfig.model_type,
        config=GPTConfig,
        model=GPT,
        from_hf=from_hf,
        to_hf=to_hf,
        presets={"own-gpt": GPTConfig()},
    )
)
