"""What only the vLLM engine promises: weights that arrive whole, shared prefills, an fp32 state, and its refusals."""

from __future__ import annotations

import dataclasses
import os
import random
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine_subjects import gap, said
from geometries import SMALL, random_ids, randomised

from h1r.config import EngineSection
from h1r.engine.protocol import SamplingParams
from h1r.engine.vllm.limits import block_tokens, unsupported
from h1r.engine.vllm.versions import ANY_VERSION, VERSIONS, untested
from h1r.errors import UserError
from h1r.models import save
from h1r.models.falcon_h1.hybrid import HybridForCausalLM
from h1r.records import Trace

CONFIG = dataclasses.replace(SMALL, head_dim=32, mamba_rms_norm=True, max_position_embeddings=256)
SECTION = EngineSection(max_sequences=6, prefill_tokens=256)
EVERYTHING = dataclasses.replace(CONFIG, mamba_proj_bias=True, projectors_bias=True, mamba_chunk_size=16)
"""Every tensor that vLLM knows: gated norm, biases of convolution and projections, an output head of its own."""
PROMPTS = [[5, 9, 11], random_ids(EVERYTHING, 70).tolist()]
GREEDY = SamplingParams(temperature=0.0, max_tokens=8)
KINDS = (
    "embed_tokens.weight", "lm_head.weight", "final_layernorm.weight", "input_layernorm.weight",
    "pre_ff_layernorm.weight", "mamba.A_log", "mamba.D", "mamba.dt_bias", "mamba.conv1d.weight", "mamba.conv1d.bias",
    "mamba.in_proj.weight", "mamba.in_proj.bias", "mamba.norm.weight", "mamba.out_proj.weight", "mamba.out_proj.bias",
    "self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight", "self_attn.o_proj.weight",
    "feed_forward.gate_proj.weight", "feed_forward.up_proj.weight", "feed_forward.down_proj.weight",
)  # fmt: skip


@pytest.fixture(scope="module")
def subject() -> HybridForCausalLM:
    return randomised(EVERYTHING, seed=5)


def process_state() -> tuple[Any, ...]:
    numbers = torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()
    return torch.get_num_threads(), torch.set_num_threads, numbers, dict(os.environ)


@pytest.fixture(scope="module")
def started(
    vllm_installed: None, subject: HybridForCausalLM, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Any, Any, Any]]:
    """An engine, and the state of the process before and after its start. (The import alone sets variables, too.)"""
    from vllm.platforms import current_platform

    from h1r.engine.vllm.engine import VLLMEngine

    assert current_platform

    checkpoint = save(subject, tmp_path_factory.mktemp("model"))
    settings = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1", "VLLM_USE_V2_MODEL_RUNNER": "0"}
    os.environ.update(settings)
    before = process_state()
    engine = VLLMEngine(checkpoint, None, SECTION, (), in_process=True)
    yield engine, before, process_state()
    engine.close()


@pytest.fixture
def engine(started: tuple[Any, Any, Any]) -> Any:
    return started[0]


@pytest.fixture
def own(engine: Any, subject: HybridForCausalLM) -> Iterator[list[Trace]]:
    """What the engine says with the weights it started with, which it has again afterwards."""
    yield engine.generate(PROMPTS, GREEDY)
    engine.load_weights(subject.state_dict())


def test_the_kinds_below_are_all_tensors_there_are(subject: HybridForCausalLM) -> None:
    found = {re.sub(r"^(model\.)?(layers\.\d+\.)?", "", name) for name in subject.state_dict()}
    assert found == set(KINDS)


def test_taking_its_own_weights_changes_no_bit(
    engine: Any, subject: HybridForCausalLM, own: list[Trace], tmp_path: Path
) -> None:
    engine.load_weights(subject.state_dict())
    assert said(engine.generate(PROMPTS, GREEDY)) == said(own)
    engine.load_weights(save(subject, tmp_path / "again"))
    assert said(engine.generate(PROMPTS, GREEDY)) == said(own)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_tensor_arrives_and_goes_back(
    engine: Any, subject: HybridForCausalLM, own: list[Trace], kind: str
) -> None:
    other = HybridForCausalLM(EVERYTHING)
    other.load_state_dict(subject.state_dict())
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in other.named_parameters():
            if name.endswith(kind):
                tensor.add_(0.5 * torch.randn(tensor.shape, generator=generator) * tensor.std().clamp_min(0.5))
    engine.load_weights(other.state_dict())
    changed = engine.generate(PROMPTS, GREEDY)
    assert gap(subject, PROMPTS, changed) > 1e-2
    assert gap(other, PROMPTS, changed) < 1e-3
    engine.load_weights(subject.state_dict())
    assert said(engine.generate(PROMPTS, GREEDY)) == said(own)


