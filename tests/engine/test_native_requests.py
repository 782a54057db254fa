"""The native engine's own interface: requests that come and go while others run."""

from __future__ import annotations

import dataclasses
import weakref

import pytest
import torch
from geometries import SMALL, randomised

from h1r.config import EngineSection
from h1r.engine.native.batch import Batch, Prefill
from h1r.engine.native.engine import NativeEngine
from h1r.engine.native.kept_states import MOST_PROMPTS, KeptState, KeptStates
from h1r.engine.protocol import SamplingParams
from h1r.kernels.selection import select
from h1r.records import Trace

LONG = [3 + i % 50 for i in range(200)]
SHORT = [5, 6, 7, 8]


def native(kernels: str = "native", memory_gib: float | None = None, **section: int) -> NativeEngine:
    model = randomised(SMALL, seed=1).use(select(kernels))
    return NativeEngine(model, None, EngineSection(memory_gib=memory_gib, **section), eos_token_ids=())


def alone(prompt: list[int], params: SamplingParams, number: int, kernels: str = "native") -> list[Trace]:
    return [dataclasses.replace(trace, prompt_index=number) for trace in native(kernels).generate([prompt], [params])]


def run(engine: NativeEngine) -> list[Trace]:
    traces: list[Trace] = []
    while engine.busy:
        traces += engine.step()
    return sorted(traces, key=lambda trace: (trace.prompt_index, trace.sample_index))


@pytest.mark.parametrize("kernels", ["native", "torch"])
def test_requests_that_join_have_the_traces_that_they_have_alone(kernels: str) -> None:
    """More slots, longer ones, filters and a threshold are wanted while the first request runs."""
    engine = native(kernels, max_sequences=8, prefill_tokens=16)
    requests = [
        ([9, 4], SamplingParams(max_tokens=30, seed=1)),
        (SHORT, SamplingParams(n=3, max_tokens=12, seed=2, top_p=0.8, temperature=0.7)),
        (LONG, SamplingParams(n=2, max_tokens=20, seed=3, confidence_threshold=1e9, confidence_window=5)),
        ([11], SamplingParams(max_tokens=3, seed=4)),
    ]
    traces = []
    for prompt, params in requests:
        engine.add(prompt, params)
        traces += [trace for _ in range(4) for trace in engine.step()]
    traces = sorted([*traces, *run(engine)], key=lambda trace: (trace.prompt_index, trace.sample_index))
    expected = [trace for i, (prompt, params) in enumerate(requests) for trace in alone(prompt, params, i, kernels)]
    if kernels == "native":
        assert traces == expected
    assert [trace.token_ids for trace in traces] == [trace.token_ids for trace in expected]
    assert [trace.finish_reason for trace in traces][4:6] == ["confidence", "confidence"]


def test_a_stream_takes_in_a_prompt_between_two_of_its_traces() -> None:
    engine, params = native(max_sequences=2), SamplingParams(n=2, max_tokens=5, seed=3)
    stream = engine.stream([SHORT], params)
    first = next(stream)
    assert engine.add([9], params) == 1
    rest = list(stream)
    assert sorted((one.prompt_index, one.sample_index) for one in [first, *rest]) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert [one for one in rest if one.prompt_index == 1] == alone([9], params, 1)
    assert not engine.busy


