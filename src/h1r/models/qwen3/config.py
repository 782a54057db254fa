"""Configuration and presets of Qwen3 (dense). Imports no torch.

Source: arXiv 2505.09388 (Qwen3), Table 1, and the configurations of the released checkpoints.
"""

from __future__ import annotations

from dataclasses import dataclass

from h1r.models.config import ModelConfig, check_rules, take_types

_SIZES = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim",
)  # fmt: skip


@dataclass(frozen=True)
class Qwen3Config(ModelConfig):
    """Geometry of a dense Qwen3. Field names are those of transformers' `Qwen3Config`."""

    model_type = "qwen3"

    vocab_size: int = 512
    hidden_size: int = 128
    intermediate_size: int = 384
    num_hidden_layers: int = 2
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 32
    attention_bias: bool = False
    tie_word_embeddings: bool = False
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1e6
    max_position_embeddings: int = 40960
    initializer_range: float = 0.02
    pad_token_id: int | None = None
    bos_token_id: int | None = 1
    eos_token_id: int | tuple[int, ...] | None = 11
    """One id, several (a list becomes a tuple), or none."""

    def __post_init__(self) -> None:
        take_types(self, _SIZES)
        check_rules({
            "num_attention_heads must be a multiple of num_key_value_heads": self.num_attention_heads
            % self.num_key_value_heads
            == 0,
            "head_dim must be even for rotary embeddings": self.head_dim % 2 == 0,
            "rms_norm_eps must be positive": self.rms_norm_eps > 0,
            "rope_theta must be positive": self.rope_theta > 0,
            # transformers builds its embedding with this row marked, and fails when there is none
            "pad_token_id must be less than vocab_size": (self.pad_token_id or 0) < self.vocab_size,
        })  # fmt: skip


def _size(layers: int, d: int, ff: int, q: int, tied: bool) -> Qwen3Config:
    return Qwen3Config(
        vocab_size=151936, hidden_size=d, intermediate_size=ff, num_hidden_layers=layers, num_attention_heads=q,
        num_key_value_heads=8, head_dim=128, tie_word_embeddings=tied, bos_token_id=151643, eos_token_id=151645,
    )  # fmt: skip


PRESETS: dict[str, Qwen3Config] = {
    #                   layers   d     ff   q   tied
    "qwen3-0.6b": _size(28, 1024, 3072, 16, True),
    "qwen3-1.7b": _size(28, 2048, 6144, 16, True),
    "qwen3-4b": _size(36, 2560, 9728, 32, True),
    "qwen3-8b": _size(36, 4096, 12288, 32, False),
    "qwen3-14b": _size(40, 5120, 17408, 40, False),
    "qwen3-32b": _size(64, 5120, 25600, 64, False),
    "tiny-qwen3": Qwen3Config(
        vocab_size=768, hidden_size=160, intermediate_size=480, num_hidden_layers=3, max_position_embeddings=4096,
        initializer_range=0.08, rope_theta=1e4,
    ),
}  # fmt: skip
"""Presets by name; the sizes of the post-trained checkpoints. "tiny-qwen3" is ours, for a laptop."""
