"""vLLM's log-probabilities of sampled tokens are those of the training forward, on random geometries.

vLLM's start is cheap when it is not the first: about 0.3 s of it and 0.1 s of generating per geometry in one process,
after 5 s for the first. What else it costs is full garbage collections, eight of 0.25 s each for a start and an end, so
they are put off to the end of the test.
"""

from __future__ import annotations

import base64
import dataclasses
import gc
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine_subjects import gap
from geometries import SMALL, geometries, random_ids, randomised
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from h1r.cli import main
from h1r.config import EngineSection
from h1r.data.tokenizer import train_tokenizer
from h1r.engine.protocol import SamplingParams
from h1r.engine.vllm.limits import CPU_HEAD_DIMS, unsupported
from h1r.models import save
from h1r.models.falcon_h1.config import HybridConfig
from h1r.models.falcon_h1.hybrid import HybridForCausalLM

TOLERANCE = 1e-3
"""Nats."""
MAX_TOKENS = 12


@st.composite
def supported(draw: st.DrawFn) -> HybridConfig:
    """Geometries as `geometries` draws them, but for what `unsupported` refuses."""
    projections, gated_norm = draw(st.booleans()), draw(st.booleans())
    config = draw(
        geometries(
            head_dim=draw(st.sampled_from(CPU_HEAD_DIMS)),
            attention_bias=False,
            mlp_bias=False,
            projectors_bias=projections,
            mamba_proj_bias=projections,
            mamba_rms_norm=gated_norm,
            mamba_norm_before_gate=not gated_norm and draw(st.booleans()),
            time_step_limit=(0.0, float("inf")),
            eos_token_id=None,
            max_position_embeddings=512,
        )
    )
    assert unsupported(config, on_cpu=True) is None
    return config


@pytest.fixture
def put_off_collections(vllm_installed: None, monkeypatch: pytest.MonkeyPatch) -> Any:
    collect = gc.collect
    monkeypatch.setattr(gc, "collect", lambda *args: 0)
    yield
    collect()


def worst_gap(model: HybridForCausalLM, lengths: list[int], section: EngineSection, prefix_caching: bool) -> float:
    """Largest difference in nats between what vLLM reports and the training forward, two traces for each prompt."""
    from h1r.engine.vllm.engine import VLLMEngine

    prompts = [random_ids(model.config, n, seed=n).tolist() for n in lengths]
    with tempfile.TemporaryDirectory() as directory:
        engine = VLLMEngine(
            save(model, directory), section=section, in_process=True, prefix_caching=prefix_caching, eos_token_ids=()
        )
        try:
            traces = engine.generate(prompts, SamplingParams(n=2, max_tokens=MAX_TOKENS, seed=1))
        finally:
            engine.close()
    for trace in traces:
        assert trace.finish_reason == "length", trace.error
    return gap(model, prompts, traces)


@settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    # Each start takes 0.4 s: shrinking a failure would take minutes.
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    print_blob=True,
)
@given(
    config=supported(),
    lengths=st.lists(st.integers(1, 300), min_size=1, max_size=3),
    prefill_tokens=st.sampled_from([16, 100, 4096]),
    prefix_caching=st.booleans(),
    seed=st.integers(0, 99),
)
@pytest.mark.slow
def test_logprobs_are_those_of_the_training_forward(
    put_off_collections: None,
    config: HybridConfig,
    lengths: list[int],
    prefill_tokens: int,
    prefix_caching: bool,
    seed: int,
) -> None:
    section = EngineSection(max_sequences=4, prefill_tokens=prefill_tokens)
    assert worst_gap(randomised(config, seed), lengths, section, prefix_caching) < TOLERANCE


