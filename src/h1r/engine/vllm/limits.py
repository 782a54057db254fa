"""What vLLM can run, and what its cache costs: facts about vLLM 0.32, as functions of a geometry. Imports no vLLM.

What holds for one architecture alone stands in its family (`vllm_obstacle`, `recurrent_bytes`). Source: vLLM 0.32,
`backends/cpu_attn.py`, and our own measurements against the training forward (docs/guide/vllm.md).
"""

from __future__ import annotations

import math

from h1r.models.config import ModelConfig
from h1r.models.registry import family_of

CPU_HEAD_DIMS = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
DTYPES = ("float32", "bfloat16")
"""float16 is left out: the time steps and decays of a Mamba mixer leave its range."""
_BLOCK = 32


def unsupported(config: ModelConfig, on_cpu: bool, dtype: str = "float32") -> str | None:
    """Why vLLM would refuse this geometry or compute something else, naming the key; None when it is right.

    dtype: of weights and activations, "float32" or "bfloat16".
    """
    family = family_of(config)
    if family.vllm_obstacle is None:
        return f"the family {family.name} (it does not know this architecture)"
    if on_cpu and config.head_dim not in CPU_HEAD_DIMS:
        return f"head_dim = {config.head_dim} (its CPU attention knows {', '.join(map(str, CPU_HEAD_DIMS))})"
    if dtype not in DTYPES:
        return f"dtype {dtype} (it has float32 and bfloat16)"
    return family.vllm_obstacle(config, on_cpu, dtype)


def block_tokens(config: ModelConfig, element_size: int) -> int:
    """Tokens in one block of vLLM's cache: the fewest, in steps of 32, whose keys and values take at least the room of
    what one layer keeps besides them. element_size: bytes per element of the engine's dtype."""
    per_token = 2 * config.num_key_value_heads * config.head_dim * element_size
    recurrent = family_of(config).recurrent_bytes
    state = 0 if recurrent is None else recurrent(config, element_size)
    return _BLOCK * max(1, math.ceil(state / (_BLOCK * per_token)))


def cache_bytes_for(config: ModelConfig, block: int, sequences: int, tokens: int, element_size: int) -> int:
    """Bytes for `sequences` of `tokens` tokens: their blocks of keys and values, and for each the running state, the
    two that prefix caching keeps, and one in transit."""
    page = block * 2 * config.num_key_value_heads * config.head_dim * element_size
    return (sequences * (math.ceil(tokens / block) + 4) + 1) * page * config.num_hidden_layers
