"""Falcon-H1 as a model family. Imports no torch."""

from __future__ import annotations

from h1r.models.falcon_h1.config import PRESETS, HybridConfig, preset
from h1r.models.falcon_h1.hf_config import from_hf, to_hf
from h1r.models.falcon_h1.vllm_limits import recurrent_bytes, vllm_obstacle
from h1r.models.registry import ModelFamily

FAMILY = ModelFamily(
    name=HybridConfig.model_type,
    config=HybridConfig,
    model="h1r.models.falcon_h1.hybrid:HybridForCausalLM",
    from_hf=from_hf,
    to_hf=to_hf,
    presets=PRESETS,
    make_preset=preset,
    transformers_class="FalconH1ForCausalLM",
    decoder="h1r.models.falcon_h1.decode:Decoder",
    context_parallel="h1r.models.falcon_h1.context:CONTEXT_PARALLEL",
    checks="h1r.models.falcon_h1.checks:CHECKS",
    vllm_obstacle=vllm_obstacle,
    recurrent_bytes=recurrent_bytes,
)
