"""The Falcon-H1 hybrid decoder: every layer runs attention and Mamba-2 side by side on the same input, then an MLP.

    h = RMSNorm(x);   x = x + ssm_out * out_proj(mamba(h)) + attention_out * o_proj(attention(h))
    u = RMSNorm(x);   x = x + mlp_down * down(up(u) * SiLU(mlp_gate * gate(u)))
    logits = lm_head_multiplier * lm_head(RMSNorm(x)),   x_0 = embedding_multiplier * embed(ids)

Source: arXiv 2507.22448, section 2, and transformers' `falcon_h1`, whose parameter names are used unchanged, so a state
dict is a checkpoint. Shapes: T flat tokens, B rows, D hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from h1r.kernels.contract import Kernels
from h1r.kernels.layout import Layout
from h1r.models.cache import HybridCache
from h1r.models.falcon_h1.attention import Attention, rotary_table
from h1r.models.falcon_h1.config import HybridConfig
from h1r.models.falcon_h1.feed_forward import MLP, RMSNorm
from h1r.models.falcon_h1.folded_weights import folded_weights
from h1r.models.falcon_h1.mamba2 import Mamba2


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
        config = self.config
        x = _add_linear(x, mixed, self.mamba.out_proj, config.ssm_out_multiplier)
        x = _add_linear(x, attended, self.self_attn.o_proj, config.attention_out_multiplier)
        inner = self.feed_forward(self.pre_ff_layernorm(x), decoding)
        return _add_linear(x, inner, self.feed_forward.down_proj, config.mlp_multipliers[1])


class CachedStep:
    """What the layers of one cached forward share: where each row starts, how many tokens are new, who sees whom."""

    def __init__(self, cache: HybridCache, T: int, num_new: Tensor | None, length: int | None) -> None:
        device = cache.lengths.device
        self.start = cache.lengths.clone()
        self.num_new = num_new
        self.positions = self.start[:, None] + torch.arange(T, device=device)
        if length is None:
            length = int(self.start.max()) + T
        self.mask = torch.arange(length, device=device) <= self.positions[:, None, :, None]


class HybridModel(nn.Module):
    """The body (`model.*`) without the language-model head."""

    def __init__(self, config: HybridConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.final_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, ids_T: Tensor, layout: Layout) -> Tensor:
        """Hidden states [T, D] after the final norm, for documents laid end to end."""
        table = rotary_table(self.config, layout.positions)
        x = self.embed_tokens(ids_T) * self.config.embedding_multiplier
        for layer in self.layers:
            x = layer(x, layout, table)
        return self.final_layernorm(x)

    def cached(self, ids_BT: Tensor, cache: HybridCache, num_new: Tensor | None, length: int | None = None) -> Tensor:
        """Hidden states [B, T, D] of T new tokens per row; the cache (B slots) takes them in and grows.

        `length`: positions of the cache that attention goes through, no fewer than any row then holds. None asks the
        device for the longest row, which the host has to wait for."""
        step = CachedStep(cache, ids_BT.shape[1], num_new, length)
        if step.mask.shape[-1] > cache.max_length:
            raise ValueError(f"the cache holds {cache.max_length} tokens, {step.mask.shape[-1]} are needed")
        table = rotary_table(self.config, step.positions)
        x = self.embed_tokens(ids_BT) * self.config.embedding_multiplier
        for index, layer in enumerate(self.layers):
            x = cast(Block, layer).cached(x, table, cache, index, step)
        cache.lengths += ids_BT.shape[1] if num_new is None else num_new
        return self.final_layernorm(x)


class HybridForCausalLM(nn.Module):
    """The whole model. `state_dict()` has exactly the tensors of a `falcon_h1` checkpoint."""

    def __init__(self, config: HybridConfig) -> None:
        super().__init__()
        self.config = config
        self.model = HybridModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.tie_weights()

    def tie_weights(self) -> None:
        """Makes the head share the embedding's tensor where the config says so (moving off meta unshares it)."""
        if self.config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    def init_weights(self, generator: torch.Generator | None = None) -> HybridForCausalLM:
        """Random weights for training from scratch; the report's own pre-training initialisation is not public.

        Linear layers and embeddings are normal(0, initializer_range), norms 1, biases 0. The mixer starts as Mamba-2's
        own code starts it: A uniform in [1, 16], time steps log-uniform in [0.001, 0.1], convolution uniform in
        +-1/sqrt(d_conv), D = 1. transformers' defaults (A = 1..heads, dt_bias = 1) forget within a token or two.
        """
        _init(self, self.config, generator)
        return self

    @property
    def kernels(self) -> Kernels:
        return self.model.final_layernorm.kernels

    def use(self, kernels: Kernels) -> HybridForCausalLM:
        """Runs every operator through `kernels` from now on; a new model starts with the portable ones."""
        for module in self.modules():
            if isinstance(module, RMSNorm | MLP | Attention | Mamba2):
                module.kernels = kernels
        return self

    @property
    def device(self) -> torch.device:
        return self.model.embed_tokens.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.embed_tokens.weight.dtype

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., D] -> [..., V]."""
        linear = self.kernels.linear or F.linear
        return linear(hidden * self.config.lm_head_multiplier, self.lm_head.weight)

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


def random_parts(config: HybridConfig, generator: torch.Generator) -> Iterator[tuple[str, nn.Module]]:
    """The parts of a model and their names, one after the other, with the weights that `init_weights` gives them: for a
    model of which no process holds the whole. With tied embeddings the head's weights are those of both."""
    parts: list[tuple[str, Callable[[], nn.Module]]] = [
        ("model.embed_tokens", lambda: nn.Embedding(config.vocab_size, config.hidden_size)),
        *((f"model.layers.{i}", lambda: Block(config)) for i in range(config.num_hidden_layers)),
        ("model.final_layernorm", lambda: RMSNorm(config.hidden_size, config.rms_norm_eps)),
        ("lm_head", lambda: nn.Linear(config.hidden_size, config.vocab_size, bias=False)),
    ]
    for name, make in parts:
        part = make()
        _init(part, config, generator)
        yield name, part


def _init(part: nn.Module, config: HybridConfig, generator: torch.Generator | None) -> None:
    """In the order of `modules()`, from one generator: parts in order get the weights of the whole."""
    for module in part.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, 0.0, config.initializer_range, generator=generator)
            if getattr(module, "bias", None) is not None:
                nn.init.zeros_(cast(Tensor, module.bias))
        elif isinstance(module, Mamba2):
            module.init_recurrence(generator)


def _add_linear(x: Tensor, y: Tensor, linear: nn.Linear, alpha: float) -> Tensor:
    """x + alpha * linear(y), in one matrix product."""
    out = torch.addmm(x.flatten(0, -2), y.flatten(0, -2), linear.weight.t(), alpha=alpha).view_as(x)
    return out if linear.bias is None else out + alpha * linear.bias
