"""Generation in C for fp32 on a CPU: new tokens of many sequences go through the whole model in one call.

The arithmetic is in `kernels/cpu/csrc` (`decode*.c`, `gemm.c`); this file packs the weights, with every multiplier of
the model (`multipliers`) folded in, and hands over pointers. It reads and writes the same `HybridCache` as
`HybridModel.cached`. A token's numbers do not depend, to the last bit, on which other tokens are in the call or on how
a prompt is cut into calls.

Packed weights are a copy: `pack` takes the model's present values, and must be called again after they change. They may
be narrower than the model's: bf16, with the multipliers beside them, so that weights which are bf16 stay what they are;
or int8, each output's terms in blocks of 128 with one scale. Products with int8 take their input as integers of 16 bits
and are exact within a block. Norms, convolution, recurrence, attention and the embedding stay fp32.
"""

from __future__ import annotations

import ctypes
import math
from ctypes import c_void_p

import torch
from torch import Tensor, nn

from h1r.common.engines import Weights
from h1r.kernels.cpu import large_pages
from h1r.kernels.cpu.build import library
from h1r.kernels.cpu.structs import Cache, Layer, Matrix, Model, Scratch
from h1r.models.falcon_h1.cache import HybridCache
from h1r.models.falcon_h1.config import HybridConfig
from h1r.models.falcon_h1.hybrid import Block, HybridForCausalLM
from h1r.models.falcon_h1.multipliers import Scale, scales_of
from h1r.models.layers.attention import rotary_table

_WIDEST_HEAD = 256
_TERMS: dict[Weights, int] = {"auto": 1, "bfloat16": 2, "int8": 4}
"""Of one output, side by side in 4 bytes of a packed matrix."""