def test_weights_of_a_trainer_arrive_after_its_step(engine: Any, own: list[Trace], tmp_path: Path) -> None:
    trained = randomised(EVERYTHING, seed=5)
    optimizer = torch.optim.AdamW(trained.parameters(), lr=0.05)
    ids = random_ids(EVERYTHING, 2, 20)
    logits = trained(ids)[:, :-1]
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).backward()
    optimizer.step()
    engine.load_weights(trained.state_dict())
    from_state = engine.generate(PROMPTS, GREEDY)
    assert said(from_state) != said(own)
    assert gap(trained, PROMPTS, from_state) < 1e-3
    engine.load_weights(save(trained, tmp_path / "step"))
    assert said(engine.generate(PROMPTS, GREEDY)) == said(from_state)


def test_cached_prefixes_do_not_outlive_their_weights(engine: Any, own: list[Trace]) -> None:
    other = randomised(EVERYTHING, seed=6)
    engine.load_weights(other.state_dict())
    assert gap(other, PROMPTS, engine.generate(PROMPTS, GREEDY)) < 1e-3


def test_weights_that_do_not_match_change_nothing(
    engine: Any, subject: HybridForCausalLM, own: list[Trace], tmp_path: Path
) -> None:
    state = subject.state_dict()
    with pytest.raises(UserError, match=r"tensor model\.layers\.1\.mamba\.D is missing"):
        engine.load_weights({name: t for name, t in state.items() if name != "model.layers.1.mamba.D"})
    with pytest.raises(UserError, match=r"tensor model\.other has no place"):
        engine.load_weights({**state, "model.other": torch.zeros(2)})
    with pytest.raises(UserError, match=r"final_layernorm.weight has shape \[3\], the engine has \[32\]"):
        engine.load_weights({**state, "model.final_layernorm.weight": torch.zeros(3)})
    wider = randomised(dataclasses.replace(EVERYTHING, key_multiplier=0.5))
    with pytest.raises(UserError, match=r"key_multiplier = 0\.5, the running engine has 0\.8"):
        engine.load_weights(save(wider, tmp_path / "wider"))
    # A prompt that finds its prefix cached is prefilled in other pieces, which the last bit shows.
    engine._llm.reset_prefix_cache()
    assert said(engine.generate(PROMPTS, GREEDY)) == said(own)


def test_traces_of_one_prompt_share_the_whole_blocks_of_its_prefill(engine: Any, monkeypatch: Any) -> None:
    block = engine.block_tokens
    prompt = random_ids(EVERYTHING, 2 * block + 6, seed=9).tolist()
    cached: dict[str, int] = {}
    core = engine._llm.llm_engine
    step = core.step

    def watched() -> Any:
        outputs = step()
        cached.update({output.request_id: output.num_cached_tokens for output in outputs})
        return outputs

    monkeypatch.setattr(core, "step", watched)
    engine.generate([prompt], SamplingParams(n=4, max_tokens=3))
    assert sorted(cached.values()) == [0, 2 * block, 2 * block, 2 * block]


def test_a_lone_prompt_of_several_blocks_and_steps_is_answered(engine: Any, subject: HybridForCausalLM) -> None:
    prompt = random_ids(EVERYTHING, 6 * engine.block_tokens + 3, seed=2).tolist()
    (trace,) = engine.generate([prompt], GREEDY)
    with torch.no_grad():
        logits = subject(torch.tensor([[*prompt, *trace.token_ids]]))[0, len(prompt) - 1 : -1]
    expected = logits.log_softmax(-1).gather(-1, torch.tensor(trace.token_ids)[:, None])[:, 0]
    np.testing.assert_allclose(trace.logprobs, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"attention_bias": True}, "attention_bias = true"),
        ({"mlp_bias": True}, "mlp_bias = true"),
        ({"projectors_bias": True}, "projectors_bias unlike mamba_proj_bias"),
        ({"mamba_proj_bias": True}, "projectors_bias unlike mamba_proj_bias"),
        ({"mamba_norm_before_gate": True}, "mamba_norm_before_gate = true with mamba_rms_norm"),
        ({"time_step_limit": (0.05, 0.5)}, r"time_step_limit = \[0.05, 0.5\]"),
        ({"head_dim": 16}, "head_dim = 16"),
    ],
)
def test_a_geometry_that_vllm_computes_otherwise_is_refused_by_name(
    vllm_installed: None, tmp_path: Path, change: dict[str, Any], why: str
) -> None:
    from h1r.engine.vllm.engine import VLLMEngine

    model = randomised(dataclasses.replace(CONFIG, **change))
    with pytest.raises(UserError, match=f"vLLM cannot run this geometry: {why}.*use the native engine"):
        VLLMEngine(save(model, tmp_path), in_process=True)


