"""What the native engine's computations take in memory, in bytes, from a geometry alone: temporaries of PyTorch's
operations, and what the C runner and CUDA graphs keep. `memory.py` adds them up.

Tests hold the temporaries to what the operations make, counted on tensors without values. Attention is taken to be a
fused kernel's, which keeps no scores.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from h1r.engine.native.graphs import graph_bytes
from h1r.engine.native.runner import scratch_width
from h1r.engine.native.select_runner import with_graphs
from h1r.models.falcon_h1.config import HybridConfig
from h1r.models.falcon_h1.decode import Decoder, obstacle
from h1r.models.falcon_h1.hybrid import HybridForCausalLM

_SAMPLING_BYTES, _FILTERING_BYTES = 24, 53
"""Per row and word of the vocabulary, what `choose` holds at once at most: two sets of log-probabilities and two of
fp64; with filters, in `filter_logprobs`, these in order, their places, and three of fp64."""
_NUMBERS_BYTES = 256
"""And what it holds of a row besides: its draw, its seed's arithmetic, its most probable tokens."""


@dataclass(frozen=True)
class RunnerBytes:
    """Memory of a runner besides cache and slots: what it always takes, that for each slot, and the same of graphs."""

    fixed: int
    per_slot: int = 0
    graphs: int = 0
    graphs_per_slot: int = 0


def runner_bytes(
    model: HybridForCausalLM, max_tokens: int, max_length: int, filtered: bool, enforce_eager: bool
) -> RunnerBytes:
    """For calls of `max_tokens` tokens, slots of `max_length`, and sampling with filters or without."""
    config: HybridConfig = model.config
    if not obstacle(model):
        scratch = 4 * torch.get_num_threads() * scratch_width(config.vocab_size)
        packed = Decoder.weight_bytes(config) + Decoder.scratch_bytes(config, max_tokens, max_length)
        return RunnerBytes(packed + scratch)
    sampling = (_FILTERING_BYTES if filtered else _SAMPLING_BYTES) * config.vocab_size
    step = _NUMBERS_BYTES + max(sampling, _layer_bytes(config, model.dtype.itemsize, max_length))
    if not with_graphs(model, enforce_eager):
        return RunnerBytes(0, step)
    return RunnerBytes(0, step, graph_bytes(config), step)


def _layer_bytes(config: HybridConfig, element: int, length: int) -> int:
    """Of one row, what a layer holds at once at most in a step: the dearest of its parts."""
    c = config
    heads, keys = c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim
    projected = c.mamba_d_ssm + c.conv_dim + c.mamba_n_heads
    convolution = element * (projected + (2 * c.mamba_d_conv + 1) * c.conv_dim)
    recurrence = element * (projected + c.conv_dim) + 4 * (2 * c.conv_dim + 3 * c.mamba_d_ssm)  # its inputs are fp32
    attention = element * (c.mamba_d_ssm + 3 * (heads + 2 * keys)) + (1 + element) * length  # the mask as numbers
    part = max(convolution, recurrence, attention, 4 * element * c.intermediate_size)
    return 6 * element * c.hidden_size + part + length


def prefill_bytes(model: HybridForCausalLM, rows: int, columns: int, length: int) -> int:
    """What a prefill in PyTorch holds at once at most besides its cache: `columns` tokens of each of `rows` prompts, of
    `length` in all. The C runner has its scratch."""
    if not obstacle(model):
        return 0
    c, element = model.config, model.dtype.itemsize
    T, Q = rows * columns, c.mamba_chunk_size
    heads, keys = c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim
    projected = c.mamba_d_ssm + c.conv_dim + c.mamba_n_heads
    chunks = rows * -(-columns // Q)
    convolution = element * T * (projected + 4 * c.conv_dim)
    # Inputs of the scan in fp32, results and their parts, decays between any two tokens of a chunk twice, and the
    # states before and after each chunk.
    wide = chunks * Q * ((5 if element >= 4 else 6) * c.mamba_d_ssm + c.conv_dim + 2 * c.mamba_n_heads * (Q + 4))
    states = 2 * (chunks + rows) * c.mamba_d_ssm * c.mamba_d_state
    scan = element * T * (projected + 2 * c.conv_dim) + 4 * (wide + states)
    attention = element * T * (c.mamba_d_ssm + 3 * (heads + 2 * keys)) + (1 + element) * T * length
    weight = element * c.hidden_size if columns > 1 else 0  # of a row of a matrix, times its multipliers
    products = (element * T + weight) * max(projected, c.intermediate_size)
    mlp = 3 * element * T * c.intermediate_size
    return element * T * 3 * c.hidden_size + T * length + max(convolution, scan, attention, products, mlp)
