"""The native engine against generation by full forward passes, one sequence at a time."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from h1r.config import EngineSection
from h1r.engine.native.engine import NativeEngine
from h1r.engine.protocol import SamplingParams
from h1r.engine.sampling import choose, filter_logprobs, stream_key, uniform
from h1r.models import build, save
from h1r.models.falcon_h1.config import HybridConfig
from h1r.records import Trace

CONFIG = HybridConfig(
    vocab_size=40, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=8, mamba_d_ssm=32, mamba_n_heads=4, mamba_d_head=8, mamba_d_state=8,
    mamba_chunk_size=8, initializer_range=0.25, eos_token_id=7, max_position_embeddings=200,
)  # fmt: skip
MODEL = build(CONFIG, seed=3)
PROMPTS = [[5, 9, 11], [12, 3, 4, 4, 21, 30, 8], [2], [33, 1, 17, 9, 25]]


class Letters:
    """A tokenizer of one character per token."""

    def decode(self, ids: list[int]) -> str:
        return "".join(chr(65 + i) for i in ids)


def engine(slots: int = 4, prefill_tokens: int = 64, tokenizer: object = None) -> NativeEngine:
    return NativeEngine(MODEL, tokenizer, EngineSection(max_sequences=slots, prefill_tokens=prefill_tokens))


@torch.no_grad()
def obvious(prompt: list[int], params: SamplingParams, sample: int) -> tuple[list[int], list[float], list[float]]:
    """One trace by a full forward pass per token."""
    ids, logprobs, confidences = list(prompt), [], []
    key = torch.tensor([stream_key(params.seed, sample, prompt)])
    for t in range(params.max_tokens):
        raw = MODEL(torch.tensor([ids]))[0, -1].log_softmax(-1)
        scaled = raw if params.temperature == 0 else (raw / params.temperature).log_softmax(-1)
        u = float(uniform(key, torch.tensor([t])))
        cumulative = scaled.double().exp().cumsum(0)
        token = int(raw.argmax()) if params.temperature == 0 else int((cumulative < u * cumulative[-1]).sum())
        ids.append(token)
        logprobs.append(float(raw[token]))
        confidences.append(-float(raw.topk(params.confidence_top_k).values.mean()))
        if token == CONFIG.eos_token_id:
            break
    return ids[len(prompt) :], logprobs, confidences


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
def test_generation_by_cache_equals_generation_by_full_forward(temperature: float) -> None:
    params = SamplingParams(n=3, temperature=temperature, max_tokens=20, seed=11)
    traces = engine(slots=5).generate(PROMPTS, params)
    assert [(t.prompt_index, t.sample_index) for t in traces] == [(i, j) for i in range(4) for j in range(3)]
    for trace in traces:
        tokens, logprobs, confidences = obvious(PROMPTS[trace.prompt_index], params, trace.sample_index)
        assert trace.token_ids == tokens
        np.testing.assert_allclose(trace.logprobs, logprobs, atol=2e-5)
        np.testing.assert_allclose(trace.confidences, confidences, atol=2e-5)
        assert trace.finish_reason == ("stop" if tokens[-1] == 7 else "length")


@settings(max_examples=15, deadline=None)
@given(slots=st.integers(1, 12), prefill=st.integers(1, 40), order=st.permutations(range(4)))
def test_a_trace_does_not_depend_on_what_else_is_in_the_batch(slots: int, prefill: int, order: list[int]) -> None:
    params = SamplingParams(n=3, max_tokens=12, seed=5)
    alone = {i: engine().generate([PROMPTS[i]], params) for i in range(4)}
    together = engine(slots, prefill).generate([PROMPTS[i] for i in order], params)
    for position, i in enumerate(order):
        got = [t.token_ids for t in together if t.prompt_index == position]
        assert got == [t.token_ids for t in alone[i]]


def test_traces_of_one_prompt_differ_and_seeds_repeat() -> None:
    params = SamplingParams(n=8, max_tokens=12, seed=1)
    first, second = (engine(8).generate([PROMPTS[1]], params) for _ in range(2))
    assert first == second
    assert len({tuple(t.token_ids) for t in first}) == 8
    shifted = engine(8).generate([PROMPTS[1]], dataclasses.replace(params, seed=2))
    assert [t.token_ids for t in shifted[:7]] == [t.token_ids for t in first[1:]]


def test_n_traces_of_a_prompt_prefill_once(monkeypatch: pytest.MonkeyPatch) -> None:
    prefilled = []
    real = MODEL.model.cached

    def spy(ids: torch.Tensor, *rest: object) -> torch.Tensor:
        if ids.shape[1] > 1:
            prefilled.append(tuple(ids.shape))
        return real(ids, *rest)

    monkeypatch.setattr(MODEL.model, "cached", spy)
    engine(slots=2).generate([PROMPTS[1]], SamplingParams(n=9, max_tokens=5))
    assert prefilled == [(1, 7)]


def test_confidence_stop_equals_the_definition() -> None:
    base = SamplingParams(n=16, max_tokens=40, seed=4, confidence_window=5)
    whole = engine(16).generate([PROMPTS[0]], base)
    means = [np.convolve(t.confidences, np.ones(5) / 5, "valid") for t in whole if t.num_tokens >= 5]
    threshold = float(np.median([m.min() for m in means]))
    stopped = engine(6).generate([PROMPTS[0]], dataclasses.replace(base, confidence_threshold=threshold))
    early = 0
    for full, cut in zip(whole, stopped, strict=True):
        groups = np.convolve(full.confidences, np.ones(5) / 5, "valid") if full.num_tokens >= 5 else np.array([])
        below = np.flatnonzero(groups < threshold)
        expected = int(below[0]) + 5 if len(below) else full.num_tokens
        assert cut.token_ids == full.token_ids[:expected]
        if expected < full.num_tokens:
            assert cut.finish_reason == "confidence"
            early += 1
    assert 0 < early < 16


def test_cancel_returns_running_traces_and_stops_the_prompt() -> None:
    native = engine(slots=4)
    stream = native.stream([[2], PROMPTS[0]], SamplingParams(n=4, max_tokens=30, seed=6))
    seen: list[Trace] = [next(stream)]
    cancelled = native.cancel(1 - seen[0].prompt_index)
    seen += list(stream)
    assert {t.prompt_index for t in seen} == {seen[0].prompt_index}
    assert len(seen) == 4
    assert all(t.finish_reason == "cancelled" and t.num_tokens < 30 for t in cancelled)


def test_a_bad_request_fails_alone() -> None:
    traces = engine().generate([[], PROMPTS[0], [99], [1] * 199], SamplingParams(max_tokens=4, seed=2))
    assert [t.finish_reason == "error" for t in traces] == [True, False, True, True]
    assert all(t.error for t in (traces[0], traces[2], traces[3]))
    assert traces[1].token_ids == engine().generate([PROMPTS[0]], SamplingParams(max_tokens=4, seed=2))[0].token_ids


def test_stop_strings_and_stop_tokens_end_a_trace() -> None:
    native = engine(tokenizer=Letters())
    whole = native.generate([PROMPTS[3]], SamplingParams(max_tokens=30, seed=6))[0]
    assert whole.num_tokens > 8
    stop = whole.text[4:6]
    cut = native.generate([PROMPTS[3]], SamplingParams(max_tokens=30, seed=6, stop=(stop,)))[0]
    assert cut.text == whole.text[: whole.text.index(stop)]
    assert cut.finish_reason == "stop"
    token = whole.token_ids[3]
    by_token = native.generate([PROMPTS[3]], SamplingParams(max_tokens=30, seed=6, stop_token_ids=(token,)))[0]
    assert by_token.token_ids == whole.token_ids[: whole.token_ids.index(token) + 1]


def test_own_weights_reloaded_change_nothing(tmp_path: object) -> None:
    params = SamplingParams(n=2, max_tokens=15, seed=8)
    native = NativeEngine(build(CONFIG, seed=3))
    before = native.generate(PROMPTS, params)
    native.load_weights(native.model.state_dict())
    assert native.generate(PROMPTS, params) == before
    native.load_weights(save(native.model, str(tmp_path)))
    assert native.generate(PROMPTS, params) == before
    native.load_weights(build(CONFIG, seed=4).state_dict())
    assert native.generate(PROMPTS, params) != before


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 999), top_k=st.integers(0, 9), top_p=st.floats(0.05, 1.0), min_p=st.floats(0.0, 0.9))
def test_filters_keep_exactly_the_defined_set(seed: int, top_k: int, top_p: float, min_p: float) -> None:
    logprobs = torch.randn(1, 8, generator=torch.Generator().manual_seed(seed)).log_softmax(-1)
    kept = filter_logprobs(logprobs, torch.tensor([top_k]), torch.tensor([top_p]), torch.tensor([min_p]))
    p = logprobs[0].double().exp()
    order = sorted(range(8), key=lambda i: -float(p[i]))
    expected = set()
    mass = 0.0
    for rank, i in enumerate(order):
        allowed = (top_k == 0 or rank < top_k) and (top_p == 1 or mass < top_p) and p[i] >= min_p * p[order[0]]
        if rank == 0 or allowed:
            expected.add(i)
        mass += float(p[i])
    got = {i for i in range(8) if kept[0, i] > -torch.inf}
    borderline = {i for i in range(8) if abs(float(p[i] - min_p * p[order[0]])) < 1e-6}
    assert got - borderline == expected - borderline


def test_streams_of_neighbouring_samples_share_no_number() -> None:
    positions = torch.arange(500)
    streams = [uniform(torch.tensor(stream_key(7, j, [1, 2])).expand(500), positions).tolist() for j in range(20)]
    assert len({number for stream in streams for number in stream}) == 20 * 500


def test_samples_follow_the_distribution() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0]])
    n = 40_000
    key = torch.tensor([stream_key(0, j, [1]) for j in range(n)])
    drawn = choose(
        logits.expand(n, 4), uniform(key, torch.zeros(n, dtype=torch.long)), torch.full((n,), 0.5), None, None, None, 2
    )
    share = torch.bincount(drawn.token, minlength=4) / n
    torch.testing.assert_close(share, (logits[0] / 0.5).softmax(-1), atol=0.01, rtol=0)
    torch.testing.assert_close(drawn.sampling_logprob, (logits[0] / 0.5).log_softmax(-1)[drawn.token])
    torch.testing.assert_close(drawn.logprob, logits[0].log_softmax(-1)[drawn.token])


def test_impossible_sampling_params_are_refused() -> None:
    with pytest.raises(ValueError, match="top_p"):
        SamplingParams(top_p=0.0)
    for name, value in [
        *(("max_tokens", value) for value in (0, 2.0, True)),
        *(("temperature", value) for value in (math.inf, math.nan, -1.0)),
        *(("top_p", value) for value in (math.nan, 1.1)),
        *(("min_p", value) for value in (math.nan, -0.1)),
        ("confidence_threshold", math.nan),
        *(("stop", value) for value in ("", ("a", ""), (3,))),
        *(("stop_token_ids", value) for value in ((-1,), (1.5,), ("7",))),
    ]:
        with pytest.raises(ValueError, match=f"SamplingParams.{name} = "):
            SamplingParams(**{name: value})


def test_one_stop_is_one_string_and_one_token() -> None:
    params = SamplingParams(stop="abc", stop_token_ids=7)  # type: ignore[arg-type]
    assert params.stop == ("abc",)
    assert params.stop_token_ids == (7,)
    assert SamplingParams(stop=["a", "b"], stop_token_ids=[1, 2]) == SamplingParams(  # type: ignore[arg-type]
        stop=("a", "b"), stop_token_ids=(1, 2)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_trace_whose_logits_are_no_numbers_ends_with_an_error(dtype: torch.dtype) -> None:
    """fp32 decodes in C, other types in PyTorch. One token of the vocabulary poisons what comes after it."""
    poisoned = build(CONFIG, seed=3).to(dtype)
    with torch.no_grad():
        poisoned.model.embed_tokens.weight[9] = math.nan
    generator = NativeEngine(poisoned, None, EngineSection(max_sequences=4))
    sound, poison = generator.generate([[12, 3, 4], [5, 9, 11]], SamplingParams(max_tokens=1, temperature=0.0))
    assert (sound.finish_reason, sound.error) == ("length", None)
    assert poison.finish_reason == "error"
    assert "not finite numbers" in str(poison.error)
    assert poison.token_ids == poison.logprobs == poison.confidences == []
