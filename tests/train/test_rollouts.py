"""The stream of groups, fed by an engine and a verifier that are plain functions of prompt, seed and text."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_training import rl_section

from h1r.config import RolloutSection
from h1r.engine.protocol import Prompt, SamplingParams
from h1r.errors import UserError
from h1r.records import Problem, Trace, Verdict
from h1r.rollout.pipeline import RolloutPipeline
from h1r.train.cached_arrays import fill, to_arrays, without_lists
from h1r.train.rollouts import Collected, Group, GroupStream


class HashEngine:
    """Answers are hashes of (prompt, seed); `streams` are all that it was asked for."""

    def __init__(self) -> None:
        self.calls = 0
        self.streams: list[tuple[tuple[int, ...], int]] = []
        self.params: list[SamplingParams] = []

    def generate(self, prompts: Sequence[Prompt], params: SamplingParams | Sequence[SamplingParams]) -> list[Trace]:
        assert not isinstance(params, SamplingParams)
        self.calls += 1
        traces = []
        for index, (prompt, one) in enumerate(zip(prompts, params, strict=True)):
            self.params.append(one)
            for sample in range(one.n):
                seed = one.seed + sample
                self.streams.append((tuple(prompt), seed))
                digest = hashlib.sha256(f"{list(prompt)} {seed}".encode()).digest()
                ids = list(digest[: 1 + digest[0] % 5])
                logprobs = [-value / 7 for value in ids]
                traces.append(Trace(index, sample, ids, digest.hex(), logprobs, logprobs, logprobs, "stop", seed=seed))
        return traces

    def stream(self, prompts: Sequence[Prompt], params: SamplingParams | Sequence[SamplingParams]) -> Iterator[Trace]:
        yield from self.generate(prompts, params)

    def cancel(self, prompt_index: int) -> list[Trace]:
        return []

    def load_weights(self, weights: Mapping[str, torch.Tensor] | str | Path) -> None:
        raise NotImplementedError


def verify_many(problems: Sequence[Problem], texts: Sequence[str]) -> list[Verdict]:
    """Correct for `percent` of all texts; well-formed for most."""
    verdicts = []
    for problem, text in zip(problems, texts, strict=True):
        correct = float(int(text[:8], 16) % 100 < problem.metadata["percent"])
        well_formed = float(text[8] != "0" or not problem.metadata["sloppy"])
        verdicts.append(Verdict(correct, {"correct": correct, "format": well_formed}))
    return verdicts


def problems_of(percents: Sequence[int], sloppy: bool = False) -> list[Problem]:
    return [
        Problem(f"p{i}", f"question {i}", "", metadata={"percent": percent, "sloppy": sloppy})
        for i, percent in enumerate(percents)
    ]


def stream_of(
    percents: Sequence[int], seed: int = 0, sloppy: bool = False, **section: Any
) -> tuple[GroupStream, HashEngine]:
    engine = HashEngine()
    problems = problems_of(percents, sloppy)
    prompts = [[100, i] for i in range(len(problems))]
    pipeline = RolloutPipeline(engine, None, verify_many, section=RolloutSection(max_failed_share=0.5))
    return GroupStream(problems, prompts, pipeline, rl_section(**section), seed), engine


def first_stream(group: Group) -> tuple[str, int]:
    """Which draw a group is: no two groups share a problem and a seed."""
    return group.problem_id, group.traces[0].seed


def score(verdict: Verdict, format_penalty: float) -> float:
    """The reward as the paper says it: correctness, less a penalty for the format."""
    return verdict.parts["correct"] - (format_penalty if verdict.parts["format"] < 1 else 0.0)


sections = st.fixed_dictionaries(
    {
        "batch_size": st.integers(1, 5),
        "num_generations": st.integers(2, 5),
        "rewards": st.sampled_from([{"format": 0.0}, {"format": 0.1}]),
        "backfill": st.fixed_dictionaries(
            {
                "mode": st.sampled_from(["backfill", "reject", "duplicate"]),
                "cache_groups": st.integers(0, 4),
                "max_age": st.integers(1, 3),
                "max_rounds": st.integers(1, 4),
                "overdraw": st.sampled_from([0.0, 0.4]),
            }
        ),
        "curriculum": st.sampled_from([{}, {"choose": "pass_rate", "retire_after": 1, "revisit": 0.3}]),
    }
)
percentages = st.lists(st.sampled_from([0, 10, 50, 100]), min_size=1, max_size=7)


@settings(max_examples=80, deadline=None)
@given(percents=percentages, changes=sections, sloppy=st.booleans(), seed=st.integers(0, 3))
def test_every_group_of_a_batch_has_signal_and_belongs_to_its_problem(
    percents: list[int], changes: dict[str, Any], sloppy: bool, seed: int
) -> None:
    stream, _ = stream_of(percents, seed, sloppy, **changes)
    by_id = {problem.id: problem for problem in problems_of(percents, sloppy)}
    for step in range(6):
        collected = stream.collect(step)
        assert len(collected.groups) <= changes["batch_size"]
        for group in collected.groups:
            problem = by_id[group.problem_id]
            assert group.prompt_ids == [100, int(group.problem_id[1:])]
            assert len(group.traces) == changes["num_generations"]
            assert {trace.problem_id for trace in group.traces} == {problem.id}
            verdicts = verify_many([problem] * len(group.traces), [trace.text for trace in group.traces])
            assert group.correct == [verdict.reward == 1 for verdict in verdicts]
            assert group.well_formed == [verdict.parts["format"] == 1 for verdict in verdicts]
            assert group.rewards == [score(verdict, changes["rewards"]["format"]) for verdict in verdicts]
            assert len(set(group.rewards)) > 1


@settings(max_examples=80, deadline=None)
@given(percents=percentages, changes=sections, seed=st.integers(0, 3))
def test_every_group_is_accounted_for_and_used_at_most_once(
    percents: list[int], changes: dict[str, Any], seed: int
) -> None:
    changes["backfill"]["mode"] = "backfill"
    backfill = changes["backfill"]
    stream, engine = stream_of(percents, seed, **changes)
    used: list[tuple[str, int]] = []
    useful: set[tuple[str, int]] = set()
    for step in range(8):
        waiting = [first_stream(Group(**g | {"traces": [Trace(**t) for t in g["traces"]]})) for g in _cache(stream)]
        calls = engine.calls
        collected = stream.collect(step)
        assert engine.calls - calls <= backfill["max_rounds"]
        assert collected.generated == len(collected.sampled)
        fresh = [group for group in collected.sampled if len(set(group.rewards)) > 1]
        assert collected.dropped == collected.generated - len(fresh)
        assert all(group.born == step for group in collected.sampled)
        useful |= {first_stream(group) for group in fresh}
        from_cache = [group for group in collected.groups if group.born < step]
        assert collected.from_cache == len(from_cache)
        assert {first_stream(group) for group in from_cache} <= set(waiting)
        assert all(step - group.born <= backfill["max_age"] for group in from_cache)
        assert len(_cache(stream)) <= backfill["cache_groups"]
        if len(collected.groups) < changes["batch_size"]:
            assert engine.calls - calls == backfill["max_rounds"]
            assert set(map(first_stream, fresh)) <= set(map(first_stream, collected.groups))
        used += [first_stream(group) for group in collected.groups]
    assert len(used) == len(set(used))
    assert set(used) <= useful


def _cache(stream: GroupStream) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = stream.snapshot().as_json()["cache"]
    return found


def test_backfill_fills_the_batch_and_serves_the_surplus_before_it_samples() -> None:
    stream, _ = stream_of([0, 50, 50, 100, 50], batch_size=8, num_generations=8, backfill={"max_rounds": 50})
    from_cache = 0
    for step in range(20):
        waiting = [group["traces"][0]["seed"] for group in _cache(stream)]
        collected = stream.collect(step)
        assert len(collected.groups) == 8
        assert [group.traces[0].seed for group in collected.groups[: len(waiting)]] == waiting
        from_cache += collected.from_cache
    assert from_cache > 5


def test_a_round_that_overdraws_spares_the_next_and_wastes_nothing() -> None:
    rounds, groups, generated = {}, {}, {}
    for overdraw in (0.0, 0.3):
        backfill = {"max_rounds": 4, "cache_groups": 16, "overdraw": overdraw}
        stream, engine = stream_of([0, 50, 50, 100, 50], batch_size=16, num_generations=8, backfill=backfill)
        stream.collect(0)  # the yield is not known yet
        calls = engine.calls
        found = [stream.collect(step) for step in range(1, 21)]
        rounds[overdraw], groups[overdraw] = engine.calls - calls, sum(len(one.groups) for one in found)
        generated[overdraw] = sum(one.generated for one in found)
        assert all(one.generated <= 4 * 16 for one in found)
    assert groups[0.0] == groups[0.3] == 20 * 16
    assert rounds[0.3] < 0.6 * rounds[0.0]
    assert generated[0.3] < 1.1 * generated[0.0]


def test_a_cache_that_fills_the_batch_spares_the_engine() -> None:
    stream, engine = stream_of([50], batch_size=2, num_generations=8)
    groups = [asdict(group) for group in stream.collect(0).groups]
    calls = engine.calls
    stream.restore({"drawn": 2, "yield": 1.0, "cache": groups * 2}, {})
    collected = stream.collect(1)
    assert (engine.calls, collected.from_cache, collected.generated) == (calls, 2, 0)
    assert [asdict(group) for group in collected.groups] == groups
    assert len(_cache(stream)) == 2


def test_a_group_older_than_max_age_is_never_used() -> None:
    stream, _ = stream_of([50], batch_size=1, num_generations=8, backfill={"max_age": 2, "cache_groups": 8})
    group = asdict(stream.collect(0).groups[0])
    for step, served in [(2, True), (3, False), (10, False)]:
        stream.restore({"drawn": 5, "yield": 1.0, "cache": [group]}, {})
        collected = stream.collect(step)
        assert (collected.from_cache == 1) == served
        assert collected.groups[0].born == (0 if served else step)
        assert _cache(stream) == []


def test_a_full_cache_keeps_the_youngest() -> None:
    percents = [0, 0, 0, 50] * 8
    stream, _ = stream_of(percents, batch_size=8, num_generations=8, backfill={"cache_groups": 2, "max_rounds": 9})
    for step in range(12):
        old = [group["traces"][0]["seed"] for group in _cache(stream)]
        collected = stream.collect(step)
        used = {group.traces[0].seed for group in collected.groups}
        fresh = [g.traces[0].seed for g in collected.sampled if len(set(g.rewards)) > 1]
        left = [seed for seed in (*old, *fresh) if seed not in used]
        assert [group["traces"][0]["seed"] for group in _cache(stream)] == left[-2:]


@pytest.mark.parametrize("percent", [0, 100])
@pytest.mark.parametrize("mode", ["backfill", "reject", "duplicate"])
def test_a_data_set_that_teaches_nothing_ends_after_max_rounds(percent: int, mode: str) -> None:
    stream, engine = stream_of([percent] * 3, batch_size=5, backfill={"mode": mode, "max_rounds": 4})
    for step in range(5):
        collected = stream.collect(step)
        assert collected.groups == []
        assert collected.dropped == collected.generated
        assert 5 <= collected.generated <= 20
    assert engine.calls == 5 * (4 if mode == "backfill" else 1)


def test_reject_takes_the_smaller_batch() -> None:
    percents = [0, 50, 100, 50, 0, 50]
    stream, engine = stream_of(percents, batch_size=4, num_generations=8, backfill={"mode": "reject"})
    sizes = set()
    for step in range(10):
        collected = stream.collect(step)
        assert engine.calls == step + 1
        assert collected.generated == 4
        assert collected.groups == [group for group in collected.sampled if len(set(group.rewards)) > 1]
        assert _cache(stream) == []
        sizes.add(len(collected.groups))
    assert min(sizes) < 4


def test_duplicate_fills_the_batch_with_groups_that_teach() -> None:
    percents = [0, 50, 100, 50, 0, 50]
    stream, engine = stream_of(percents, batch_size=4, num_generations=8, backfill={"mode": "duplicate"})
    for step in range(10):
        collected = stream.collect(step)
        assert engine.calls == step + 1
        useful = [group for group in collected.sampled if len(set(group.rewards)) > 1]
        if useful:
            assert len(collected.groups) == 4
            counts = Counter(first_stream(group) for group in collected.groups)
            assert counts.keys() == {first_stream(group) for group in useful}
            assert max(counts.values()) - min(counts.values()) <= 1


@settings(max_examples=40, deadline=None)
@given(percents=percentages, changes=sections, seed=st.integers(0, 3), cut=st.integers(0, 5), shared=st.booleans())
def test_a_restored_stream_goes_on_as_if_nothing_had_happened(
    percents: list[int], changes: dict[str, Any], seed: int, cut: int, shared: bool
) -> None:
    if shared:
        changes["curriculum"] = {**changes["curriculum"], "min_group": 2, "max_group": 6}
    unbroken, engine = stream_of(percents, seed, **changes)
    for step in range(cut):
        unbroken.collect(step)
    state = json.loads(json.dumps(unbroken.snapshot().as_json()))
    restored, other = stream_of(percents, seed, **changes)
    longest = [trace["token_ids"] for group in state["cache"] for trace in group["traces"]]
    assert not any(longest)  # the JSON holds none of the long lists
    restored.restore(state, unbroken.snapshot().arrays())
    before = len(engine.streams)
    for step in range(cut, cut + 4):
        assert _plain(restored.collect(step)) == _plain(unbroken.collect(step))
    assert other.streams == engine.streams[before:]
    assert restored.snapshot().as_json() == unbroken.snapshot().as_json()
    assert restored.snapshot().arrays().keys() == unbroken.snapshot().arrays().keys()


def test_the_lists_of_cached_rollouts_come_back_from_arrays_as_they_were() -> None:
    masks = [None, [1, 0, 1], [], None]
    logprobs = [[-0.1, -1 / 3], [-2.5, -1e-300], [], [0.0]]
    ids = [[7, 130_047], [1, 2, 3], [], [5]]
    traces = [
        Trace(0, i, token_ids, "text", [], logprob, [], "stop", mask=mask)
        for i, (token_ids, logprob, mask) in enumerate(zip(ids, logprobs, masks, strict=True))
    ]
    bare = [Trace(**without_lists(json.loads(json.dumps(asdict(trace))))) for trace in traces]
    assert bare != traces
    fill(bare, to_arrays(traces))
    assert bare == traces
    assert to_arrays([]) == {}


def _plain(collected: Collected) -> dict[str, Any]:
    return asdict(collected)


def test_no_two_rollouts_ever_share_a_prompt_and_a_seed() -> None:
    stream, engine = stream_of([50, 0, 100], batch_size=4, num_generations=3, backfill={"max_rounds": 6})
    for step in range(12):
        stream.collect(step)
    assert len(engine.streams) > 150
    assert len(engine.streams) == len(set(engine.streams))


def test_every_epoch_draws_each_prompt_once_in_another_order() -> None:
    stream, engine = stream_of([50] * 7, batch_size=3, num_generations=2, backfill={"mode": "reject"})
    for step in range(14):
        stream.collect(step)
    drawn = [prompt[1] for prompt, _ in engine.streams[::2]]
    epochs = [tuple(drawn[i : i + 7]) for i in range(0, 42, 7)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len(set(epochs)) > 3


def test_order_and_seeds_follow_the_run_seed() -> None:
    def drawn(seed: int) -> list[tuple[tuple[int, ...], int]]:
        stream, engine = stream_of([50] * 7, seed, batch_size=7)
        stream.collect(0)
        return engine.streams

    one, other = drawn(3), drawn(4)
    assert drawn(3) == one
    first_round = slice(0, 7 * 4)
    assert [prompt for prompt, _ in one[first_round]] != [prompt for prompt, _ in other[first_round]]
    assert [seed for _, seed in one[first_round]] != [seed for _, seed in other[first_round]]


def test_rollouts_are_sampled_without_filters_at_the_recipes_temperature() -> None:
    stream, engine = stream_of([50] * 4, temperature=0.85, max_tokens=77, num_generations=5)
    stream.collect(0)
    for params in engine.params:
        assert (params.n, params.temperature, params.max_tokens) == (5, 0.85, 77)
        assert not params.filters


@pytest.mark.parametrize("kept", [False, True])
def test_a_group_that_differs_in_format_alone_teaches_only_where_the_recipe_says_so(kept: bool) -> None:
    changes = {"batch_size": 40, "num_generations": 5, "rewards": {"format": 0.1}, "max_tokens": 5}
    backfill = {"mode": "reject", "format_only": kept}
    for length in ({}, {"overlong_buffer": 4, "overlong_penalty": 0.5}):
        stream, _ = stream_of([0, 50, 100], sloppy=True, backfill=backfill, **changes, **length)
        collected = stream.collect(0)
        of_format = [g for g in collected.sampled if len(set(g.correct)) == 1 and len(set(g.well_formed)) == 2]
        assert len(of_format) > 3
        taken = [group for group in of_format if group in collected.groups]
        # A group that differs in length too teaches length.
        assert (len(taken) == len(of_format)) == (kept or bool(length)), (len(taken), len(of_format))
        assert kept or length or not taken
        assert all(group in collected.groups for group in collected.sampled if len(set(group.correct)) == 2)


def test_long_answers_cost_reward_over_the_buffer() -> None:
    changes = {"batch_size": 3, "num_generations": 5, "max_tokens": 5}
    plain, _ = stream_of([50, 50, 50], **changes)
    penalised, _ = stream_of([50, 50, 50], overlong_buffer=4, overlong_penalty=0.5, **changes)
    before = {first_stream(group): group for group in plain.collect(0).sampled}
    groups = penalised.collect(0).sampled
    assert {trace.num_tokens for group in groups for trace in group.traces} == {1, 2, 3, 4, 5}
    for group in groups:
        if first_stream(group) in before:
            for trace, reward, old in zip(
                group.traces, group.rewards, before[first_stream(group)].rewards, strict=True
            ):
                assert reward == pytest.approx(old - 0.5 * (trace.num_tokens - 1) / 4)


def test_traces_without_any_sampling_logprob_are_refused_and_single_gaps_are_not() -> None:
    stream, engine = stream_of([50] * 4)
    whole = engine.generate

    def gaps(every: int) -> Any:
        def generate(prompts: Any, params: Any) -> list[Trace]:
            traces = whole(prompts, params)
            for number, trace in enumerate(traces):
                if number % every == 0:
                    trace.sampling_logprobs = [float("nan")] * trace.num_tokens
            return traces

        return generate

    engine.generate = gaps(every=2)  # type: ignore[method-assign]
    assert stream.collect(0).groups
    engine.generate = gaps(every=1)  # type: ignore[method-assign]
    with pytest.raises(UserError, match="no sampled token has a finite log-probability"):
        stream.collect(1)


def failing(engine: HashEngine, which: Any) -> Any:
    """`engine.generate` with an error in the place of the traces with such seeds."""
    whole = engine.generate

    def generate(prompts: Any, params: Any) -> list[Trace]:
        return [
            Trace(one.prompt_index, one.sample_index, [1], "half", [-1.0], [-1.0], [-1.0], "error", error="gone away")
            if which(one.seed)
            else one
            for one in whole(prompts, params)
        ]

    return generate


def test_what_the_engine_failed_at_is_no_wrong_answer() -> None:
    stream, engine = stream_of([50] * 4, batch_size=4)
    engine.generate = failing(engine, lambda seed: seed < 6 or seed == 9)  # type: ignore[method-assign]
    collected = stream.collect(0)
    assert collected.groups
    assert [len(group.traces) for group in collected.sampled[:4]] == [0, 2, 3, 4]
    for group in collected.sampled:
        assert len(group.traces) == len(group.rewards) == len(group.correct)
        assert all(trace.finish_reason != "error" for trace in group.traces)


def test_an_engine_that_generates_nothing_ends_the_run_with_its_reason() -> None:
    stream, engine = stream_of([50] * 4)
    engine.generate = failing(engine, lambda seed: True)  # type: ignore[method-assign]
    with pytest.raises(UserError, match="the engine generated nothing: gone away"):
        stream.collect(0)


def test_a_group_holds_of_a_token_its_id_and_the_logprob_that_the_loss_reads() -> None:
    """Groups wait in the cache and in checkpoints, at tens of thousands of tokens a rollout."""
    stream, _ = stream_of([50] * 4)
    for trace in (trace for group in stream.collect(0).sampled for trace in group.traces):
        assert len(trace.sampling_logprobs) == trace.num_tokens > 0
        assert trace.logprobs == trace.confidences == []
