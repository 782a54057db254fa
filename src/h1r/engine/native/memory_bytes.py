"""What the native engine's computations take in memory, in bytes, from a geometry alone: temporaries of PyTorch's
operations (the model's family knows those of its layers), and what the C runner and CUDA graphs keep. `memory.py` adds
them up.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from h1r.common.engines import Weights
from h1r.engine.native.c_decoder import decoder_class, obstacle
from h1r.engine.native.graphs import graph_bytes
from h1r.engine.native.runner import scratch_width
from h1r.engine.native.select_runner import with_graphs
from h1r.models import CausalLM

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
    model: CausalLM,
    max_tokens: int,
    max_length: int,
    filtered: bool,
    enforce_eager: bool,
    weights: Weights = "auto",
) -> RunnerBytes:
    """For calls of `max_tokens` tokens, slots of `max_length`, and sampling with filters or without."""
    config = model.config
    if not obstacle(model):
        scratch = 4 * torch.get_num_threads() * scratch_width(config.vocab_size)
        decoder = decoder_class(model)
        packed = decoder.weight_bytes(config, weights)
        packed += decoder.scratch_bytes(config, max_tokens, max_length, weights)
        return RunnerBytes(packed + scratch)
    sampling = (_FILTERING_BYTES if filtered else _SAMPLING_BYTES) * config.vocab_size
    step = _NUMBERS_BYTES + max(sampling, model.step_bytes(max_length))
    if not with_graphs(model, enforce_eager):
        return RunnerBytes(0, step)
    return RunnerBytes(0, step, graph_bytes(config), step)


def prefill_bytes(model: CausalLM, rows: int, columns: int, length: int) -> int:
    """What a prefill in PyTorch holds at once at most besides its cache: `columns` tokens of each of `rows` prompts, of
    `length` in all. The C runner has its scratch."""
    if not obstacle(model):
        return 0
    return model.prefill_bytes(rows, columns, length)
