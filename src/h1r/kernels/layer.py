"""What a kernel for a whole layer of the hybrid model takes: its weights, multipliers folded in, and its sizes.

    inward   rows: q, k, v, z, xBC, dt      one product reads the normed input once
    gate_up  rows: gate, up                 the same for the feed-forward part

Shapes: D hidden, H query and J key/value heads of width E, M = d_ssm, N convolution channels, K taps, F feed-forward
width.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor


class FoldedWeights(NamedTuple):
    """A bias is None where no matrix of its group has one."""

    norm: Tensor
    inward: Tensor
    inward_bias: Tensor | None
    taps: Tensor
    """[K, N], the newest token's first."""
    conv_bias: Tensor | None
    dt_bias: Tensor
    A: Tensor
    D: Tensor
    gate_norm: Tensor | None
    attention_out: Tensor
    mixer_out: Tensor
    out_bias: Tensor | None
    """Of both branches together."""
    ff_norm: Tensor
    gate_up: Tensor
    gate_up_bias: Tensor | None
    down: Tensor
    down_bias: Tensor | None


class LayerSizes(Protocol):
    """The keys of a model's configuration that a layer's kernel reads; names and meanings are Hugging Face's."""

    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    mamba_n_heads: int
    mamba_n_groups: int
    mamba_d_state: int
    mamba_d_head: int
    mamba_d_ssm: int
    mamba_rms_norm: bool
    mamba_norm_before_gate: bool
    rms_norm_eps: float
    time_step_limit: tuple[float, float]

    @property
    def conv_dim(self) -> int:
        """Channels of the convolution."""
        ...