def test_a_short_prompt_does_not_wait_for_a_long_one(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = native(max_sequences=4, prefill_tokens=8)
    chunks: list[int] = []
    advance = Prefill.advance

    def spy(self: Prefill, *rest: object) -> bool:
        chunks.append(self.requests[0].index)
        return advance(self, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Prefill, "advance", spy)
    one = SamplingParams(max_tokens=2, seed=2)
    engine.add([9, 9], dataclasses.replace(one, max_tokens=100))
    engine.step()
    long = engine.add(LONG, one)
    engine.step()
    assert chunks == [0, long]
    short = [engine.add(SHORT, one) for _ in range(3)]
    ended: list[Trace] = []
    while len(ended) < 3:
        ended += engine.step()
    assert [trace.prompt_index for trace in ended] == short
    # Two of them fit into a chunk.
    assert chunks == [0, long, short[0], long, short[2], long]
    while long not in [trace.prompt_index for trace in ended]:
        engine.add(SHORT, one)
        ended += engine.step()
    assert chunks.count(long) == len(LONG) // 8
    assert len(chunks) <= 1 + 2 * chunks.count(long)


def test_tokens_of_a_request_come_as_they_are_drawn_and_those_of_others_are_not_lost() -> None:
    engine, params = native(max_sequences=4), SamplingParams(n=2, max_tokens=9, seed=5)
    heard = engine.add(SHORT, params, listen=True)
    engine.add([9], SamplingParams(max_tokens=3, seed=6))
    tokens = engine.tokens(heard)
    first = next(tokens)
    assert [running.num_tokens for running in engine.progress()] == [1, 1, 1]
    drawn = [first, *tokens]
    traces = run(engine)
    assert [trace.prompt_index for trace in traces] == [0, 0, 1]
    for trace in traces[:2]:
        mine = [one for one in drawn if one.sample_index == trace.sample_index]
        assert [one.token_id for one in mine] == trace.token_ids
        assert [one.logprob for one in mine] == trace.logprobs
        assert [one.confidence for one in mine] == trace.confidences
    with pytest.raises(KeyError, match="was not added with listen=True"):
        next(engine.tokens(heard))


def test_a_cancelled_request_leaves_the_others_and_gives_back_what_it_spent() -> None:
    engine, params = native(max_sequences=2), SamplingParams(max_tokens=9, seed=5)
    numbers = [engine.add(prompt, params, listen=True) for prompt in (SHORT, [9], [11])]
    for _ in range(3):
        engine.step()
    assert [(trace.num_tokens, trace.finish_reason) for trace in engine.cancel(numbers[0])] == [(3, "cancelled")]
    assert len(list(engine.tokens(numbers[0]))) == 3
    assert engine.cancel(numbers[2]) == []
    assert run(engine) == alone([9], params, numbers[1])


def test_what_does_not_fit_beside_the_rest_waits_and_nothing_overtakes_it() -> None:
    first, second = SamplingParams(max_tokens=30, seed=1), SamplingParams(max_tokens=400, seed=2)
    wanted = native(max_sequences=1)
    wanted.generate([SHORT], second)
    assert wanted.memory is not None
    engine = native(memory_gib=wanted.memory.total / 2**30, max_sequences=1)
    engine.add(SHORT, first)
    engine.step()
    for params in (second, first):
        engine.add(SHORT, params)
    order = []
    while engine.busy:
        order += [trace.prompt_index for trace in engine.step()]
        assert engine.memory is not None
        assert engine.memory.total <= engine.memory.budget
    assert order == [0, 1, 2]


def test_one_stream_and_requests_of_ones_own_exclude_each_other() -> None:
    engine, params = native(), SamplingParams(max_tokens=3)
    engine.add(SHORT, params)
    with pytest.raises(RuntimeError, match="in progress"):
        next(engine.stream([SHORT], params))
    with pytest.raises(ValueError, match="confidence_top_k must be the same"):
        engine.add(SHORT, dataclasses.replace(params, confidence_top_k=3))
    engine.close()
    assert not engine.busy
    stream = engine.stream([SHORT], dataclasses.replace(params, n=2, confidence_top_k=3))
    next(stream)
    with pytest.raises(RuntimeError, match="in progress"):
        engine.step()


def test_the_memory_of_a_batch_goes_with_its_last_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[Batch] = []
    begin = Batch.__init__

    def spy(self: Batch, *rest: object) -> None:
        batches.append(self)
        begin(self, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Batch, "__init__", spy)
    engine = native()
    for _ in range(2):
        engine.add(SHORT, SamplingParams(max_tokens=3))
        run(engine)
    assert len(batches) == 2
    assert not hasattr(engine.runner, "slots")


def test_the_oldest_kept_state_makes_room_for_a_new_one() -> None:
    kept = KeptStates()
    kept.limit = 25.0
    for first in range(4):
        assert kept.make_room(10)
        kept.add(KeptState([first, 1], None, 10))  # type: ignore[arg-type]
    assert kept.num_bytes == 20
    assert kept.take([0, 1, 5]) is None
    assert kept.take([3, 1, 5]) is not None
    assert not kept.make_room(26)
    assert kept.num_bytes == 10


def test_turns_of_several_chats_go_on_from_their_states_until_the_weights_change() -> None:
    engine, params = native(), SamplingParams(max_tokens=6, seed=1, keep_state=True, stop_token_ids=tuple(range(40)))
    chats = [[*SHORT], [*LONG]]
    for turn in range(3):
        if turn == 2:
            with torch.no_grad():
                engine.model.lm_head.weight.mul_(1.5)
        reused = engine.kept.reused_tokens
        for chat in chats:
            number = engine.add(chat, params)
            (trace,) = run(engine)
            fresh = NativeEngine(engine.model, None, EngineSection(), eos_token_ids=())
            assert [trace] == [dataclasses.replace(t, prompt_index=number) for t in fresh.generate([chat], params)]
            assert trace.finish_reason == "stop"
            chat += [*trace.token_ids, 9, 9]
        assert (engine.kept.reused_tokens > reused + len(LONG)) == (turn == 1)
    assert engine.kept.num_bytes > 0
    engine.add(SHORT, dataclasses.replace(params, keep_state=False))
    engine.step()
    assert engine.kept.num_bytes == 0


def test_a_chat_goes_on_from_its_last_prompt_whatever_was_thought_since() -> None:
    engine, params = native(), SamplingParams(n=3, max_tokens=6, seed=1, keep_prompt=True)
    chat, before = [*LONG], []
    for turn in range(3):
        reused = engine.kept.reused_tokens
        number = engine.add(chat, params)
        traces = run(engine)
        fresh = NativeEngine(engine.model, None, EngineSection(), eos_token_ids=())
        alone = fresh.generate([chat], dataclasses.replace(params, keep_prompt=False))
        assert sorted(traces, key=lambda one: one.sample_index) == [
            dataclasses.replace(one, prompt_index=number) for one in alone
        ]
        assert engine.kept.reused_tokens - reused == len(before)
        before, chat = chat, [*chat, 7, 9, turn]
    assert fresh.kept.num_bytes == 0
    engine.add(chat, params)
    run(engine)
    held = engine.kept.num_bytes
    engine.add(chat, params)
    run(engine)
    assert engine.kept.num_bytes == held  # the same prompt once more is not kept twice
    engine.add(chat, dataclasses.replace(params, keep_prompt=False))
    engine.step()
    assert engine.kept.num_bytes == 0


def test_prompts_are_kept_of_so_many_chats_and_no_more() -> None:
    kept = KeptStates()
    kept.limit = 1e9
    for first in range(MOST_PROMPTS + 3):
        assert kept.make_room_for_prompt([first, 1], 10)
        kept.add(KeptState([first, 1], None, 10))  # type: ignore[arg-type]
    assert kept.num_bytes == 10 * MOST_PROMPTS
    assert kept.take([2, 1, 5]) is None
    assert not kept.make_room_for_prompt([3, 1], 10)
    assert kept.take([3, 1, 5]) is not None


def test_prompts_that_overtake_a_long_one_are_in_the_memory_that_was_foretold(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = native(max_sequences=3, prefill_tokens=24)
    caches: list[weakref.ref[object]] = []
    most = 0
    begin = Prefill.__init__

    def spy(self: Prefill, *rest: object) -> None:
        nonlocal most
        begin(self, *rest)  # type: ignore[arg-type]
        caches.append(weakref.ref(self._cache))
        alive = [cache for one in caches if (cache := one()) is not None]
        config, dtype = engine.model.config, engine.model.dtype
        most = max(most, sum(
            len(cache.lengths) * engine.model.cache_type.bytes_per_slot(config, cache.max_length, dtype)  # type: ignore[attr-defined]
            for cache in alive
        ))  # fmt: skip

    monkeypatch.setattr(Prefill, "__init__", spy)
    prompts = [SHORT, LONG, *[[7 + i] * (1 + 3 * i) for i in range(7)]]
    engine.generate(prompts, SamplingParams(n=2, max_tokens=30, seed=3))
    assert engine.memory is not None
    assert 0 < most <= engine.memory.prompts


def test_what_is_withdrawn_had_not_started_and_the_rest_goes_on_in_another_request() -> None:
    """Three slots and seven traces: another request gets in between the third and the fourth."""
    engine = native(max_sequences=3)
    params = SamplingParams(n=7, max_tokens=9, seed=5)
    number = engine.add(SHORT, params, listen=True)
    engine.step()
    assert engine.withdraw(number) == 4
    assert engine.withdraw(number) == 0
    other = engine.add([9, 4], SamplingParams(max_tokens=4, seed=8))
    rest = engine.add(SHORT, dataclasses.replace(params, n=4, seed=params.seed + 3))
    heard, traces = [], []
    while engine.busy:
        traces += engine.step()
        heard += engine.drawn([number]).get(number, [])
    ended = [(trace.prompt_index, trace.sample_index) for trace in traces]
    assert ended.index((other, 0)) < min(ended.index((rest, j)) for j in range(4))
    whole = {trace.sample_index: trace.token_ids for trace in alone(SHORT, params, number)}
    parts = {(number, j): whole[j] for j in range(3)} | {(rest, j): whole[3 + j] for j in range(4)}
    assert {(t.prompt_index, t.sample_index): t.token_ids for t in traces if t.prompt_index != other} == parts
    assert [[one.token_id for one in heard if one.sample_index == j] for j in range(3)] == [whole[j] for j in range(3)]
    assert engine.drawn([number]) == {}


def test_a_request_of_which_nothing_started_is_withdrawn_whole() -> None:
    engine = native()
    number = engine.add(SHORT, SamplingParams(n=2, max_tokens=3))
    assert engine.withdraw(number) == 2
    assert not engine.busy
    assert engine.withdraw(99) == 0
