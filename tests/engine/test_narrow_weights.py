"""Decoding with bf16 and int8 weights: what is computed is the model of the rounded weights, and nothing else."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from geometries import SMALL, geometries, randomised
from hypothesis import given, settings
from hypothesis import strategies as st
from test_native_decode import decode, native
from torch import Tensor, nn

from h1r.common.engines import Weights
from h1r.config import EngineSection
from h1r.engine.choose import open_engine
from h1r.engine.native.engine import NativeEngine
from h1r.engine.native.memory_bytes import runner_bytes
from h1r.engine.protocol import SamplingParams
from h1r.errors import UserError
from h1r.kernels.selection import select
from h1r.models.falcon_h1.config import HybridConfig
from h1r.models.falcon_h1.decode import Decoder
from h1r.models.falcon_h1.hybrid import Block, HybridForCausalLM

BLOCKS = dataclasses.replace(
    SMALL, vocab_size=130, hidden_size=150, intermediate_size=131, num_attention_heads=6, head_dim=32,
    mamba_d_ssm=160, mamba_n_heads=10, mamba_d_head=16,
)  # fmt: skip
"""More than one block of int8 in an output, one across the two matrices of `out`, and odd inputs."""
NARROW: tuple[Weights, ...] = ("bfloat16", "int8")


def blocks_of_int8(weight: Tensor) -> Tensor:
    pieces = []
    for piece in weight.split(128, 1):
        scale = piece.abs().amax(1, keepdim=True) / 127
        pieces.append((piece / scale).round() * scale)
    return torch.cat(pieces, 1)


ROUND: dict[str, Callable[[Tensor], Tensor]] = {"bfloat16": lambda w: w.bfloat16().float(), "int8": blocks_of_int8}


@torch.no_grad()
def rounded(model: HybridForCausalLM, weights: str) -> HybridForCausalLM:
    """A model whose matrices have the values that `weights` can hold; the embedding keeps its own."""
    twin, by = copy.deepcopy(model), ROUND[weights]
    twin.lm_head.weight = nn.Parameter(by(twin.lm_head.weight))
    for block in twin.model.layers:
        assert isinstance(block, Block)
        mamba, attention, mlp = block.mamba, block.self_attn, block.feed_forward
        for linear in (
            mamba.in_proj, attention.q_proj, attention.k_proj, attention.v_proj, mlp.gate_proj, mlp.up_proj,
            mlp.down_proj,
        ):  # fmt: skip
            linear.weight.copy_(by(linear.weight))
        out = (mamba.out_proj.weight, attention.o_proj.weight)  # the rows of both are one
        for weight, found in zip(out, by(torch.cat(out, 1)).split([w.shape[1] for w in out], 1), strict=True):
            weight.copy_(found)
    return twin


def ids_of(config: HybridConfig, seed: int = 0) -> Tensor:
    return torch.randint(0, config.vocab_size, (2, 19), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def logits_of(model: HybridForCausalLM, weights: Weights, cuts: list[int], seed: int = 0) -> tuple[Tensor, Tensor]:
    """By the decoder with narrow weights, and by the training forward with the rounded ones."""
    ids = ids_of(model.config, seed)
    expected = rounded(model, weights).use(select("torch"))(ids)
    return decode(Decoder(model, ids.numel(), weights), ids, cuts)[0], expected


@settings(max_examples=12, deadline=None)
@given(config=geometries(), weights=st.sampled_from(NARROW), cuts=st.sets(st.integers(1, 18), max_size=3))
def test_any_geometry_equals_the_forward_with_rounded_weights(
    config: HybridConfig, weights: Weights, cuts: set[int]
) -> None:
    got, expected = logits_of(native(config), weights, sorted(cuts))
    if weights == "bfloat16":
        torch.testing.assert_close(got, expected, atol=2e-5, rtol=2e-5)
    # Inputs of int8 products have 16 bits, whose rounding the narrowest of these models amplify a hundredfold in single
    # places; a term of a product that is left out, or multiplied by another's weight, moves all logits by percents.
    assert (got - expected).norm() < 5e-3 * expected.norm()


@pytest.mark.parametrize(("weights", "tolerance"), [("bfloat16", 2e-5), ("int8", 1e-3)])
def test_several_blocks_equal_the_forward_with_rounded_weights(weights: Weights, tolerance: float) -> None:
    model = native(BLOCKS)
    got, expected = logits_of(model, weights, [17, 18])
    torch.testing.assert_close(got, expected, atol=tolerance, rtol=tolerance)
    with torch.no_grad():
        exact = model.use(select("torch"))(ids_of(BLOCKS))
    assert (exact - got).abs().max() > 5 * tolerance, "the tolerance would not see whether weights are rounded"


def test_weights_that_are_bf16_lose_nothing() -> None:
    model = rounded(native(BLOCKS), "bfloat16").use(select("native"))
    ids = ids_of(BLOCKS)
    exact, narrow = (decode(Decoder(model, ids.numel(), kind), ids, [18])[0] for kind in ("auto", "bfloat16"))
    torch.testing.assert_close(narrow, exact, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("weights", NARROW)
def test_a_token_is_the_same_bits_in_any_batch_cut_and_number_of_threads(weights: Weights) -> None:
    decoder = Decoder(native(BLOCKS), 200, weights)
    ids = torch.randint(0, BLOCKS.vocab_size, (9, 21), generator=torch.Generator().manual_seed(1))
    whole, held = decode(decoder, ids, [])
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        got, again = decode(decoder, ids, [1, 2, 18])
    finally:
        torch.set_num_threads(before)
    assert torch.equal(got, whole)
    assert all(torch.equal(held[name], again[name]) for name in held)
    for row in (0, 8):
        assert torch.equal(decode(decoder, ids[row : row + 1], [20])[0][0], whole[row])


@pytest.mark.parametrize("weights", NARROW)
def test_a_weight_or_an_input_that_is_no_number_shows(weights: Weights) -> None:
    for broken in ("feed_forward.down_proj.weight", "input_layernorm.weight"):
        model = native(SMALL)
        model.get_parameter(f"model.layers.0.{broken}").data.view(-1)[3] = torch.nan
        assert decode(Decoder(model, 38, weights), ids_of(SMALL), [])[0].isnan().any()


@pytest.mark.parametrize("weights", NARROW)
def test_new_weights_are_narrowed_too_and_old_ones_once(weights: Weights, monkeypatch: pytest.MonkeyPatch) -> None:
    packed, pack = [], Decoder.pack
    monkeypatch.setattr(Decoder, "pack", lambda self: (packed.append(1), pack(self)))
    section = EngineSection(max_sequences=2, weights=weights)
    engine = NativeEngine(native(SMALL, seed=1), None, section, eos_token_ids=())
    greedy = SamplingParams(temperature=0.0, max_tokens=12)
    before = engine.generate([[5, 9]], greedy)
    assert engine.generate([[5, 9]], greedy) == before
    assert len(packed) == 1
    engine.load_weights(randomised(SMALL, seed=2).state_dict())
    fresh = NativeEngine(native(SMALL, seed=2), None, section, eos_token_ids=())
    after = engine.generate([[5, 9]], greedy)
    assert after == fresh.generate([[5, 9]], greedy)
    assert after != before


def test_memory_is_what_the_decoder_holds() -> None:
    config = BLOCKS.replaced(hidden_size=256, intermediate_size=512)
    model = native(config)
    for weights in ("auto", *NARROW):
        decoder = Decoder(model, 7, weights)
        packed = [*decoder._matrices.values(), decoder._head]
        held = sum(t.nbytes for one in packed for t in (one.weight, one.bias, one.scale) if t is not None)
        assert held == Decoder.weight_bytes(config, weights)
        scratch = [*decoder._scratch, *decoder._places, *decoder._integers]
        foretold = Decoder.scratch_bytes(config, 7, 0, weights)
        assert foretold == sum(t.nbytes for t in scratch)
    whole, half, quarter = (runner_bytes(model, 7, 9, False, False, weights).fixed for weights in ("auto", *NARROW))
    assert quarter < half < whole


def test_who_may_not_have_them_is_told() -> None:
    model = native(SMALL)
    section = EngineSection(weights="int8")

    def opened(section: EngineSection, given: Any) -> None:
        with open_engine(section, None, given):
            pass

    opened(section, lambda: model)
    with pytest.raises(UserError, match=r"refused beside a trainer.*leave it out for RL"):
        opened(section, model)
    with pytest.raises(UserError, match="the model runs on torch kernels; leave it out"):
        opened(section, lambda: randomised(SMALL).use(select("torch")))
    with pytest.raises(ValueError, match='is for kind = "native" alone'):
        EngineSection(kind="vllm", weights="int8")
