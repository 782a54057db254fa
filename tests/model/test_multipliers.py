"""A layer's fixed multipliers: folded weights against the definition, and the same in every reader."""

from __future__ import annotations

from typing import cast

import pytest
import torch
from geometries import geometries, randomised
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from h1r.kernels.selection import select
from h1r.models.falcon_h1.config import HybridConfig
from h1r.models.falcon_h1.decode import Decoder
from h1r.models.falcon_h1.folded_weights import folded_weights
from h1r.models.falcon_h1.hybrid import Block
from h1r.models.falcon_h1.multipliers import Scale


@pytest.mark.parametrize("after", [0.7, torch.linspace(0.2, 3, 5, dtype=torch.float64)], ids=["number", "rows"])
def test_a_folded_layer_is_the_scaled_one(after: float | Tensor) -> None:
    linear, x = nn.Linear(3, 5, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    scale = Scale(1.3, after)
    folded = nn.functional.linear(x, scale.weight(linear), scale.bias(linear))
    torch.testing.assert_close(folded, after * linear(1.3 * x))
    torch.testing.assert_close(scale.on_output(linear(1.3 * x)), after * linear(1.3 * x))


@settings(max_examples=30, deadline=None)
@given(config=geometries(), seed=st.integers(0, 99))
def test_the_c_decoder_packs_the_weights_that_the_fused_layer_reads(config: HybridConfig, seed: int) -> None:
    model = randomised(config, seed).use(select("native"))
    decoder = Decoder(model, 1)
    for index, layer in enumerate(model.model.layers):
        block = cast(Block, layer)
        w = folded_weights(
            config, block.input_layernorm, block.self_attn, block.mamba, block.pre_ff_layernorm, block.feed_forward
        )
        attention = len(w.inward) - block.mamba.in_proj.out_features  # rows of q, k and v
        mixer_first = [*range(attention, len(w.inward)), *range(attention)]
        expected: dict[str, tuple[Tensor, Tensor | None]] = {
            "input": (w.inward[mixer_first], None if w.inward_bias is None else w.inward_bias[mixer_first]),
            "out": (torch.cat([w.mixer_out, w.attention_out], 1), w.out_bias),
            "gate_up": (w.gate_up, w.gate_up_bias),
            "down": (w.down, w.down_bias),
        }
        for name, (weight, bias) in expected.items():
            packed = decoder._matrices[index, name]
            assert torch.equal(unpacked(packed.weight, packed.sides, packed.n), weight), name
            if bias is not None:
                assert packed.bias is not None
                assert torch.equal(unpacked(packed.bias[:, None], packed.sides, packed.n)[:, 0], bias), name


def unpacked(panels: Tensor, sides: int, n: int) -> Tensor:
    """[n, k] of panels [*, k, width], those of `sides` matrices in turn."""
    parts = [panels[side::sides].transpose(1, 2).flatten(0, 1)[: n // sides] for side in range(sides)]
    return torch.cat(parts)