def test_a_head_dim_is_refused_only_where_attention_runs_on_a_cpu() -> None:
    config = dataclasses.replace(CONFIG, head_dim=16)
    assert unsupported(config, on_cpu=True)
    assert unsupported(config, on_cpu=False) is None


def test_bf16_asks_the_cpu_convolution_for_whole_vectors() -> None:
    assert CONFIG.conv_dim == 80
    assert "80 channels" in str(unsupported(CONFIG, on_cpu=True, dtype="bfloat16"))
    assert unsupported(dataclasses.replace(CONFIG, mamba_n_heads=8, mamba_d_ssm=64), True, "bfloat16") is None
    assert "float64" in str(unsupported(CONFIG, on_cpu=False, dtype="float64"))


def test_a_block_holds_a_layers_tail_and_state() -> None:
    for config, size in ((CONFIG, 4), (EVERYTHING, 4), (dataclasses.replace(CONFIG, mamba_d_state=200), 2)):
        block = block_tokens(config, size)
        keys_and_values = 2 * config.num_key_value_heads * config.head_dim * size
        state = config.mamba_d_ssm * config.mamba_d_state * 4 + config.conv_dim * (config.mamba_d_conv - 1) * size
        assert block % 32 == 0
        assert (block - 32) * keys_and_values < state <= block * keys_and_values


def test_a_process_with_torch_distributed_is_refused(
    vllm_installed: None, subject: HybridForCausalLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from h1r.engine.vllm.engine import VLLMEngine

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    with pytest.raises(UserError, match="drop in_process=True"):
        VLLMEngine(save(subject, tmp_path), None, EngineSection(), in_process=True)


@pytest.mark.parametrize("on_cpu", [False, True])
@pytest.mark.parametrize("enforce_eager", [False, True])
def test_graphs_are_turned_off_by_the_recipe_and_on_a_cpu(
    vllm_installed: None, subject: HybridForCausalLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    enforce_eager: bool, on_cpu: bool,
) -> None:  # fmt: skip
    import vllm
    from vllm.platforms import current_platform

    from h1r.engine.vllm.engine import VLLMEngine

    asked: dict[str, Any] = {}

    def start(**arguments: Any) -> None:
        asked.update(arguments)
        raise InterruptedError

    monkeypatch.setattr(vllm, "LLM", start)
    monkeypatch.setattr(type(current_platform), "is_cpu", lambda self: on_cpu)
    with pytest.raises(InterruptedError):
        VLLMEngine(save(subject, tmp_path), None, EngineSection(enforce_eager=enforce_eager))
    assert asked["enforce_eager"] == (enforce_eager or on_cpu)


def test_a_start_leaves_threads_random_numbers_and_environment_alone(started: tuple[Any, Any, Any]) -> None:
    _, before, after = started
    assert before == after


@pytest.mark.parametrize("version", ["0.32.0", "0.32.1+cpu", "0.32.1rc1.dev12+gabc"])
def test_versions_that_were_tested_are_taken(version: str) -> None:
    assert untested(version) is None


@pytest.mark.parametrize("version", ["0.31.2", "0.33.0", "1.0.0", "0.320.0", "dev"])
def test_another_version_of_vllm_is_one_sentence(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    said = str(untested(version))
    assert said.startswith(f"vLLM {version} is installed")
    assert "made for 0.32.x" in said
    monkeypatch.setenv(ANY_VERSION, "1")
    assert untested(version) is None


def test_the_package_asks_for_the_versions_that_were_tested() -> None:
    project = tomllib.loads((Path(__file__).resolve().parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    (asked,) = project["project"]["optional-dependencies"]["vllm"]
    major, minor = VERSIONS[-1].split(".")
    assert asked == f"vllm>={VERSIONS[0]},<{major}.{int(minor) + 1}"
