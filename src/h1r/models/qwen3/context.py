"""Qwen3 with 1/c of its query heads on each of c ranks (`h1r.train.parallel.context`)."""

from __future__ import annotations

import torch.distributed as dist

from h1r.models.layers.context_attention import ContextAttention, ContextParallel
from h1r.models.qwen3.config import Qwen3Config
from h1r.models.qwen3.model import Qwen3Attention, Qwen3ForCausalLM


class ContextQwen3Attention(ContextAttention, Qwen3Attention):
    """Qwen3's attention with this rank's share of the query heads."""


def _heads(config: Qwen3Config) -> dict[str, int]:
    return {"query heads": config.num_attention_heads}


def _take_over(model: Qwen3ForCausalLM, group: dist.ProcessGroup) -> None:
    for module in list(model.modules()):
        if isinstance(module, Qwen3Attention):
            ContextQwen3Attention.take_over(module, group)


CONTEXT_PARALLEL = ContextParallel(_heads, _take_over)
