"""What vLLM can run, and what its cache costs: facts about vLLM 0.32, as functions of a geometry. Imports no vLLM.

Source: vLLM 0.32, `models/falcon_h1.py`, `layers/mamba/mamba_mixer2.py`, `backends/cpu_attn.py`, and our own
measurements against the training forward (docs/guide/vllm.md).
"""

from __future__ import annotations

import math

from h1r.models.falcon_h1.config import HybridConfig

CPU_HEAD_DIMS = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
DTYPES = ("float32", "bfloat16")
"""float16 is left out: the time steps and decays of a Mamba mixer leave its range."""
_BLOCK = 32


def unsupported(config: HybridConfig, on_cpu: bool, dtype: str = "float32") -> str | None:
    """Why vLLM would refuse this geometry or compute something else, naming the key; None when it is right.

    dtype: of weights and activations, "float32" or "bfloat16".
    """
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
        f"head_dim = {config.head_dim} (its CPU attention knows {', '.join(map(str, CPU_HEAD_DIMS))})": (
            on_cpu and config.head_dim not in CPU_HEAD_DIMS
        ),
        f"{config.conv_dim} channels of the convolution, mamba_d_ssm + 2 mamba_n_groups mamba_d_state (its CPU "
        "convolution in bfloat16 takes multiples of 32)": (
            on_cpu and dtype == "bfloat16" and config.mamba_d_conv == 4 and config.conv_dim % 32 != 0
        ),
        f"dtype {dtype} (it has float32 and bfloat16)": dtype not in DTYPES,
    }
    return next((rule for rule, broken in rules.items() if broken), None)


def block_tokens(config: HybridConfig, element_size: int) -> int:
    """Tokens in one block of vLLM's cache: the fewest, in steps of 32, whose keys and values take at least the room of
    one layer's convolution tail and fp32 state. element_size: bytes per element of the engine's dtype."""
    per_token = 2 * config.num_key_value_heads * config.head_dim * element_size
    tail = config.conv_dim * (config.mamba_d_conv - 1) * element_size
    state = config.mamba_d_ssm * config.mamba_d_state * 4
    return _BLOCK * math.ceil((tail + state) / (_BLOCK * per_token))


def cache_bytes_for(config: HybridConfig, block: int, sequences: int, tokens: int, element_size: int) -> int:
    """Bytes for `sequences` of `tokens` tokens: their blocks of keys and values, and for each the running state, the
    two that prefix caching keeps, and one in transit."""
    page = block * 2 * config.num_key_value_heads * config.head_dim * element_size
    return (sequences * (math.ceil(tokens / block) + 4) + 1) * page * config.num_hidden_layers
