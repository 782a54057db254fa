"""What the hybrid's operations in PyTorch hold in memory, in bytes, from a geometry alone.

Tests hold the formulas to what the operations make, counted on tensors without values.
"""

from __future__ import annotations

from h1r.models.causal_lm import repeated_keys_bytes
from h1r.models.falcon_h1.config import HybridConfig


def step_bytes(config: HybridConfig, element: int, length: int) -> int:
    """Of one row, what a layer holds at once at most in a step: the dearest of its parts."""
    c = config
    heads, keys = c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim
    projected = c.mamba_d_ssm + c.conv_dim + c.mamba_n_heads
    convolution = element * (projected + (2 * c.mamba_d_conv + 1) * c.conv_dim)
    recurrence = element * (projected + c.conv_dim) + 4 * (2 * c.conv_dim + 3 * c.mamba_d_ssm)  # its inputs are fp32
    attention = element * (c.mamba_d_ssm + 3 * (heads + 2 * keys)) + (1 + element) * length  # the mask as numbers
    part = max(convolution, recurrence, attention, 4 * element * c.intermediate_size)
    return 6 * element * c.hidden_size + part + length


def prefill_bytes(config: HybridConfig, element: int, rows: int, columns: int, length: int) -> int:
    """What a prefill holds at once at most besides its cache: `columns` tokens of each of `rows` prompts, of `length`
    in all."""
    c, T, Q = config, rows * columns, config.mamba_chunk_size
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
    attention += repeated_keys_bytes(c, element, rows * length)
    weight = element * c.hidden_size if columns > 1 else 0  # of a row of a matrix, times its multipliers
    products = (element * T + weight) * max(projected, c.intermediate_size)
    mlp = 3 * element * T * c.intermediate_size
    return element * T * 3 * c.hidden_size + T * length + max(convolution, scan, attention, products, mlp)
