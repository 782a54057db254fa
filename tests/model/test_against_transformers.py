"""The same weights and tokens give the same logits here and in transformers, over random geometries."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from geometries import SMALL, gap, geometries, random_ids, randomised
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import FalconH1Config, FalconH1ForCausalLM

from h1r.models import load, save
from h1r.models.falcon_h1.config import HybridConfig
from h1r.models.falcon_h1.hf_config import from_hf, to_hf
from h1r.models.falcon_h1.hybrid import HybridForCausalLM

TOLERANCE = 2e-5
ILL_CONDITIONED = HybridConfig(
    vocab_size=17, hidden_size=16, intermediate_size=56, num_hidden_layers=2, num_attention_heads=1,
    num_key_value_heads=1, head_dim=2, mamba_d_ssm=8, mamba_n_heads=1, mamba_d_head=8, mamba_n_groups=1,
    mamba_d_state=4, mamba_d_conv=2, mamba_chunk_size=1, mamba_rms_norm=True, mamba_norm_before_gate=False,
    mamba_conv_bias=False, attention_bias=True, tie_word_embeddings=False, rope_theta=100.0,
    ssm_multipliers=(1.0, 0.5, 1.25, 1.0, 1.0),
)  # fmt: skip
"""With seed 1186 and 13 tokens both fp32 gradients are off by 1e-5 to 7e-5, whatever the order of additions."""


def in_transformers(model: HybridForCausalLM) -> FalconH1ForCausalLM:
    """transformers' model with our configuration and weights, without the detour over files."""
    config = FalconH1Config(**to_hf(model.config, "float32"))
    theirs = FalconH1ForCausalLM(config).eval()
    theirs.load_state_dict(model.state_dict(), strict=True)
    return theirs


@settings(max_examples=40, deadline=None)
@given(config=geometries(), rows=st.integers(1, 3), length=st.integers(1, 40), seed=st.integers(0, 2**31))
def test_logits_agree(config: HybridConfig, rows: int, length: int, seed: int) -> None:
    model = randomised(config, seed)
    tokens = random_ids(config, rows, length, seed=seed)
    with torch.no_grad():
        assert gap(model(tokens), in_transformers(model)(tokens).logits) < TOLERANCE


def gradients(model: torch.nn.Module, tokens: Tensor, pull: Tensor) -> dict[str, Tensor]:
    """The gradient of (logits * pull).sum() by parameter, in double precision."""
    found = model(tokens)
    logits = found if isinstance(found, Tensor) else found.logits
    (logits * pull.to(logits.dtype)).sum().backward()
    return {name: parameter.grad.double() for name, parameter in model.named_parameters()}


