"""What every engine promises, on each of them, against generation by full forward passes, one token at a time."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from deepconf_served import first_character, reply_of, solution_on
from engine_subjects import SECTION, Letters
from hypothesis import given, settings
from hypothesis import strategies as st

from h1r.engine.native.engine import NativeEngine
from h1r.engine.protocol import Engine, Running, SamplingParams
from h1r.engine.requests import is_unanswerable
from h1r.engine.sampling import filter_logprobs, stream_key, uniform
from h1r.models import CausalLM
from h1r.models.falcon_h1.hybrid import HybridForCausalLM
from h1r.records import Trace

PROMPTS = [[5, 9, 11], [12, 3, 4, 4, 21, 30, 8] * 10, [2], [33, 1, 17, 9, 25]]
"""The second is longer than two blocks of vLLM's cache."""
END = 7
ENDLESS = [3]
"""Greedily, the model never comes to an end token after it."""


@functools.cache
@torch.no_grad()
def obvious(model: CausalLM, prompt: tuple[int, ...], params: SamplingParams, sample: int) -> dict[str, list[Any]]:
    """One trace by a full forward pass per token, once for all engines; the fields of `Trace` that are lists."""
    ids = list(prompt)
    said: dict[str, list[Any]] = {"token_ids": [], "logprobs": [], "sampling_logprobs": [], "confidences": []}
    key = torch.tensor([stream_key(params.seed, sample, ids)])
    top_k, top_p, min_p = (torch.tensor([value]) for value in (params.top_k, params.top_p, params.min_p))
    for t in range(params.max_tokens):
        raw = model(torch.tensor([ids]))[0, -1].log_softmax(-1)
        scaled = raw if params.temperature == 0 else (raw / params.temperature).log_softmax(-1)
        cumulative = filter_logprobs(scaled[None], top_k, top_p, min_p)[0].double().exp().cumsum(0)
        u = float(uniform(key, torch.tensor([t])))
        token = int(raw.argmax()) if params.temperature == 0 else int((cumulative < u * cumulative[-1]).sum())
        ids.append(token)
        said["token_ids"].append(token)
        said["logprobs"].append(float(raw[token]))
        said["sampling_logprobs"].append(float(scaled[token]))
        said["confidences"].append(-float(raw.topk(params.confidence_top_k).values.mean()))
        if token == END:
            break
    return said


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(temperature=0.0),
        SamplingParams(temperature=1.0),
        SamplingParams(temperature=0.6, confidence_top_k=5),
        SamplingParams(temperature=1.3, top_k=4),
        SamplingParams(temperature=0.8, top_p=0.7),
        SamplingParams(min_p=0.2),
    ],
    ids=["greedy", "plain", "temperature", "top_k", "top_p", "min_p"],
)
def test_traces_are_those_of_full_forward_passes(
    engine: Engine, engine_model: CausalLM, params: SamplingParams
) -> None:
    params = dataclasses.replace(params, n=3, max_tokens=20, seed=11)
    traces = engine.generate(PROMPTS, params)
    assert [(t.prompt_index, t.sample_index, t.seed) for t in traces] == [
        (i, j, 11 + j) for i, j in itertools.product(range(4), range(3))
    ]
    for trace in traces:
        expected = obvious(engine_model, tuple(PROMPTS[trace.prompt_index]), params, trace.sample_index)
        assert trace.token_ids == expected["token_ids"]
        for name, values in expected.items():
            np.testing.assert_allclose(getattr(trace, name), values, atol=2e-5, err_msg=name)
        assert trace.finish_reason == ("stop" if trace.token_ids[-1] == END else "length")
        assert (trace.finish_reason == "length") == (trace.num_tokens == 20 and trace.token_ids[-1] != END)


def test_a_trace_does_not_depend_on_what_else_is_in_the_batch(engine: Engine) -> None:
    params = SamplingParams(n=2, max_tokens=10, seed=5)
    noise = SamplingParams(n=3, max_tokens=7, seed=99, temperature=0.5)
    alone = [[t.token_ids for t in engine.generate([prompt], params)] for prompt in PROMPTS]

    @settings(max_examples=8, deadline=None)
    @given(order=st.permutations(range(4)), neighbours=st.integers(0, 4))
    def holds(order: list[int], neighbours: int) -> None:
        prompts = [PROMPTS[i] for i in order] + [[1 + i, 2, 3] for i in range(neighbours)]
        together = engine.generate(prompts, [params] * 4 + [noise] * neighbours)
        for position, i in enumerate(order):
            assert [t.token_ids for t in together if t.prompt_index == position] == alone[i]

    holds()


