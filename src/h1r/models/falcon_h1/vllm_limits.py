"""What vLLM 0.32 can run of this family, as functions of a geometry. Imports no vLLM and no torch.

Source: vLLM 0.32, `models/falcon_h1.py`, `layers/mamba/mamba_mixer2.py`, and our own measurements against the training
forward (docs/guide/vllm.md).
"""

from __future__ import annotations

import math

from h1r.models.falcon_h1.config import HybridConfig


def vllm_obstacle(config: HybridConfig, on_cpu: bool, dtype: str) -> str | None:
    """Why vLLM would refuse this geometry or compute something else, naming the key; None when it is right."""
    low, high = config.time_step_limit
    rules = {
        "attention_bias = true (it has no such bias)": config.attention_bias,
        "mlp_bias = true (it has no such bias)": config.mlp_bias,
        "projectors_bias unlike mamba_proj_bias (it has one switch for the mixer's two projections)": (
            config.projectors_bias != config.mamba_proj_bias
        ),
        "mamba_norm_before_gate = true with mamba_rms_norm (it always gates first)": (
            config.mamba_rms_norm and config.mamba_norm_before_gate
        ),
        f"time_step_limit = {[low, high]} (it bounds no time step)": low > 0 or high < math.inf,
        f"{config.conv_dim} channels of the convolution, mamba_d_ssm + 2 mamba_n_groups mamba_d_state (its CPU "
        "convolution in bfloat16 takes multiples of 32)": (
            on_cpu and dtype == "bfloat16" and config.mamba_d_conv == 4 and config.conv_dim % 32 != 0
        ),
    }
    return next((rule for rule, broken in rules.items() if broken), None)


def recurrent_bytes(config: HybridConfig, element_size: int) -> int:
    """Of one layer and sequence: the convolution's tail, and the recurrent state, which is fp32."""
    tail = config.conv_dim * (config.mamba_d_conv - 1) * element_size
    return tail + config.mamba_d_ssm * config.mamba_d_state * 4