@pytest.mark.parametrize(
    "change",
    [
        {"attention_bias": True},
        {"mlp_bias": True},
        {"projectors_bias": True},
        {"mamba_proj_bias": True},
        {"mamba_rms_norm": True, "mamba_norm_before_gate": True},
        {"time_step_limit": (0.05, 0.5)},
    ],
    ids=lambda change: list(change)[-1],
)
def test_what_is_refused_would_be_computed_otherwise(
    put_off_collections: None, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    """A refusal that a newer vLLM no longer needs turns this red. What vLLM leaves unfilled, such as the second bias of
    a mixer whose checkpoint has one, holds whatever the memory held: here ones."""
    empty = torch.empty

    def filled(*size: Any, **options: Any) -> torch.Tensor:
        tensor = empty(*size, **options)
        return tensor.fill_(1) if tensor.is_floating_point() else tensor

    monkeypatch.setattr(torch, "empty", filled)
    config = dataclasses.replace(SMALL, head_dim=32, max_position_embeddings=256, **change)
    monkeypatch.setattr("h1r.engine.vllm.engine.unsupported", lambda *_: None)
    assert worst_gap(randomised(config, 1), [3, 80], EngineSection(max_sequences=4), prefix_caching=True) > 0.03


@pytest.mark.slow
def test_a_hybrid_that_vllm_alone_knows_has_the_logprobs_of_its_own_code(
    put_off_collections: None, tmp_path: Path
) -> None:
    """Nemotron-H. transformers holds steps of time above `time_step_min`, and vLLM does not, so it is nearly 0 here."""
    from transformers import NemotronHConfig, NemotronHForCausalLM

    from h1r.engine.vllm.engine import VLLMEngine

    torch.manual_seed(0)
    layers = ["linear_attention", "mlp", "linear_attention", "full_attention", "mlp"]
    config = NemotronHConfig(
        layers_block_type=layers, vocab_size=61, hidden_size=64, intermediate_size=96, num_attention_heads=4,
        num_key_value_heads=2, head_dim=32, ssm_state_size=16, mamba_num_heads=8, mamba_head_dim=16, n_groups=2,
        chunk_size=32, max_position_embeddings=256, time_step_min=1e-6, eos_token_id=None,
    )  # fmt: skip
    model = NemotronHForCausalLM(config).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    model.save_pretrained(tmp_path)
    prompts = [torch.randint(1, 61, (n,)).tolist() for n in (3, 150)]
    section = EngineSection(max_sequences=4, prefill_tokens=100)
    engine = VLLMEngine(tmp_path, section=section, in_process=True, cache_bytes=1 << 26)
    try:
        traces = engine.generate(prompts, SamplingParams(n=2, max_tokens=MAX_TOKENS, seed=1))
    finally:
        engine.close()
    assert gap(lambda ids: model(ids).logits, prompts, traces) < TOLERANCE


def test_a_checkpoint_of_another_architecture_is_evaluated_by_one_command(
    put_off_collections: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A Llama as transformers saves it, with a chat template of its own: each answer is its model's greedy one."""
    from transformers import LlamaConfig, LlamaForCausalLM

    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    tokenizer = train_tokenizer(["What is 1 + 2?"], 300)
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m.role }}> {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}<assistant> {% endif %}"
    )
    config = LlamaConfig(
        vocab_size=304, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=32, max_position_embeddings=256, eos_token_id=None, tie_word_embeddings=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    model.save_pretrained("llama")
    tokenizer.save_pretrained("llama")
    sums = [{"question": f"What is {n} + 9?", "answer": str(n + 9)} for n in (11, 23)]
    Path("sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in sums))
    asked = ["eval", "llama", "--benchmark", "sums.jsonl", "--prompt", "{question}", "--json"]
    keys = {"engine.kind": "vllm", "eval.samples": 2, "eval.temperature": 0, "eval.max_tokens": 12}
    with pytest.raises(SystemExit) as ended:
        main([*asked, *(part for key, value in keys.items() for part in ("--set", f"{key}={value}"))])
    assert ended.value.code == 0
    found = json.loads(capsys.readouterr().out)["eval_base"]["benchmarks"]["sums"]
    assert (found["problems"], found["samples_per_problem"], found["error"], found["unscored"]) == (2, 2, 0, 0)
    rows = [json.loads(line) for line in next(Path("runs").rglob("*.samples.jsonl")).read_text().splitlines()]
    assert len(rows) == 4
    for row in rows:
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": row["question"]}], add_generation_prompt=True, return_dict=False
        )
        said = np.frombuffer(base64.b64decode(row["token_ids"]), np.int32).tolist()
        assert len(said) == 12
        likeliest = model(torch.tensor([prompt + said])).logits[0].argmax(-1)
        assert said == likeliest[len(prompt) - 1 : -1].tolist()


def test_the_state_is_fp32_beside_bf16_weights_which_reload(put_off_collections: None) -> None:
    from h1r.engine.vllm.engine import VLLMEngine

    config = dataclasses.replace(SMALL, head_dim=32, mamba_d_ssm=32, mamba_n_heads=4)
    model, other, params = randomised(config, 3), randomised(config, 4), SamplingParams(temperature=0, max_tokens=8)
    with tempfile.TemporaryDirectory() as directory:
        engine = VLLMEngine(save(model, directory), dtype="bfloat16", max_model_len=64, in_process=True)
        try:
            caches = engine._llm.apply_model(
                lambda module: [m.kv_cache for m in module.modules() if type(m).__name__ == "MambaMixer2"]
            )[0]
            said = []
            for weights in (None, model, other, model):
                if weights is not None:
                    engine.load_weights(weights.state_dict())
                said.append(engine.generate([[5, 9, 11, 2, 2, 30]], params)[0].logprobs)
        finally:
            engine.close()
    assert len(caches) == config.num_hidden_layers
    assert {(conv.dtype, state.dtype) for conv, state in caches} == {(torch.bfloat16, torch.float32)}
    assert said[0] == said[1] == said[3] != said[2]
