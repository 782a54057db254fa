"""Qwen3 (dense) is transformers' Qwen3, packed, padded, cached, saved and in the native engine."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import Qwen3Config as TheirConfig
from transformers import Qwen3ForCausalLM as TheirModel

from h1r.config import EngineSection
from h1r.engine.native.engine import NativeEngine
from h1r.engine.protocol import SamplingParams
from h1r.errors import UserError
from h1r.kernels.layout import Layout
from h1r.kernels.selection import select
from h1r.models import build, load, save
from h1r.models.checkpoint import read_config
from h1r.models.qwen3.config import PRESETS, Qwen3Config
from h1r.models.qwen3.hf_config import from_hf, to_hf
from h1r.models.qwen3.model import Qwen3ForCausalLM

SMALL = Qwen3Config(
    vocab_size=61, hidden_size=48, intermediate_size=56, num_attention_heads=6, num_key_value_heads=2, head_dim=16,
    initializer_range=0.3, max_position_embeddings=256, eos_token_id=7,
)  # fmt: skip
TIED_WITH_BIAS = dataclasses.replace(SMALL, tie_word_embeddings=True, attention_bias=True, rope_theta=1e3)


def randomised(config: Qwen3Config, seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
    """Random values in norms and biases, too."""
    model = build(config, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.to(dtype)


def ids(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(1, SMALL.vocab_size, shape, generator=torch.Generator().manual_seed(seed))


def same_bits(one: Any, other: Any) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(a[n].dtype == b[n].dtype and torch.equal(a[n], b[n]) for n in a)


@pytest.mark.parametrize("config", [SMALL, TIED_WITH_BIAS], ids=["plain", "tied-bias"])
@torch.no_grad()
def test_logits_are_those_of_transformers(config: Qwen3Config, tmp_path: Path) -> None:
    model = randomised(config)
    save(model, tmp_path)
    theirs = TheirModel.from_pretrained(tmp_path).eval()
    batch = ids(2, 40)
    torch.testing.assert_close(model(batch), theirs(batch).logits, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("tied", [False, True])
def test_a_checkpoint_of_transformers_comes_back_to_the_bit(tied: bool, tmp_path: Path) -> None:
    theirs = TheirModel(
        TheirConfig(
            vocab_size=61, hidden_size=48, intermediate_size=56, num_hidden_layers=2, num_attention_heads=6,
            num_key_value_heads=2, head_dim=16, tie_word_embeddings=tied, eos_token_id=[7, 9],
        )
    ).to(torch.bfloat16)  # fmt: skip
    theirs.save_pretrained(tmp_path / "theirs")
    model = load(tmp_path / "theirs")
    assert isinstance(model, Qwen3ForCausalLM)
    assert model.config.eos_token_ids == (7, 9)
    save(model, tmp_path / "ours")
    assert same_bits(TheirModel.from_pretrained(tmp_path / "ours", dtype="auto"), theirs)
    files = [load_file(tmp_path / name / "model.safetensors") for name in ("theirs", "ours")]
    assert files[0].keys() == files[1].keys()
    assert read_config(tmp_path / "ours") == model.config


@settings(max_examples=15, deadline=None)
@given(
    kv=st.integers(1, 3), per_group=st.integers(1, 3), half=st.integers(1, 8), tied=st.booleans(), bias=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)  # fmt: skip
def test_saved_and_loaded_is_the_same_to_the_bit(
    kv: int, per_group: int, half: int, tied: bool, bias: bool, dtype: torch.dtype,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:  # fmt: skip
    config = dataclasses.replace(
        SMALL, num_key_value_heads=kv, num_attention_heads=kv * per_group, head_dim=2 * half,
        tie_word_embeddings=tied, attention_bias=bias,
    )  # fmt: skip
    model = randomised(config, dtype=dtype)
    found = load(save(model, tmp_path_factory.mktemp("saved")))
    assert found.config == config
    assert same_bits(found, model)


@pytest.mark.parametrize("kernels", ["torch", "auto"])
def test_packed_equals_unpacked_with_gradients(kernels: str) -> None:
    model = randomised(SMALL).use(select(kernels))
    lengths = [1, 19, 5]
    documents = [ids(n, seed=n) for n in lengths]
    pull = torch.randn(sum(lengths), SMALL.vocab_size, generator=torch.Generator().manual_seed(3))

    def gradients(logits: torch.Tensor) -> dict[str, torch.Tensor]:
        model.zero_grad()
        (logits * pull).sum().backward()
        return {name: p.grad.clone() for name, p in model.named_parameters()}

    packed = model.logits(model.model(torch.cat(documents), Layout.of(lengths)))
    alone = torch.cat([model(document[None])[0] for document in documents])
    torch.testing.assert_close(packed, alone, atol=1e-5, rtol=1e-4)
    a, b = gradients(packed), gradients(alone)
    largest = max(float(g.abs().max()) for g in b.values())
    assert max(float((a[name] - b[name]).abs().max()) for name in b) < 1e-5 * largest


@torch.no_grad()
def test_decoding_and_prefill_in_pieces_equal_the_training_forward() -> None:
    model = randomised(SMALL)
    batch = ids(2, 30)
    expected = model(batch)
    cache = model.new_cache(2, 32)
    borders = [0, 7, 8, 20, *range(21, 31)]
    pieces = [model.logits(model.model.cached(batch[:, a:b], cache, None)) for a, b in itertools.pairwise(borders)]
    torch.testing.assert_close(torch.cat(pieces, 1), expected, atol=1e-5, rtol=1e-4)
    assert cache.lengths.tolist() == [30, 30]


def test_the_native_engine_says_what_it_runs_on_and_its_log_probabilities_are_the_model_s() -> None:
    model = randomised(SMALL).use(select("auto"))
    engine = NativeEngine(model, section=EngineSection(max_sequences=3))
    prompts = [ids(9).tolist(), ids(3, seed=2).tolist()]
    traces = engine.generate(prompts, SamplingParams(n=2, max_tokens=12, seed=4))
    assert engine.runner is not None
    assert "the family qwen3 has no decoder in C" in engine.runner.how
    assert model.kernels.name in engine.runner.how
    for trace in traces:
        prompt = prompts[trace.prompt_index]
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *trace.token_ids]]))[0, len(prompt) - 1 : -1]
        expected = logits.log_softmax(-1).gather(-1, torch.tensor(trace.token_ids)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(trace.logprobs), expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("use_sliding_window", True, "use_sliding_window = True is not supported: attention sees the whole past"),
        ("layer_types", ["full_attention", "sliding_attention"], "layer_types is only supported as 'full_attention'"),
        ("rope_scaling", {"rope_type": "yarn", "factor": 4.0}, "only rope_type 'default' is"),
        ("num_experts", 8, "num_experts = 8 is unknown here"),
        ("hidden_act", "gelu", "hidden_act = 'gelu' is not supported"),
        ("head_dim", 7, "head_dim must be even"),
    ],
)
def test_a_configuration_that_is_not_implemented_is_refused_by_name(key: str, value: Any, message: str) -> None:
    with pytest.raises(UserError, match=f"^config.json: .*{message}"):
        from_hf({**to_hf(SMALL, "float32"), key: value}, "config.json")


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_survives_its_json(name: str) -> None:
    text = json.dumps(to_hf(PRESETS[name], "bfloat16"), allow_nan=False)
    assert from_hf(json.loads(text), "config.json") == PRESETS[name]


@pytest.mark.parametrize(
    ("name", "billions"),
    [("qwen3-0.6b", 0.596), ("qwen3-1.7b", 1.72), ("qwen3-4b", 4.02), ("qwen3-8b", 8.19), ("qwen3-14b", 14.8)],
)
def test_presets_have_the_published_sizes(name: str, billions: float) -> None:
    with torch.device("meta"):
        model = Qwen3ForCausalLM(PRESETS[name])
    assert sum(p.numel() for p in model.parameters()) / 1e9 == pytest.approx(billions, rel=0.005)