def test_traces_of_one_prompt_differ_and_seeds_repeat(engine: Engine) -> None:
    params = SamplingParams(n=8, max_tokens=12, seed=1)
    first, second = (engine.generate([PROMPTS[0]], params) for _ in range(2))
    assert [t.token_ids for t in first] == [t.token_ids for t in second]
    assert len({tuple(t.token_ids) for t in first}) == 8
    shifted = engine.generate([PROMPTS[0]], dataclasses.replace(params, seed=2))
    assert [t.token_ids for t in shifted[:7]] == [t.token_ids for t in first[1:]]


def test_every_prompt_has_its_own_params(engine: Engine) -> None:
    each = [SamplingParams(n=1 + i, max_tokens=4 + i, seed=i, temperature=0.5 * i) for i in range(4)]
    together = engine.generate(PROMPTS, each)
    for i, params in enumerate(each):
        alone = engine.generate([PROMPTS[i]], params)
        assert [t.token_ids for t in together if t.prompt_index == i] == [t.token_ids for t in alone]
    with pytest.raises(ValueError, match="4 prompts came with 2 SamplingParams"):
        engine.generate(PROMPTS, each[:2])


def test_stop_strings_and_stop_tokens_end_a_trace(engine: Engine) -> None:
    params = SamplingParams(max_tokens=30, seed=6)
    whole = engine.generate([PROMPTS[3]], params)[0]
    assert whole.num_tokens > 8
    stop = whole.text[4:6]
    cut = engine.generate([PROMPTS[3]], dataclasses.replace(params, stop=(stop,)))[0]
    assert cut.text == whole.text[: whole.text.index(stop)]
    assert cut.token_ids == whole.token_ids[: whole.text.index(stop) + 2]
    assert cut.finish_reason == "stop"
    token = whole.token_ids[3]
    by_token = engine.generate([PROMPTS[3]], dataclasses.replace(params, stop_token_ids=(token,)))[0]
    assert by_token.token_ids == whole.token_ids[: whole.token_ids.index(token) + 1]
    assert by_token.text == whole.text[: whole.token_ids.index(token)]
    assert by_token.finish_reason == "stop"


def test_a_stop_string_in_the_last_token_is_a_stop(engine: Engine) -> None:
    params = SamplingParams(max_tokens=30, seed=6)
    whole = engine.generate([PROMPTS[3]], params)[0]
    stop = whole.text[4:6]
    tokens = whole.text.index(stop) + 2
    cut = engine.generate([PROMPTS[3]], dataclasses.replace(params, max_tokens=tokens, stop=(stop,)))[0]
    assert (cut.num_tokens, cut.finish_reason) == (tokens, "stop")


@pytest.mark.parametrize("window", [1, 5])
def test_confidence_stop_equals_the_definition(engine: Engine, window: int) -> None:
    prompts = PROMPTS[:2]
    base = SamplingParams(n=8, max_tokens=30, seed=4, confidence_window=window)

    def groups(trace: Trace) -> np.ndarray:
        return np.convolve(trace.confidences, np.ones(window) / window, "valid") if trace.num_tokens >= window else []

    whole = engine.generate(prompts, base)
    lowest = [min(groups(t)) for t in whole if len(groups(t))]
    threshold = float(np.median(lowest)) + 1e-4
    stopped = engine.generate(prompts, dataclasses.replace(base, confidence_threshold=threshold))
    early = 0
    for full, cut in zip(whole, stopped, strict=True):
        below = np.flatnonzero(np.asarray(groups(full)) < threshold)
        n = int(below[0]) + window if len(below) else full.num_tokens
        assert cut.token_ids == full.token_ids[:n]
        by_confidence = bool(len(below)) and full.token_ids[n - 1] != END
        assert cut.finish_reason == ("confidence" if by_confidence else full.finish_reason)
        assert len(cut.confidences) == len(cut.logprobs) == len(cut.sampling_logprobs) == n
        early += by_confidence and n < full.num_tokens
    assert 0 < early < len(whole)


def test_a_stop_string_at_the_first_doubtful_token_is_a_stop(engine: Engine) -> None:
    params = SamplingParams(n=16, max_tokens=30, seed=6, confidence_window=1)
    found = 0
    for whole in engine.generate([PROMPTS[3]], params):
        least = np.minimum.accumulate(whole.confidences)
        for last in range(4, len(whole.text)):
            stop = whole.text[last - 1 : last + 1]
            if whole.confidences[last] < least[last - 1] - 1e-3 and whole.text.index(stop) == last - 1:
                threshold = float(whole.confidences[last] + least[last - 1]) / 2
                one = dataclasses.replace(params, n=1, seed=whole.seed, stop=(stop,), confidence_threshold=threshold)
                (cut,) = engine.generate([PROMPTS[3]], one)
                assert (cut.num_tokens, cut.finish_reason) == (last + 1, "stop")
                found += 1
    assert found >= 3


