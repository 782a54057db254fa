"""What the model's tests share: random geometries of the `falcon_h1` format, and models with random weights in them."""

from __future__ import annotations

import math
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from h1r.models.falcon_h1.config import HybridConfig
from h1r.models.falcon_h1.hybrid import HybridForCausalLM

SMALL = HybridConfig(
    vocab_size=61, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=8, mamba_d_ssm=48, mamba_n_heads=6, mamba_d_head=8, mamba_n_groups=2,
    mamba_d_state=8, mamba_chunk_size=8, initializer_range=0.2,
    embedding_multiplier=1.7, lm_head_multiplier=0.6, attention_in_multiplier=1.3, attention_out_multiplier=0.7,
    key_multiplier=0.8, ssm_in_multiplier=1.2, ssm_out_multiplier=0.5, ssm_multipliers=(0.4, 0.9, 1.1, 0.7, 0.6),
    mlp_multipliers=(1.4, 0.3),
)  # fmt: skip
"""One geometry with no two multipliers alike."""

_multiplier = st.floats(0.3, 1.4).map(lambda x: round(x, 3))


@st.composite
def geometries(draw: st.DrawFn, **fixed: Any) -> HybridConfig:
    """Any small geometry; `fixed` fields of `HybridConfig` are not drawn.

    Odd counts of heads, widths that share no factor, chunks of one token and longer than any test's sequence, every
    flag, and arbitrary multipliers. What a norm sees has at least eight channels: over fewer it amplifies rounding.
    """
    groups, kv_heads = draw(st.integers(1, 3)), draw(st.sampled_from([1, 2, 3, 5]))
    per_group = draw(st.integers(1, 7))
    heads, d_head = groups * per_group, draw(st.integers(-(-8 // per_group), 9))
    fields: dict[str, Any] = {
        "vocab_size": draw(st.integers(17, 70)),
        "hidden_size": draw(st.integers(16, 40)),
        "intermediate_size": draw(st.integers(5, 60)),
        "num_hidden_layers": draw(st.integers(1, 3)),
        "num_key_value_heads": kv_heads,
        "num_attention_heads": kv_heads * draw(st.integers(1, 4)),
        "head_dim": 2 * draw(st.integers(1, 8)),
        "mamba_n_groups": groups,
        "mamba_n_heads": heads,
        "mamba_d_head": d_head,
        "mamba_d_ssm": heads * d_head,
        "mamba_d_state": draw(st.integers(1, 16)),
        "mamba_d_conv": draw(st.integers(2, 5)),
        "mamba_chunk_size": draw(st.sampled_from([1, 2, 7, 8, 16, 256])),
        "rms_norm_eps": draw(st.sampled_from([1e-5, 1e-2])),
        "rope_theta": draw(st.sampled_from([1e2, 1e4, 1e11])),
        "time_step_limit": draw(st.sampled_from([(0.0, math.inf), (0.05, 0.5), (0.0, 0.3), (0.2, math.inf)])),
        "eos_token_id": draw(st.sampled_from([None, 2, (2, 5)])),
    }
    for name in (
        "mamba_rms_norm", "mamba_norm_before_gate", "mamba_conv_bias", "mamba_proj_bias", "attention_bias", "mlp_bias",
        "projectors_bias", "tie_word_embeddings",
    ):  # fmt: skip
        fields[name] = draw(st.booleans())
    for name in (
        "embedding_multiplier", "lm_head_multiplier", "attention_in_multiplier", "attention_out_multiplier",
        "key_multiplier", "ssm_in_multiplier", "ssm_out_multiplier",
    ):  # fmt: skip
        fields[name] = draw(_multiplier)
    fields["ssm_multipliers"] = tuple(draw(_multiplier) for _ in range(5))
    fields["mlp_multipliers"] = tuple(draw(_multiplier) for _ in range(2))
    return HybridConfig(**{**fields, **fixed})


def randomised(config: HybridConfig, seed: int = 0, dtype: torch.dtype = torch.float32) -> HybridForCausalLM:
    """Random values in every tensor, also in those that initialisation leaves constant.

    Matrices keep the size of their input; A is near -1 and time steps near 0.3, so that the recurrence remembers some
    ten tokens; norms and D are near 1.
    """
    model = HybridForCausalLM(config)
    generator = torch.Generator().manual_seed(seed)
    centre = {"A_log": 0.0, "dt_bias": -1.0, "D": 1.0}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                parameter.copy_(noise / math.sqrt(parameter[0].numel()))
            else:
                last = name.rpartition(".")[2]
                parameter.copy_(centre.get(last, 1.0 if last == "weight" else 0.0) + 0.3 * noise)
    return model.to(dtype)


def random_ids(config: HybridConfig, *shape: int, seed: int = 0) -> Tensor:
    """Token ids, none of which is the padding token 0."""
    return torch.randint(1, config.vocab_size, shape, generator=torch.Generator().manual_seed(seed))


def gap(a: Tensor, b: Tensor) -> float:
    """Largest difference relative to the largest magnitude."""
    return ((a - b).abs().max() / b.abs().max()).item()