class Decoder:
    """The packed weights of `model`, stored as `weights`, and scratch for `max_tokens` new tokens in one call.

    Raises `ValueError` for a model that `obstacle` names a reason against.
    """

    def __init__(self, model: HybridForCausalLM, max_tokens: int, weights: Weights = "auto") -> None:
        if why := self.obstacle(model):
            raise ValueError(f"this model cannot be decoded in C: {why}")
        self.model, self.config, self.weights = model, model.config, weights
        memory = _Memory(self.weight_bytes(model.config, weights) // 4)
        self._matrices = {
            (layer, name): _Packed(n, k, bias, pairs, weights, memory)
            for layer in range(model.config.num_hidden_layers)
            for name, (n, k, bias, pairs) in _shapes(model.config).items()
        }
        self._head = _Packed(model.config.vocab_size, model.config.hidden_size, False, False, weights, memory)
        self._kept: list[Tensor] = []
        self._table: tuple[Tensor, Tensor] = (torch.empty(0), torch.empty(0))
        self.max_tokens = 0
        self.reserve(max_tokens)
        self.pack()

    @staticmethod
    def obstacle(model: HybridForCausalLM) -> str | None:
        """Why this model cannot be decoded in C; None when it can."""
        if model.kernels.name != "native":
            return f"the model runs on {model.kernels.name} kernels"
        if model.device.type != "cpu" or model.dtype != torch.float32:
            return f"it takes fp32 on a CPU, not {str(model.dtype).removeprefix('torch.')} on {model.device}"
        if model.config.head_dim > _WIDEST_HEAD:
            return f"head_dim = {model.config.head_dim} is more than {_WIDEST_HEAD}"
        return None

    def reserve(self, max_tokens: int) -> None:
        """Grows the scratch to `max_tokens` new tokens in one call."""
        if max_tokens <= self.max_tokens:
            return
        self.max_tokens = max_tokens
        self._scratch = [torch.empty(max_tokens, _whole(width)) for width in _scratch_widths(self.config)]
        self._places = torch.empty(2, max_tokens, dtype=torch.long)
        integers = max_tokens if self.weights == "int8" else 0
        self._integers = torch.empty(integers, _widest_input(self.config), dtype=torch.short), torch.empty(integers)
        x, _, projected, conv, mixed, inner, _ = self._scratch
        self._scratch_struct = Scratch(
            *(t.data_ptr() for t in self._scratch),
            *(t.shape[1] for t in (x, projected, conv, mixed, inner)),
            *(t.data_ptr() for t in self._places),
            *(t.data_ptr() if integers else None for t in self._integers),
            self._integers[0].shape[1],
        )

    @staticmethod
    def weight_bytes(config: HybridConfig, weights: Weights = "auto") -> int:
        """Memory of the packed weights: all matrices but the embedding, columns in whole panels, with their scales."""

        def cells(k: int) -> int:
            return math.ceil(k / _TERMS[weights]) + _scales(k, weights)

        each = sum(_panels(n, pairs) * _panel() * (cells(k) + bias) for n, k, bias, pairs in _shapes(config).values())
        head = _panels(config.vocab_size, False) * _panel() * cells(config.hidden_size)
        return 4 * (config.num_hidden_layers * each + head)

    @staticmethod
    def scratch_bytes(config: HybridConfig, max_tokens: int, max_length: int, weights: Weights = "auto") -> int:
        """Memory of the scratch of `max_tokens` tokens and of the rotary table of `max_length` positions."""
        row = 4 * sum(_whole(width) for width in _scratch_widths(config)) + 16
        if weights == "int8":
            row += 2 * _widest_input(config) + 4
        return max_tokens * row + 4 * config.head_dim * max_length

    @torch.no_grad()
    def pack(self) -> None:
        """Takes over the model's present weights."""
        config, layers = self.config, []
        self._kept = []
        for index, module in enumerate(self.model.model.layers):
            assert isinstance(module, Block)
            layers.append(self._layer(index, module))
        self._layers = (Layer * len(layers))(*layers)
        self._head.put(self.model.lm_head, Scale(after=self.model.logits_scale))
        low, high = config.time_step_limit
        mixer, attention = (1.0, 1.0) if self.weights == "auto" else _scales_before_out(config)
        self._model = Model(
            config.num_hidden_layers, config.hidden_size, config.intermediate_size, config.vocab_size,
            config.num_attention_heads, config.num_key_value_heads, config.head_dim, config.mamba_n_heads,
            config.mamba_d_head, config.mamba_n_groups, config.mamba_d_state, config.mamba_d_conv,
            int(config.mamba_norm_before_gate), config.rms_norm_eps, low, min(high, 3e38), config.embedding_multiplier,
            mixer, attention,
            self._keep(self.model.model.embed_tokens.weight), self._keep(self.model.model.final_layernorm.weight),
            self._layers, self._head.struct,
        )  # fmt: skip

    def _layer(self, index: int, block: Block) -> Layer:
        config, mamba, attention, mlp = self.config, block.mamba, block.self_attn, block.feed_forward
        matrices = {name: self._matrices[index, name] for name in _shapes(config)}
        for packed in matrices.values():
            if packed.bias is not None:
                packed.bias.zero_()
        scales, row = scales_of(config), 0
        for linear, scale in (
            (mamba.in_proj, mamba.in_scale),
            (attention.q_proj, scales.query),
            (attention.k_proj, scales.key),
            (attention.v_proj, scales.value),
        ):
            matrices["input"].put(linear, scale, row=row)
            row += linear.out_features
        if self.weights == "auto":
            matrices["out"].put(mamba.out_proj, scales.mixer_out)
            matrices["out"].put(attention.o_proj, scales.attention_out, column=config.mamba_d_ssm)
        else:  # a scale is of whole rows: what the two matrices do not share, C does to their input
            both = torch.cat([mamba.out_proj.weight.detach(), attention.o_proj.weight.detach()], 1)
            matrices["out"].take(both, 1.0)
            matrices["out"].add_bias(scales.mixer_out.bias(mamba.out_proj))
            matrices["out"].add_bias(scales.attention_out.bias(attention.o_proj))
        matrices["gate_up"].put(mlp.gate_proj, scales.gate, side=0)
        matrices["gate_up"].put(mlp.up_proj, Scale(), side=1)
        matrices["down"].put(mlp.down_proj, scales.down)
        return Layer(
            *(packed.struct for packed in matrices.values()),
            self._keep(block.input_layernorm.weight), self._keep(block.pre_ff_layernorm.weight),
            self._keep(mamba.norm.weight) if config.mamba_rms_norm else None,
            self._keep(mamba.conv1d.weight[:, 0].t()), self._keep(mamba.conv1d.bias), self._keep(mamba.dt_bias),
            self._keep(-torch.exp(mamba.A_log)), self._keep(mamba.D),
        )  # fmt: skip

    def _keep(self, tensor: Tensor | None) -> int | None:
        """The address of a dense tensor that lives as long as these weights are in use."""
        if tensor is None:
            return None
        self._kept.append(tensor.detach().contiguous())
        return self._kept[-1].data_ptr()

    def bind(self, cache: HybridCache) -> BoundCache:
        """`cache` in the form that `run` takes."""
        if self._table[0].shape[0] < cache.max_length:
            positions = torch.arange(cache.max_length)
            cos, sin = rotary_table(self.config.head_dim, self.config.rope_theta, positions)
            self._table = cos.contiguous(), sin.contiguous()
        return BoundCache(cache, self._table)

    def run(self, cache: BoundCache, counts: Tensor, ids: Tensor, wanted: Tensor, logits: Tensor) -> None:
        """counts [rows] new tokens of the first rows of the cache, their ids [tokens] end to end; the cache takes them
        in. Logits of the tokens at places `wanted` go to the first rows of `logits` [*, V]. Integers are int64.

        Raises `ValueError` when there are more tokens than scratch.
        """
        counts, ids, wanted = counts.contiguous(), ids.contiguous(), wanted.contiguous()
        tokens = ids.shape[0]
        if not logits.is_contiguous() or logits.shape[0] < wanted.shape[0]:
            raise ValueError(f"logits {list(logits.shape)} must be dense, with {wanted.shape[0]} rows")
        if max(tokens, wanted.shape[0]) > self.max_tokens:
            raise ValueError(f"{tokens} tokens came in one call, scratch is for {self.max_tokens}")
        done = library().decode_tokens(
            ctypes.addressof(self._model), ctypes.addressof(cache.struct), ctypes.addressof(self._scratch_struct),
            counts.shape[0], counts.data_ptr(), ids.data_ptr(), wanted.shape[0], wanted.data_ptr(), logits.data_ptr(),
            torch.get_num_threads(),
        )  # fmt: skip
        if not done:
            raise MemoryError("no memory was left for a call of the decoder")


class BoundCache:
    """A `HybridCache` as pointers, with the rotary table of its positions."""

    def __init__(self, cache: HybridCache, table: tuple[Tensor, Tensor]) -> None:
        self.cache, self._table = cache, table
        groups = (cache.keys, cache.values, cache.conv, cache.ssm)
        if not all(tensor.is_contiguous() for group in groups for tensor in group):
            raise ValueError("a cache that is decoded in C must be dense")
        self._pointers = [(c_void_p * len(group))(*(t.data_ptr() for t in group)) for group in groups]
        self.struct = Cache(*self._pointers, *(t.data_ptr() for t in table), cache.lengths.data_ptr(), cache.max_length)


class _Memory:
    """All packed matrices lie in one piece, on large pages."""

    def __init__(self, count: int) -> None:
        self._whole, self._taken = large_pages.zeros(count), 0

    def zeros(self, *shape: int) -> Tensor:
        start, self._taken = self._taken, self._taken + math.prod(shape)
        return self._whole[start : self._taken].view(shape)


class _Packed:
    """One packed matrix [n, k]; with `pairs`, two of n / 2 rows whose panels alternate."""

    def __init__(self, n: int, k: int, bias: bool, pairs: bool, weights: Weights, memory: _Memory) -> None:
        self.n, self.k, self.sides, self.terms = n, k, 2 if pairs else 1, _TERMS[weights]
        panels = _panels(n, pairs)
        self.weight = memory.zeros(panels, math.ceil(k / self.terms), _panel())
        self.bias = memory.zeros(panels, _panel()) if bias else None
        scales = _scales(k, weights)
        self.scale = memory.zeros(panels, scales, _panel()) if scales else None
        pointers = (None if t is None else t.data_ptr() for t in (self.weight, self.bias, self.scale))
        self.struct = Matrix(*pointers, n, k, self.terms)

    def put(self, linear: nn.Linear, scale: Scale, row: int = 0, column: int = 0, side: int = 0) -> None:
        """Takes over a linear layer's weight, from `row` and `column` on, and adds its bias to that of its rows. The
        multipliers are folded in while weights are copied: a second copy of a large matrix would have to be paid for.
        """
        self.take(linear.weight.detach(), scale.of_weight(), row, column, side)
        self.add_bias(scale.bias(linear), row, side)

    def take(self, weight: Tensor, factor: float | Tensor, row: int = 0, column: int = 0, side: int = 0) -> None:
        """A weight times its factor. Narrow ones come in whole rows, `column` 0."""
        weight = weight.contiguous()
        rows, columns = weight.shape
        by_row, alpha = (factor.float(), 1.0) if isinstance(factor, Tensor) else (None, factor)
        source = weight.data_ptr(), columns, rows, columns
        factors = None if by_row is None else by_row.data_ptr(), alpha
        if self.scale is None:
            library().pack_rows(
                *source, *factors, self.weight.data_ptr(), row, column, self.k, self.sides, side,
                torch.get_num_threads(),
            )  # fmt: skip
            return
        assert (columns, column) == (self.k, 0)
        library().pack_narrow(
            *source, self.terms, *factors, self.weight.data_ptr(), self.scale.data_ptr(), row, self.sides, side,
            torch.get_num_threads(),
        )  # fmt: skip

    def add_bias(self, bias: Tensor | None, row: int = 0, side: int = 0) -> None:
        if bias is None:
            return
        assert self.bias is not None
        flat = torch.zeros(len(self.bias) // self.sides * _panel())
        flat[row : row + len(bias)] = bias
        self.bias[side :: self.sides] += flat.view(-1, _panel())


def _shapes(config: HybridConfig) -> dict[str, tuple[int, int, bool, bool]]:
    """Of each packed matrix of a layer: rows, columns, whether it has a bias, whether its panels are pairs."""
    c = config
    heads = c.num_attention_heads * c.head_dim
    qkv = heads + 2 * c.num_key_value_heads * c.head_dim
    return {
        "input": (
            c.mamba_d_ssm + c.conv_dim + c.mamba_n_heads + qkv,
            c.hidden_size,
            c.mamba_proj_bias or c.attention_bias,
            False,
        ),
        "out": (c.hidden_size, c.mamba_d_ssm + heads, c.projectors_bias or c.attention_bias, False),
        "gate_up": (2 * c.intermediate_size, c.hidden_size, c.mlp_bias, True),
        "down": (c.hidden_size, c.intermediate_size, c.mlp_bias, False),
    }


def _scales(k: int, weights: Weights) -> int:
    """Scales of one output of k terms."""
    return {"auto": 0, "bfloat16": 1, "int8": math.ceil(k / library().int8_block())}[weights]


def _scales_before_out(config: HybridConfig) -> tuple[float, float]:
    """Of the mixer's output and of attention's, before their product with narrow weights."""
    scales = scales_of(config)
    return float(scales.mixer_out.of_weight()), float(scales.attention_out.of_weight())


def _widest_input(config: HybridConfig) -> int:
    """Columns of the widest input of a product, in whole panels."""
    return _whole(max(config.hidden_size, *(k for _, k, _, _ in _shapes(config).values())))


def _scratch_widths(config: HybridConfig) -> tuple[int, ...]:
    """Columns of x, h, projected, conv, mixed, inner, gathered."""
    shapes = _shapes(config)
    d, mixed = config.hidden_size, shapes["out"][1]
    return d, d, shapes["input"][0], config.conv_dim, mixed, config.intermediate_size, d


def _panel() -> int:
    return int(library().panel_width())


def _panels(n: int, pairs: bool) -> int:
    return 2 * math.ceil(n / 2 / _panel()) if pairs else math.ceil(n / _panel())


def _whole(width: int) -> int:
    return math.ceil(width / _panel()) * _panel()