def gradient_gap(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The largest difference, as a share of a tensor's largest gradient.

    A clamped time step has a zero gradient, so that the smallest tensors are measured against the largest.
    """
    largest = max(grad.abs().max() for grad in expected.values())
    scales = {name: torch.maximum(grad.abs().max(), 1e-2 * largest) for name, grad in expected.items()}
    return max(float((found[name] - grad).abs().max() / scales[name]) for name, grad in expected.items())


def rounding_gap(config: HybridConfig, seed: int, tokens: Tensor, pull: Tensor) -> float:
    """What single precision must cost: the change of the gradients when every weight is off by its last bit."""
    model = randomised(config, seed, torch.float64)
    exact = gradients(model, tokens, pull)
    model.zero_grad()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.mul_(1 + torch.finfo(torch.float32).eps / 2 * noise)
    return gradient_gap(gradients(model, tokens, pull), exact)


@settings(max_examples=25, deadline=None)
@given(config=geometries(), length=st.integers(2, 20), seed=st.integers(0, 2**31))
@example(config=ILL_CONDITIONED, length=13, seed=1186)
def test_gradients_agree(config: HybridConfig, length: int, seed: int) -> None:
    tokens = random_ids(config, 2, length, seed=seed)
    pull = torch.randn(2, length, config.vocab_size, generator=torch.Generator().manual_seed(seed))
    model = randomised(config, seed)
    theirs = gradients(in_transformers(model), tokens, pull)
    # Where norms divide by little, a rounding anywhere moves the gradients by more than the usual 3e-5.
    tolerance = max(3e-5, 20 * rounding_gap(config, seed, tokens, pull))
    assert gradient_gap(gradients(model, tokens, pull), theirs) < tolerance

    double = randomised(config, seed, torch.float64)
    theirs = gradients(in_transformers(double).double(), tokens, pull)  # which scans in single precision all the same
    assert gradient_gap(gradients(double, tokens, pull), theirs) < tolerance / 3


# in_proj's bias is drawn off: transformers silences the input of in_proj at padded positions, not its output, so that
# with a bias the convolution of the first real tokens sees it. One row is not drawn: releases before mid-2026 do not
# mask the padding of a single row.
@settings(max_examples=25, deadline=None)
@given(
    config=geometries(mamba_proj_bias=False),
    lengths=st.lists(st.integers(1, 20), min_size=2, max_size=4),
    seed=st.integers(0, 2**31),
)
def test_left_padded_logits_agree(config: HybridConfig, lengths: list[int], seed: int) -> None:
    longest = max(lengths)
    assume(min(lengths) < longest)
    model = randomised(config, seed)
    tokens = torch.zeros(len(lengths), longest, dtype=torch.long)
    mask = torch.zeros_like(tokens)
    for row, length in enumerate(lengths):
        tokens[row, longest - length :] = random_ids(config, length, seed=seed + row)
        mask[row, longest - length :] = 1
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    with torch.no_grad():
        expected = in_transformers(model)(tokens, attention_mask=mask, position_ids=positions).logits
        assert gap(model(tokens, mask)[mask.bool()], expected[mask.bool()]) < TOLERANCE


@settings(max_examples=6, deadline=None)
@given(config=geometries(), shards=st.booleans(), seed=st.integers(0, 2**31))
def test_transformers_loads_what_we_save(
    config: HybridConfig, shards: bool, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("ours")
    model = randomised(config, seed)
    save(model, directory, max_shard_size=2000 if shards else "5GB")
    theirs, notes = FalconH1ForCausalLM.from_pretrained(directory, dtype="auto", output_loading_info=True)
    assert not any(notes.values())
    tokens = random_ids(config, 2, 21)
    with torch.no_grad():
        assert gap(model(tokens), theirs.eval()(tokens).logits) < TOLERANCE
    ends = theirs.generation_config.eos_token_id
    assert (tuple(ends) if isinstance(ends, list) else ends) == config.eos_token_id


@settings(max_examples=6, deadline=None)
@given(config=geometries(), shards=st.booleans(), seed=st.integers(0, 2**31))
def test_we_load_what_transformers_saves(
    config: HybridConfig, shards: bool, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("theirs")
    theirs = in_transformers(randomised(config, seed))
    theirs.save_pretrained(directory, max_shard_size=2000 if shards else "5GB")
    ours = load(directory)
    assert ours.config == config
    tokens = random_ids(config, 2, 21)
    with torch.no_grad():
        assert gap(ours(tokens), theirs(tokens).logits) < TOLERANCE


def test_bf16_logits_are_as_near_to_fp32_as_those_of_transformers() -> None:
    ours, theirs = [], []
    for seed in range(5):
        model, tokens = randomised(SMALL, seed, torch.bfloat16), random_ids(SMALL, 2, 21, seed=seed)
        with torch.no_grad():
            exact = in_transformers(model)(tokens).logits
            ours.append(gap(model(tokens).float(), exact))
            theirs.append(gap(in_transformers(model).bfloat16()(tokens).logits.float(), exact))
    assert sum(ours) < 1.3 * sum(theirs)


@pytest.mark.parametrize("null", [(), ("mamba_d_ssm",), ("head_dim",), ("num_key_value_heads",)])
def test_left_out_and_null_fields_mean_what_they_mean_in_transformers(null: tuple[str, ...]) -> None:
    theirs = FalconH1Config(hidden_size=512, **dict.fromkeys(null))
    ours = from_hf({"model_type": "falcon_h1", "hidden_size": 512, **dict.fromkeys(null)}, "config.json")
    expected = theirs.to_dict()
    head_dim = expected["hidden_size"] // expected["num_attention_heads"]
    d_ssm = 2 * 512 if null == ("mamba_d_ssm",) else 1024
    derived = {"head_dim": head_dim, "mamba_d_ssm": d_ssm, "rope_theta": 1e4, "time_step_limit": (0.0, float("inf"))}
    for name, value in {**expected, **derived}.items():
        if hasattr(ours, name):
            got = getattr(ours, name)
            assert (list(got) if isinstance(value, list) else got) == value, name


def test_a_directory_saved_twice_by_both_keeps_its_configuration(tmp_path: Path) -> None:
    save(randomised(SMALL), tmp_path / "a")
    FalconH1ForCausalLM.from_pretrained(tmp_path / "a").save_pretrained(tmp_path / "b")
    assert load(tmp_path / "b").config == SMALL
