"""The model's configuration: geometry, multipliers, token ids, and the presets. Imports no torch.

Sizes and multipliers: arXiv 2507.22448 (Falcon-H1), Table 1, and the released checkpoints. The muP forward multipliers
follow one closed form in the widths, which reproduces the published 0.5B, 3B, 7B and 34B values to all printed digits:

    lm_head  = 40 / d                              attention_out = 0.9375 * (1024/d) * (512/d_attn)
    ssm_in   = 1280 / d                            key           = 0.390625 * (1024/d)^2 * sqrt(64/d_head)
    mlp_gate = 0.8838834764831844 * (1024/d)       mlp_down      = 0.5859375 * (1024/d) * (2048/d_ff)
    ssm_out  = 0.23570226039551587 * (1536/d_ssm)  ssm B         = 0.3535533905932738 * (128/d_state)
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from h1r.models.config import ModelConfig, check_rules, replace_fields, take_types

_SQRT1_8 = 0.3535533905932738
_SIZES = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "mamba_d_ssm", "mamba_n_heads", "mamba_d_head", "mamba_n_groups",
    "mamba_d_state", "mamba_d_conv", "mamba_chunk_size",
)  # fmt: skip


@dataclass(frozen=True)
class HybridConfig(ModelConfig):
    """Geometry of a Falcon-H1 hybrid. Field names are those of transformers' `FalconH1Config`."""

    model_type = "falcon_h1"

    vocab_size: int = 512
    hidden_size: int = 256
    intermediate_size: int = 640
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 32
    mamba_d_ssm: int = 256
    mamba_n_heads: int = 8
    mamba_d_head: int = 32
    mamba_n_groups: int = 1
    mamba_d_state: int = 32
    mamba_d_conv: int = 4
    mamba_chunk_size: int = 64
    mamba_rms_norm: bool = False
    mamba_norm_before_gate: bool = False
    mamba_conv_bias: bool = True
    mamba_proj_bias: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    projectors_bias: bool = False
    tie_word_embeddings: bool = False
    rms_norm_eps: float = 1e-5
    rope_theta: float = 1e11
    max_position_embeddings: int = 262144
    time_step_limit: tuple[float, float] = (0.0, math.inf)
    initializer_range: float = 0.02
    embedding_multiplier: float = 1.0
    lm_head_multiplier: float = 1.0
    attention_in_multiplier: float = 1.0
    attention_out_multiplier: float = 1.0
    key_multiplier: float = 1.0
    ssm_in_multiplier: float = 1.0
    ssm_out_multiplier: float = 1.0
    ssm_multipliers: tuple[float, float, float, float, float] = (1.0, 1.0, 1.0, 1.0, 1.0)
    mlp_multipliers: tuple[float, float] = (1.0, 1.0)
    pad_token_id: int | None = 0
    bos_token_id: int | None = 1
    eos_token_id: int | tuple[int, ...] | None = 11
    """One id, several (a list becomes a tuple), or none."""

    def __post_init__(self) -> None:
        take_types(self, _SIZES)
        low, high = self.time_step_limit
        rules = {
            "mamba_d_ssm must equal mamba_n_heads * mamba_d_head": self.mamba_d_ssm
            == self.mamba_n_heads * self.mamba_d_head,
            "mamba_n_heads must be a multiple of mamba_n_groups": self.mamba_n_heads % self.mamba_n_groups == 0,
            "num_attention_heads must be a multiple of num_key_value_heads": self.num_attention_heads
            % self.num_key_value_heads
            == 0,
            "head_dim must be even for rotary embeddings": self.head_dim % 2 == 0,
            "mamba_d_conv must be at least 2": self.mamba_d_conv >= 2,
            "time_step_limit must have its lower bound first": low <= high,
            "rms_norm_eps must be positive": self.rms_norm_eps > 0,
            "rope_theta must be positive": self.rope_theta > 0,
            # transformers builds its embedding with this row marked, and fails when there is none
            "pad_token_id must be less than vocab_size": (self.pad_token_id or 0) < self.vocab_size,
        }
        check_rules(rules)

    @property
    def conv_dim(self) -> int:
        """Channels of the causal convolution: x, B and C."""
        return self.mamba_d_ssm + 2 * self.mamba_n_groups * self.mamba_d_state

    @property
    def tokens_per_block(self) -> int:
        """A chunk of the scan."""
        return self.mamba_chunk_size

    @property
    def short_length(self) -> int:
        """Shorter than the convolution's taps."""
        return max(1, self.mamba_d_conv - 2)

    def with_mup(self) -> HybridConfig:
        """This geometry with the multipliers of the closed form above."""
        d, d_attn = self.hidden_size, self.num_attention_heads * self.head_dim
        return dataclasses.replace(
            self,
            embedding_multiplier=5.656854249492381,
            lm_head_multiplier=40 / d,
            attention_in_multiplier=1.0,
            attention_out_multiplier=0.9375 * (1024 / d) * (512 / d_attn),
            key_multiplier=0.390625 * (1024 / d) ** 2 * math.sqrt(64 / self.head_dim),
            ssm_in_multiplier=1280 / d,
            ssm_out_multiplier=0.23570226039551587 * (1536 / self.mamba_d_ssm),
            ssm_multipliers=(_SQRT1_8, 0.25, _SQRT1_8 * (128 / self.mamba_d_state), 0.5, _SQRT1_8),
            mlp_multipliers=(0.8838834764831844 * (1024 / d), 0.5859375 * (1024 / d) * (2048 / self.intermediate_size)),
        )