def test_traces_stream_as_they_end(engine: Engine, endless_tokens: int) -> None:
    long, short = (
        SamplingParams(n=2, max_tokens=endless_tokens, temperature=0.0),
        SamplingParams(n=2, max_tokens=2, seed=21),
    )
    seen = list(engine.stream([ENDLESS, PROMPTS[2]], [long, short]))
    assert {t.prompt_index for t in seen[:2]} == {1}
    assert [t.num_tokens for t in seen[2:]] == [endless_tokens] * 2


def test_progress_is_each_running_trace_as_far_as_it_is(engine: Engine, endless_tokens: int) -> None:
    window = 5
    long = SamplingParams(n=2, max_tokens=endless_tokens, temperature=0.0, confidence_window=window)
    short = SamplingParams(n=2, max_tokens=3, seed=21, confidence_window=window)

    def listed() -> dict[tuple[int, int], list[int]]:
        """The token counts of each trace, in the order in which they were seen. Checks all else on the way."""
        seen: list[Running] = []
        ended: dict[tuple[int, int], Trace] = {}

        def look() -> None:
            for one in engine.progress():
                assert (one.prompt_index, one.sample_index) not in ended
                seen.append(one)

        engine.watch(look)
        try:
            for trace in engine.stream([ENDLESS, PROMPTS[2]], [long, short]):
                ended[trace.prompt_index, trace.sample_index] = trace
                look()
        finally:
            engine.watch(None)
        assert engine.progress() == []
        counts: dict[tuple[int, int], list[int]] = {}
        for one in seen:
            name = one.prompt_index, one.sample_index
            counts.setdefault(name, []).append(one.num_tokens)
            recent = ended[name].confidences[: one.num_tokens][-window:]
            mean = pytest.approx(sum(recent) / len(recent), abs=1e-5) if recent else None
            assert one.group_confidence == mean
        return counts

    # A server may still say many tokens at once, and then nobody saw the trace grow: so it has three chances.
    for _ in range(3):
        counts = listed()
        assert all(one == sorted(one) for one in counts.values())
        if all(len(set(counts.get((0, sample), [])) - {0}) > 1 for sample in range(2)):
            return
    raise AssertionError(f"no trace was seen to grow: {counts}")


def test_closing_a_stream_ends_its_traces(engine: Engine) -> None:
    params = SamplingParams(n=4, max_tokens=30, seed=6)
    before = engine.generate([PROMPTS[2]], params)
    stream = engine.stream(PROMPTS, params)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert engine.cancel(0) == []
    assert [t.token_ids for t in engine.generate([PROMPTS[2]], params)] == [t.token_ids for t in before]


def test_cancel_returns_running_traces_and_stops_the_prompt(engine: Engine, endless_tokens: int) -> None:
    # Long enough for both prompts to have begun when the second's first trace ends.
    lengths = endless_tokens, endless_tokens // 4
    params = [SamplingParams(n=3, max_tokens=tokens, temperature=0.0) for tokens in lengths]
    prompts = [ENDLESS, ENDLESS]
    whole = engine.generate(prompts, params)
    stream = engine.stream(prompts, params)
    seen = [next(stream)]
    while seen[-1].prompt_index != 1:
        seen.append(next(stream))
    cancelled = engine.cancel(0)
    seen += list(stream)
    assert sorted(t.sample_index for t in seen if t.prompt_index == 1) == [0, 1, 2]
    assert cancelled
    assert all(t.prompt_index == 0 and t.finish_reason == "cancelled" for t in cancelled)
    for trace in cancelled:
        full = whole[trace.sample_index]
        assert 0 < trace.num_tokens < full.num_tokens
        assert trace.token_ids == full.token_ids[: trace.num_tokens]
        assert len(trace.logprobs) == len(trace.confidences) == trace.num_tokens


def test_a_bad_request_fails_alone(engine: Engine) -> None:
    params = SamplingParams(n=2, max_tokens=4, seed=2)
    traces = engine.generate([[], PROMPTS[0], [99], [1] * 255], params)
    assert [t.finish_reason == "error" for t in traces] == [True] * 2 + [False] * 2 + [True] * 4
    errors = {t.prompt_index: t.error for t in traces if t.error}
    assert "empty" in errors[0]
    assert "vocabulary" in errors[2]
    assert "256 positions" in errors[3]
    assert [t.token_ids for t in traces[2:4]] == [t.token_ids for t in engine.generate([PROMPTS[0]], params)]


