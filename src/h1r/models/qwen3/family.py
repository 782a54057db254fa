"""Qwen3 (dense) as a model family. Imports no torch."""

from __future__ import annotations

from h1r.models.qwen3.config import PRESETS, Qwen3Config
from h1r.models.qwen3.hf_config import from_hf, to_hf
from h1r.models.registry import ModelFamily


def vllm_obstacle(config: Qwen3Config, on_cpu: bool, dtype: str) -> str | None:
    """Why vLLM cannot run this geometry or would compute something else; None when it can."""
    return None


FAMILY = ModelFamily(
    name=Qwen3Config.model_type,
    config=Qwen3Config,
    model="h1r.models.qwen3.model:Qwen3ForCausalLM",
    from_hf=from_hf,
    to_hf=to_hf,
    presets=PRESETS,
    transformers_class="Qwen3ForCausalLM",
    context_parallel="h1r.models.qwen3.context:CONTEXT_PARALLEL",
    vllm_obstacle=vllm_obstacle,
)
