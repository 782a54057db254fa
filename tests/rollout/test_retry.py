"""The policy for failed traces, on an engine that fails as it is told."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from h1r.config import RolloutSection
from h1r.engine.protocol import Prompt, SamplingParams
from h1r.engine.requests import refusal
from h1r.errors import UserError
from h1r.records import Trace
from h1r.rollout.retry import RetryingEngine


class Flaky:
    """A trace of (prompt, seed) fails as often as `failures` says, then it is [prompt, seed]."""

    def __init__(self, failures: dict[tuple[int, int], int]) -> None:
        self.failures = failures
        self.calls: list[int] = []
        self.cancelled: list[int] = []

    def stream(self, prompts: Sequence[Prompt], params: Any) -> Iterator[Trace]:
        each = [params] * len(prompts) if isinstance(params, SamplingParams) else params
        self.calls.append(sum(one.n for one in each))
        for index, (prompt, one) in enumerate(zip(prompts, each, strict=True)):
            for sample in range(one.n):
                seed = one.seed + sample
                if self.failures.get((prompt[0], seed), 0) > 0:
                    self.failures[prompt[0], seed] -= 1
                    yield Trace(index, sample, [], "", [], [], [], "error", seed, error="gone away")
                else:
                    yield Trace(index, sample, [prompt[0], seed], "", [], [], [], "stop", seed)

    def cancel(self, prompt_index: int) -> list[Trace]:
        self.cancelled.append(prompt_index)
        return [Trace(prompt_index, 0, [], "", [], [], [], "cancelled")]


PROMPTS = [[10], [20], [30]]
PARAMS = [SamplingParams(n=4, seed=seed) for seed in (100, 200, 300)]


def section(share: float, **more: Any) -> RolloutSection:
    return RolloutSection(max_failed_share=share, **{"backoff_s": 0.0, **more})


def generate(failures: dict[tuple[int, int], int], share: float = 0.1) -> tuple[list[Trace], Flaky]:
    inner = Flaky(failures)
    engine = RetryingEngine(inner, section(share))  # type: ignore[arg-type]
    return engine.generate(PROMPTS, PARAMS), inner


def test_without_failures_the_engine_is_asked_once_and_its_traces_go_through() -> None:
    traces, inner = generate({})
    assert inner.calls == [12]
    assert traces == list(Flaky({}).stream(PROMPTS, PARAMS))


def test_a_trace_that_fails_once_is_generated_with_its_own_seed_in_its_own_place() -> None:
    traces, inner = generate({(20, 201): 1, (30, 303): 1}, share=0)
    assert inner.calls == [12, 2]
    assert traces == list(Flaky({}).stream(PROMPTS, PARAMS))


def test_a_trace_that_fails_twice_is_handed_out_as_an_error() -> None:
    traces, inner = generate({(20, 201): 2})
    assert inner.calls == [12, 1]
    assert [(one.prompt_index, one.sample_index) for one in traces if one.finish_reason == "error"] == [(1, 1)]
    assert len(traces) == 12


def test_more_failures_than_allowed_end_the_call_with_the_reason_of_the_first() -> None:
    with pytest.raises(UserError, match=r"failed at 2 of 12 traces, twice each.* the first: gone away"):
        generate({(20, 201): 2, (30, 303): 2})
    assert len(generate({(20, 201): 2, (30, 303): 2}, share=2 / 12)[0]) == 12


def test_an_engine_that_fails_at_everything_has_generated_nothing() -> None:
    everything = {(prompt[0], one.seed + sample): 2 for prompt, one in zip(PROMPTS, PARAMS, strict=True)
                  for sample in range(4)}  # fmt: skip
    with pytest.raises(UserError, match="the engine generated nothing: gone away"):
        generate(everything, share=0.99)


def test_a_cancelled_prompt_is_not_tried_again() -> None:
    inner = Flaky({(20, 201): 1, (30, 303): 1})
    engine = RetryingEngine(inner, section(1.0))  # type: ignore[arg-type]
    stream = engine.stream(PROMPTS, PARAMS)
    found = [next(stream)]
    engine.cancel(1)
    found += stream
    assert inner.calls == [12, 1]
    assert [one.token_ids for one in found if one.prompt_index == 2][-1] == [30, 303]
    assert [one.prompt_index for one in found if one.finish_reason == "error"] == [1]


def test_a_prompt_that_is_cancelled_while_it_is_tried_again_has_its_own_numbers() -> None:
    inner = Flaky({(20, 201): 1, (30, 302): 1, (30, 303): 1})
    engine = RetryingEngine(inner, section(1.0))  # type: ignore[arg-type]
    stream = engine.stream(PROMPTS, PARAMS)
    while next(stream).token_ids != [20, 201]:
        pass
    assert [(one.prompt_index, one.sample_index) for one in engine.cancel(2)] == [(2, 2), (2, 3)]
    assert inner.cancelled == [1, 2]


class TooLong(Flaky):
    """No prompt that begins with 20 can be answered, as one that is too long; its traces fail at every call."""

    def stream(self, prompts: Sequence[Prompt], params: Any) -> Iterator[Trace]:
        for trace in super().stream(prompts, params):
            if prompts[trace.prompt_index][0] == 20:
                why = refusal([20] * 90, SamplingParams(max_tokens=20), None, vocab_size=50, positions=100)
                trace = Trace(trace.prompt_index, trace.sample_index, [], "", [], [], [], "error", error=why)
            yield trace


def test_a_prompt_that_cannot_be_answered_is_asked_once_and_stops_nobody() -> None:
    inner = TooLong({})
    traces = RetryingEngine(inner, section(0.0)).generate(PROMPTS, PARAMS)  # type: ignore[arg-type]
    assert inner.calls == [12]
    assert [trace.finish_reason for trace in traces] == ["stop"] * 4 + ["error"] * 4 + ["stop"] * 4


def test_an_engine_that_fails_beside_such_a_prompt_is_judged_by_the_other_prompts() -> None:
    inner = TooLong({(10, 100): 9, (10, 101): 9})
    with pytest.raises(UserError, match=r"failed at 2 of 8 traces"):
        RetryingEngine(inner, section(0.2)).generate(PROMPTS, PARAMS)  # type: ignore[arg-type]


def test_a_call_of_nothing_else_says_why() -> None:
    with pytest.raises(UserError, match=r"generated nothing: prompt \(90\) and max_tokens"):
        RetryingEngine(TooLong({}), section(0.1)).generate([[20]], PARAMS[:1])  # type: ignore[arg-type]