def test_an_answer_is_as_short_as_the_context_where_that_is_allowed(engine: Engine) -> None:
    params = SamplingParams(n=2, temperature=0.0, max_tokens=6, fit=True)
    traces = engine.generate([[*ENDLESS] * 252, ENDLESS, [*ENDLESS] * 256], params)
    assert [(t.room, t.finish_reason) for t in traces[:4]] == [(4, "length")] * 2 + [(None, "length")] * 2
    assert [t.num_tokens for t in traces] == [4, 4, 6, 6, 0, 0]
    assert all(is_unanswerable(t.error) and "leaves no room" in str(t.error) for t in traces[4:])


def test_confidence_top_k_is_one_for_a_call(engine: Engine) -> None:
    each = [SamplingParams(max_tokens=2, confidence_top_k=k) for k in (5, 6)]
    with pytest.raises(ValueError, match="confidence_top_k must be the same"):
        engine.generate(PROMPTS[:2], each)


def test_a_second_stream_is_refused_and_the_first_goes_on(engine: Engine) -> None:
    params = SamplingParams(n=2, max_tokens=8, seed=3)
    whole = engine.generate(PROMPTS, params)
    stream = engine.stream(PROMPTS, params)
    seen = [next(stream)]
    with pytest.raises(RuntimeError, match="another stream"):
        next(engine.stream(PROMPTS[:1], params))
    seen += list(stream)
    seen.sort(key=lambda trace: (trace.prompt_index, trace.sample_index))
    assert [trace.token_ids for trace in seen] == [trace.token_ids for trace in whole]


def test_stop_tokens_outside_the_vocabulary_fail_their_request_alone(engine: Engine) -> None:
    each = [SamplingParams(max_tokens=2, stop_token_ids=(10**7,)), SamplingParams(max_tokens=2)]
    refused, answered = engine.generate(PROMPTS[:2], each)
    assert refused.finish_reason == "error"
    assert "stop_token_ids holds ids outside the vocabulary" in str(refused.error)
    assert answered.finish_reason != "error"


def test_a_prompt_joins_a_stream_between_two_of_its_traces(engine: Engine) -> None:
    """Also one that cannot be answered, and one that is cancelled before the stream goes on: a later cancel may find it
    handed out already."""
    params = SamplingParams(n=2, max_tokens=8, seed=5)
    alone = [trace.token_ids for trace in engine.generate([PROMPTS[3]], dataclasses.replace(params, seed=9))]
    stream = engine.stream([PROMPTS[0], ENDLESS], [params, SamplingParams(temperature=0.0, max_tokens=60)])
    seen = [next(stream)]
    added = [
        engine.add(PROMPTS[3], dataclasses.replace(params, seed=9)),
        engine.add([], params),
        engine.add(ENDLESS, dataclasses.replace(params, n=1, temperature=0.0, max_tokens=100)),
    ]
    assert added == [2, 3, 4]
    engine.cancel(4)
    found = sorted([*seen, *stream], key=lambda trace: (trace.prompt_index, trace.sample_index))
    assert [trace.prompt_index for trace in found] == [0, 0, 1, 2, 2, 3, 3]
    assert [trace.token_ids for trace in found[3:5]] == alone
    assert [trace.finish_reason for trace in found[5:]] == ["error", "error"]


@pytest.mark.parametrize("kind", ["vllm", pytest.param("server", marks=pytest.mark.slow)])
def test_deepconf_through_h1r_serve_is_that_of_solve_on_the_same_engine_and_on_the_native_one(
    request: pytest.FixtureRequest, kind: str, model: HybridForCausalLM, tmp_path: Path
) -> None:
    """`h1r serve` opens the engine in one thread and steps it in another, `h1r solve` does both in the main one."""
    first_character(tmp_path)
    engine = request.getfixturevalue(f"{kind}_engine")
    reply = reply_of(engine)
    said, traces = reply["usage"]["deepconf"], reply["deepconf"]["traces"]
    assert (said["stopping"], said["traces"]) == ("engine", 12)
    assert said["stopped"] > 0
    for solution in (solution_on(engine), solution_on(NativeEngine(model, Letters(), SECTION))):
        assert [one["text"] for one in traces] == [one.text for one in solution.traces]
        assert [one["tokens"] for one in traces] == [one.num_tokens for one in solution.traces]
        assert [one["state"] for one in traces] == list(solution.states)
        for mine, theirs in zip(traces, solution.traces, strict=True):
            np.testing.assert_allclose(mine["confidences"], theirs.confidences, rtol=1e-4)
        assert said["answer"] == solution.answer
        weights = solution.vote.totals
        assert [one["answer"] for one in said["votes"]] == sorted(weights, key=lambda answer: -weights[answer])
