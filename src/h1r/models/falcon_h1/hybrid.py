"""The Falcon-H1 hybrid decoder: every layer runs attention and Mamba-2 side by side on the same input, then an MLP.

    h = RMSNorm(x);   x = x + ssm_out * out_proj(mamba(h)) + attention_out * o_proj(attention(h))
    u = RMSNorm(x);   x = x + mlp_down * down(up(u) * SiLU(mlp_gate * gate(u)))
    logits = lm_head_multiplier * lm_head(RMSNorm(x)),   x_0 = embedding_multiplier * embed(ids)

Source: arXiv 2507.22448, section 2, and transformers' `falcon_h1`, whose parameter names are used unchanged, so a state
dict is a checkpoint. Shapes: T flat tokens, B rows, D hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from h1r.kernels.layout import Layout
from h1r.models.cache import KVCache
from h1r.models.causal_lm import Backbone, CausalLM
from h1r.models.config import ModelConfig
from h1r.models.falcon_h1.attention import Attention
from h1r.models.falcon_h1.cache import HybridCache
from h1r.models.falcon_h1.config import HybridConfig
from h1r.models.falcon_h1.feed_forward import MLP
from h1r.models.falcon_h1.folded_weights import folded_weights
from h1r.models.falcon_h1.mamba2 import Mamba2
from h1r.models.falcon_h1.memory_bytes import prefill_bytes, step_bytes
from h1r.models.falcon_h1.multipliers import Scale, mup_vector, scales_of
from h1r.models.layers.attention import CachedStep, rotary_table
from h1r.models.layers.embedding import token_embedding
from h1r.models.layers.norm import RMSNorm


class Block(nn.Module):
    def __init__(self, config: HybridConfig) -> None:
        super().__init__()
        self.config = config
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mamba = Mamba2(config)
        self.self_attn = Attention(config)
        self.pre_ff_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.feed_forward = MLP(config)

    def forward(self, x_TD: Tensor, layout: Layout, table: tuple[Tensor, Tensor]) -> Tensor:
        layer = self.mamba.kernels.layer
        # A mixer that was taken over by another class (context parallelism) has a forward of its own.
        if layer is not None and type(self.mamba) is Mamba2 and type(self.self_attn) is Attention:
            weights = folded_weights(
                self.config, self.input_layernorm, self.self_attn, self.mamba, self.pre_ff_layernorm, self.feed_forward
            )
            return layer(x_TD, weights, *table, layout, self.config)
        h = self.input_layernorm(x_TD)
        return self._residual(x_TD, self.mamba(h, layout), self.self_attn(h, layout, table))

    def cached(
        self, x_BTD: Tensor, table: tuple[Tensor, Tensor], cache: HybridCache, layer: int, step: CachedStep
    ) -> Tensor:
        h = self.input_layernorm(x_BTD)
        mixed = self.mamba.cached(h, cache.conv[layer], cache.ssm[layer], step.num_new)
        attended = self.self_attn.cached(h, table, cache.keys[layer], cache.values[layer], step.start, step.mask)
        return self._residual(x_BTD, mixed, attended, decoding=x_BTD.shape[1] == 1)

    def _residual(self, x: Tensor, mixed: Tensor, attended: Tensor, decoding: bool = False) -> Tensor:
        scales = scales_of(self.config)
        x = _add_linear(x, mixed, self.mamba.out_proj, scales.mixer_out)
        x = _add_linear(x, attended, self.self_attn.o_proj, scales.attention_out)
        inner = self.feed_forward.inner(self.pre_ff_layernorm(x), decoding)
        return _add_linear(x, inner, self.feed_forward.down_proj, scales.down)


class HybridModel(Backbone):
    """The body (`model.*`) without the language-model head."""

    def __init__(self, config: HybridConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = token_embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.final_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, ids_T: Tensor, layout: Layout) -> Tensor:
        """Hidden states [T, D] after the final norm, for documents laid end to end."""
        table = rotary_table(self.config.head_dim, self.config.rope_theta, layout.positions)
        x = self.embed_tokens(ids_T) * self.config.embedding_multiplier
        for layer in self.layers:
            x = layer(x, layout, table)
        return self.final_layernorm(x)

    def cached(self, ids_BT: Tensor, cache: HybridCache, num_new: Tensor | None, length: int | None = None) -> Tensor:
        """See `Backbone.cached`."""
        step = CachedStep(cache, ids_BT.shape[1], num_new, length)
        table = rotary_table(self.config.head_dim, self.config.rope_theta, step.positions)
        x = self.embed_tokens(ids_BT) * self.config.embedding_multiplier
        for index, layer in enumerate(self.layers):
            x = cast(Block, layer).cached(x, table, cache, index, step)
        cache.lengths += ids_BT.shape[1] if num_new is None else num_new
        return self.final_layernorm(x)


class HybridForCausalLM(CausalLM):
    """The whole model. `state_dict()` has exactly the tensors of a `falcon_h1` checkpoint.

    Random weights for training from scratch: linear layers and embeddings are normal(0, initializer_range), norms 1,
    biases 0; the mixer starts as Mamba-2's own code starts it (`Mamba2.init_recurrence`): A uniform in [1, 16], time
    steps log-uniform in [0.001, 0.1], convolution uniform in +-1/sqrt(d_conv), D = 1. transformers' defaults
    (A = 1..heads, dt_bias = 1) forget within a token or two; the report's own initialisation is not public.
    """

    cache_type: ClassVar[type[KVCache]] = HybridCache
    wide_parameters: ClassVar[tuple[str, ...]] = ("A_log", "D", "dt_bias")
    computed_buffers: ClassVar[tuple[str, ...]] = ("mup_vector",)

    config: HybridConfig
    model: HybridModel

    def __init__(self, config: HybridConfig) -> None:
        super().__init__()
        self.config = config
        self.model = HybridModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.tie_weights()

    def restore_buffers(self) -> None:
        for module in self.modules():
            if isinstance(module, Mamba2):
                module.mup_vector = mup_vector(self.config).to(module.dt_bias.device)

    @property
    def logits_scale(self) -> float:
        return self.config.lm_head_multiplier

    @classmethod
    def init_module(cls, module: nn.Module, config: ModelConfig, generator: torch.Generator | None) -> None:
        if isinstance(module, Mamba2):
            module.init_recurrence(generator)
        else:
            super().init_module(module, config, generator)

    @classmethod
    def parts(cls, config: ModelConfig) -> list[tuple[str, Callable[[], nn.Module]]]:
        assert isinstance(config, HybridConfig)
        return [
            ("model.embed_tokens", lambda: token_embedding(config.vocab_size, config.hidden_size)),
            *((f"model.layers.{i}", lambda: Block(config)) for i in range(config.num_hidden_layers)),
            ("model.final_layernorm", lambda: RMSNorm(config.hidden_size, config.rms_norm_eps)),
            ("lm_head", lambda: nn.Linear(config.hidden_size, config.vocab_size, bias=False)),
        ]

    def step_bytes(self, length: int) -> int:
        return step_bytes(self.config, self.dtype.itemsize, length)

    def prefill_bytes(self, rows: int, columns: int, length: int) -> int:
        return prefill_bytes(self.config, self.dtype.itemsize, rows, columns, length)


def _add_linear(x: Tensor, y: Tensor, linear: nn.Linear, scale: Scale) -> Tensor:
    """x + scale * linear(y), in one matrix product."""
    alpha = cast(float, scale.of_weight())
    out = torch.addmm(x.flatten(0, -2), y.flatten(0, -2), linear.weight.t(), alpha=alpha).view_as(x)
    bias = scale.bias(linear)
    return out if bias is None else out + bias