def _size(
    layers: int, d: int, ff: int, q: int, kv: int, head: int, ssm: tuple[int, int], groups: int, state: int, norm: bool,
    vocab: int, positions: int = 131072, chunk: int = 128,
) -> HybridConfig:  # fmt: skip
    return HybridConfig(
        vocab_size=vocab, hidden_size=d, intermediate_size=ff, num_hidden_layers=layers, num_attention_heads=q,
        num_key_value_heads=kv, head_dim=head, mamba_d_ssm=ssm[0] * ssm[1], mamba_n_heads=ssm[0], mamba_d_head=ssm[1],
        mamba_n_groups=groups, mamba_d_state=state, mamba_rms_norm=norm, mamba_chunk_size=chunk,
        max_position_embeddings=positions,
    ).with_mup()  # fmt: skip


_UNIT: dict[str, Any] = {
    "embedding_multiplier": 1.0, "lm_head_multiplier": 1.0, "attention_out_multiplier": 1.0, "key_multiplier": 1.0,
    "ssm_in_multiplier": 1.0, "ssm_out_multiplier": 1.0, "ssm_multipliers": (1.0,) * 5, "mlp_multipliers": (1.0, 1.0),
}  # fmt: skip

PRESETS: dict[str, HybridConfig] = {
    #            layers   d     ff    q  kv head (heads, d_head) groups state norm vocab
    "0.5b": _size(36, 1024, 2048, 8, 2, 64, (24, 64), 1, 128, False, 32784, 16384),
    "1.5b": _size(24, 2048, 4608, 8, 2, 128, (48, 64), 1, 256, True, 65536),
    "1.5b-deep": _size(66, 1280, 3072, 6, 2, 128, (24, 64), 1, 256, True, 65536),
    "3b": _size(32, 2560, 6144, 10, 2, 128, (32, 128), 1, 256, True, 65536),
    "7b": _size(44, 3072, 12288, 12, 2, 128, (24, 128), 1, 256, True, 130048, 262144),
    "34b": _size(72, 5120, 21504, 20, 4, 128, (32, 128), 2, 256, True, 261120, 262144),
    "90m": dataclasses.replace(
        _size(24, 512, 768, 8, 2, 64, (24, 32), 1, 64, False, 32768, 262144),
        **{**_UNIT, "embedding_multiplier": 0.034423828125, "lm_head_multiplier": 0.078125},
        tie_word_embeddings=True,
    ),
    "tiny": dataclasses.replace(
        _size(2, 160, 320, 4, 2, 32, (8, 32), 1, 32, False, 768, 4096, 32), **_UNIT, initializer_range=0.08
    ),
}  # fmt: skip
PRESETS["smoke"] = PRESETS["tiny"].replaced(
    hidden_size=64, intermediate_size=128, num_attention_heads=2, mamba_n_heads=4, mamba_d_ssm=128
)
"""Presets by name. "90m" has its multipliers folded into the weights, as released. "tiny" and "smoke" are ours, for a
laptop and for checks: their multipliers are 1, since the closed form, tuned for widths of 1024 and more, learns far
slower at 160 (docs/log/training.md).

"0.5b" has the vocabulary of the released checkpoint, 32784; Table 1 of the report prints 32,778. "7b" is the base model
and Falcon-H1R-7B; the instruction-tuned Falcon-H1-7B is `preset("7b", vocab_size=130049, mamba_chunk_size=256)`."""

_FOLDED = ("90m", "tiny", "smoke")


def preset(name: str, **overrides: Any) -> HybridConfig:
    """The preset `name` with fields replaced; an unknown field raises `UserError`.

    When a width changes, the multipliers follow the closed form again unless they are given too.
    """
    config: HybridConfig = replace_fields(PRESETS[name], overrides)
    if not overrides or name in _FOLDED:
        return config
    return config.with_mup().replaced(**{key: value for key, value in overrides.items() if "multiplier" in key})
