"""Qwen3 (dense).

    h = RMSNorm(x);   x = x + o_proj(attention(RMSNorm(q), RMSNorm(k), v)),   each head of q and k normed by itself
    u = RMSNorm(x);   x = x + down(up(u) * SiLU(gate(u)))
    logits = lm_head(RMSNorm(x)),   x_0 = embed(ids)

Source: arXiv 2505.09388, section 2, and transformers' `qwen3`, whose parameter names are used unchanged, so a state
dict is a checkpoint. Shapes: T flat tokens, B rows, D hidden, V vocabulary, E head width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from torch import Tensor, nn

from h1r.kernels.layout import Layout
from h1r.models.cache import KVCache
from h1r.models.causal_lm import Backbone, CausalLM
from h1r.models.config import ModelConfig
from h1r.models.layers.attention import CachedStep, GroupedQueryAttention, rotary_table
from h1r.models.layers.embedding import token_embedding
from h1r.models.layers.mlp import GatedMLP
from h1r.models.layers.norm import RMSNorm
from h1r.models.qwen3.config import Qwen3Config


class Qwen3Attention(GroupedQueryAttention):
    """Grouped-query attention whose query and key heads are normed before they rotate."""

    def __init__(self, config: Qwen3Config) -> None:
        super().__init__(config, config.attention_bias)
        self.q_norm = RMSNorm(config.head_dim, config.rms_norm_eps)
        self.k_norm = RMSNorm(config.head_dim, config.rms_norm_eps)

    def project(self, h: Tensor, table: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = (p(h).unflatten(-1, (-1, self.head_dim)) for p in (self.q_proj, self.k_proj, self.v_proj))
        return self.kernels.rotary(self.q_norm(q), *table), self.kernels.rotary(self.k_norm(k), *table), v


class Block(nn.Module):
    def __init__(self, config: Qwen3Config) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Qwen3Attention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = GatedMLP(config.hidden_size, config.intermediate_size)

    def forward(self, x_TD: Tensor, layout: Layout, table: tuple[Tensor, Tensor]) -> Tensor:
        return self._residual(x_TD, self.self_attn(self.input_layernorm(x_TD), layout, table))

    def cached(
        self, x_BTD: Tensor, table: tuple[Tensor, Tensor], cache: KVCache, layer: int, step: CachedStep
    ) -> Tensor:
        h = self.input_layernorm(x_BTD)
        attended = self.self_attn.cached(h, table, cache.keys[layer], cache.values[layer], step.start, step.mask)
        return self._residual(x_BTD, attended)

    def _residual(self, x: Tensor, attended: Tensor) -> Tensor:
        x = x + self.self_attn.o_proj(attended)
        return x + self.mlp(self.post_attention_layernorm(x))


class Qwen3Model(Backbone):
    """The body (`model.*`) without the language-model head."""

    def __init__(self, config: Qwen3Config) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = token_embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, ids_T: Tensor, layout: Layout) -> Tensor:
        """See `Backbone.forward`."""
        table = rotary_table(self.config.head_dim, self.config.rope_theta, layout.positions)
        x = self.embed_tokens(ids_T)
        for layer in self.layers:
            x = layer(x, layout, table)
        return self.norm(x)

    def cached(self, ids_BT: Tensor, cache: KVCache, num_new: Tensor | None, length: int | None = None) -> Tensor:
        """See `Backbone.cached`."""
        step = CachedStep(cache, ids_BT.shape[1], num_new, length)
        table = rotary_table(self.config.head_dim, self.config.rope_theta, step.positions)
        x = self.embed_tokens(ids_BT)
        for index, layer in enumerate(self.layers):
            x = cast(Block, layer).cached(x, table, cache, index, step)
        cache.lengths += ids_BT.shape[1] if num_new is None else num_new
        return self.norm(x)


class Qwen3ForCausalLM(CausalLM):
    """The whole model. `state_dict()` has exactly the tensors of a `qwen3` checkpoint."""

    config: Qwen3Config
    model: Qwen3Model

    def __init__(self, config: Qwen3Config) -> None:
        super().__init__()
        self.config = config
        self.model = Qwen3Model(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.tie_weights()

    @classmethod
    def parts(cls, config: ModelConfig) -> list[tuple[str, Callable[[], nn.Module]]]:
        assert isinstance(config, Qwen3Config)
        return [
            ("model.embed_tokens", lambda: token_embedding(config.vocab_size, config.hidden_size)),
            *((f"model.layers.{i}", lambda: Block(config)) for i in range(config.num_hidden_layers)),
            ("model.norm", lambda: RMSNorm(config.hidden_size, config.rms_norm_eps)),
            ("lm_head", lambda: nn.Linear(config.hidden_size, config.vocab_size, bias=False)),
        ]
