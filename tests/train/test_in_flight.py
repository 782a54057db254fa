"""Weights that reach engines in the middle of rollouts, with engines of this process as the actors of a cluster."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import FIRST_COMPLETED, Future
from concurrent.futures import wait as futures_wait
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from test_rl import PROMPTS, RL, ready_for_rl
from tiny_training import (
    Killed,
    checksum_verdicts,
    metrics_for,
    metrics_of,
    rl_section,
    sequence_logprobs,
    tiny_model,
    training_recipe,
)

import h1r.train.cluster.engines as module
from h1r.config import EngineSection, Recipe
from h1r.engine.native.engine import NativeEngine
from h1r.engine.protocol import SamplingParams
from h1r.errors import UserError
from h1r.models import load, save
from h1r.records import Problem, Trace, read_jsonl
from h1r.rollout.conversations import Conversation
from h1r.run.checkpoints import Checkpoints
from h1r.run.directory import Run
from h1r.train.cached_arrays import unpacked
from h1r.train.cluster.engine_actor import EngineActor
from h1r.train.cluster.engines import RayEngines
from h1r.train.cluster.handles import Sender
from h1r.train.cluster.tickets import Ticket, Tickets
from h1r.train.fleet import Fleet
from h1r.train.parallel.world import ALONE
from h1r.train.policy import LocalPolicy
from h1r.train.rl import rl, train_rl
from h1r.train.rollouts import Collected, GroupStream
from h1r.train.start import rl_policy, saved_tokenizer

LIMIT_S = 20.0


class Watched(NativeEngine):
    """Between two steps it calls `before`, which may wait."""

    before: Callable[[], None] = staticmethod(lambda: None)

    def watch(self, look: Callable[[], None] | None) -> None:
        def both() -> None:
            self.before()
            assert look is not None
            look()

        super().watch(None if look is None else both)


class Loop:
    """An event loop in a thread, where an actor's methods run."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()

    def run(self, work: Coroutine[Any, Any, Any]) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)


@pytest.fixture
def loop() -> Iterator[Loop]:
    found = Loop()
    yield found
    found.close()


def until(true: Callable[[], bool]) -> None:
    """Waits for another thread."""
    ends = time.monotonic() + LIMIT_S
    while not true():
        assert time.monotonic() < ends, "it does not come"
        time.sleep(0.0005)


def actor_on(engine: NativeEngine) -> EngineActor:
    actor = EngineActor(None, 0, 1)  # type: ignore[arg-type]
    actor._engine, actor._tokenizer, actor._version = engine, engine.tokenizer, 0
    return actor


def test_every_token_is_kept_and_has_the_log_probability_of_the_weights_that_it_says(
    tmp_path: Path, loop: Loop
) -> None:
    models = [tiny_model(seed).eval() for seed in range(3)]
    for version, model in enumerate(models):
        save(model, tmp_path / str(version))
    asked = [SamplingParams(n=4, max_tokens=24, seed=100 * i) for i in range(len(PROMPTS))]

    def sampled(renewals: dict[int, int]) -> list[list[Trace]]:
        """renewals: after so many steps of the engine, the weights that come."""
        engine = Watched(tiny_model(0).eval(), None, EngineSection(max_sequences=6, prefill_tokens=12))
        actor, steps = actor_on(engine), 0

        def before() -> None:
            nonlocal steps
            steps += 1
            if steps in renewals:
                version = renewals[steps]
                loop.run(actor.renew(str(tmp_path / str(version)), version))
                until(lambda: bool(actor._renewals))

        engine.before = before  # type: ignore[method-assign]
        tickets = [loop.run(actor.sample(np.array(ids), one)) for ids, one in zip(PROMPTS, asked, strict=True)]
        return [unpacked(ticket.result(LIMIT_S)) for ticket in tickets]

    alone, found = sampled({}), sampled({5: 1, 11: 2})
    parts = set()
    for prompt, one, traces, uncut in zip(PROMPTS, asked, found, alone, strict=True):
        assert [trace.sample_index for trace in traces] == [0, 1, 2, 3]
        assert [trace.seed for trace in traces] == [one.seed + j for j in range(4)]
        for trace, other in zip(traces, uncut, strict=True):
            versions = [version for version, tokens in trace.versions or () for _ in range(tokens)]
            assert len(versions) == len(trace.token_ids) == len(trace.sampling_logprobs) <= one.max_tokens
            assert versions == sorted(versions)
            parts.add(tuple(dict.fromkeys(versions)))
            first = versions.count(0)
            assert trace.token_ids[:first] == other.token_ids[:first]
            ended = "stop" if trace.token_ids[-1] == 7 else "length"
            assert trace.finish_reason == ended
            assert 7 not in trace.token_ids[:-1]
            assert ended == "stop" or len(trace.token_ids) == one.max_tokens
            under = [sequence_logprobs(model, [*prompt, *trace.token_ids])[len(prompt) - 1 :] for model in models]
            expected = [under[version][t].item() for t, version in enumerate(versions)]
            assert trace.sampling_logprobs == pytest.approx(expected, abs=1e-5)
    assert {(0, 1, 2), (2,)} <= parts, "the last ones begin when a slot is free"


class Cutting:
    """An engine whose traces are cancelled at its first step, some with a last token of their own already."""

    eos_token_ids = (7,)

    def __init__(self, cancelled: list[list[int]]) -> None:
        self.cancelled, self.streams = cancelled, 0
        self.asked: list[tuple[int, int]] = []
        self.look: Callable[[], None] | None = None

    def watch(self, look: Callable[[], None] | None) -> None:
        self.look = look

    def stream(self, prompts: list[list[int]], params: list[SamplingParams]) -> Iterator[Trace]:
        self.asked = [(len(prompt), one.max_tokens) for prompt, one in zip(prompts, params, strict=True)]
        assert self.look is not None
        self.look()
        self.streams += 1
        if self.streams > 1:
            for at in range(len(prompts)):
                yield Trace(at, 0, [3, 7], "", [-1.0] * 2, [-1.0] * 2, [], "stop")

    def cancel(self, _: int) -> list[Trace]:
        each = enumerate(self.cancelled)
        return [Trace(0, j, ids, "", [], [-2.0] * len(ids), [], "cancelled", j) for j, ids in each]


def test_a_trace_that_ended_as_it_was_cut_does_not_go_on() -> None:
    """vLLM's process may be a step ahead of what it has told."""
    engine, cuts = Cutting([[5, 7], [5, 5, 5], [], [5]]), [True, False]
    tickets = Tickets(engine, None, 4, lambda: cuts.pop(0))  # type: ignore[arg-type]
    ticket = Ticket([1, 2], SamplingParams(n=4, max_tokens=3))
    tickets.add(ticket)
    assert [*tickets.run()] == []
    tickets.go_on(5)
    assert [*tickets.run()] == [None, None]
    assert engine.asked == [(3, 2), (2, 3)]
    traces = unpacked(ticket.future.result(0))
    assert [(one.token_ids, one.finish_reason, one.versions) for one in traces] == [
        ([5, 7], "stop", [[4, 2]]),
        ([5, 5, 5], "length", [[4, 3]]),
        ([3, 7], "stop", [[5, 2]]),
        ([5, 3, 7], "stop", [[4, 1], [5, 2]]),
    ]


def test_a_conversation_says_the_versions_of_all_its_turns() -> None:
    conversation = Conversation(None, SamplingParams(), Trace(0, 0, [], "", [], [], [], "stop"), None)  # type: ignore[arg-type]
    conversation.add_turn(Trace(0, 0, [1, 2, 3], "", [], [], [], "stop", versions=[[2, 1], [3, 2]]))
    conversation.add_reply([9, 9])
    conversation.add_turn(Trace(0, 0, [4], "", [], [], [], "stop", versions=[[3, 1]]))
    trace = conversation.end()
    assert trace.versions == [[2, 1], [3, 2], [3, 1]]
    assert trace.num_tokens == sum(tokens for _, tokens in trace.versions) == 4


class Ray:
    """Actors of this process: what a method gives is a future."""

    exceptions = SimpleNamespace(
        RayActorError=ConnectionError, ObjectLostError=ConnectionError, RayTaskError=ConnectionError
    )

    @staticmethod
    def wait(asked: list[Future[Any]], timeout: float | None = None, num_returns: int = 1) -> tuple[list[Any], Any]:
        done, left = futures_wait(asked, timeout, FIRST_COMPLETED)
        return list(done), left

    @staticmethod
    def get(asked: Future[Any]) -> Any:
        return asked.result(LIMIT_S)


class Handle:
    def __init__(self, loop: Loop, actor: EngineActor) -> None:
        for name in ("open", "sample", "renew"):
            method = getattr(actor, name)
            call = lambda *arguments, method=method: loop.run(method(*arguments))  # noqa: E731
            setattr(self, name, SimpleNamespace(remote=call))


class Held:
    """An engine that waits in the fourth step of a batch's first stream until the step before is trained, so that its
    weights come in the middle."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.batch, self.at_work, self.over, self.steps = -1, 0, False, 0
        self.actor: EngineActor
        plain = GroupStream.collect

        def collect(stream: GroupStream, step: int, made: int | None = None) -> Collected:
            self.batch, self.at_work, self.steps = self.batch + 1, self.at_work + 1, 0
            try:
                return plain(stream, step, made)
            finally:
                self.at_work -= 1

        monkeypatch.setattr(GroupStream, "collect", collect)

    def engine(self, place: Path, tokenizer: Any) -> Watched:
        engine = Watched(load(place), tokenizer, EngineSection(max_sequences=16))
        engine.before = self.before  # type: ignore[method-assign]
        return engine

    def before(self) -> None:
        self.steps += 1
        if self.steps == 4:
            until(lambda: bool(self.actor._renewals) or self._may_go_on())

    def _may_go_on(self) -> bool:
        return self.over or (self.actor._version or 0) >= self.batch


def trained(run: Run, recipe: Recipe, held: Held, loop: Loop, dies_after: int | None = None) -> None:
    """`train_rl` on an engine that samples in a thread; the run goes on where one has begun."""
    tokenizer = saved_tokenizer(recipe, run)
    model, wrapped = rl_policy(recipe, run.path / "sft" / "model", tokenizer, ALONE)
    stage = run.stage("rl")
    policy = LocalPolicy(model, recipe.rl, tokenizer, stage, None, wrapped, ALONE)
    place = run.path / "weights" / "model"
    held.over, held.batch = False, Checkpoints(stage).step_to_resume(True) - 1
    policy.send_weights(place)

    def start(_: int) -> Handle:
        held.actor = actor_on(held.engine(place, tokenizer))
        held.actor._version = None
        return Handle(loop, held.actor)

    engines = RayEngines(Ray, start, 1, 16, LIMIT_S, in_flight=True)
    engines.place = place
    sender = Sender(policy, engines, place, in_flight=True)  # type: ignore[arg-type]
    try:
        train_rl(
            policy,
            Fleet(engines, sender.update, apart=True),
            checksum_verdicts,
            list(read_jsonl(run.path / "rl_pool" / "pool.jsonl", Problem)),
            recipe.rl,
            metrics_for(stage, True, dies_after),
            tokenizer=tokenizer,
            directory=stage,
            system_prompt=recipe.chat.system_prompt,
            resume=True,
        )
    finally:
        held.over = True
        until(lambda: not held.at_work)


def test_a_run_is_trained_on_fresher_tokens_and_a_resumed_one_on_what_was_sampled(
    curated: Path, tmp_path: Path, loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "POLL_S", 0.002)
    changes = {
        "steps": 5,
        "checkpoint_every": 3,
        "lookahead": 1,
        "in_flight": True,
        "backfill": {"max_rounds": 3, "cache_groups": 0},
    }
    recipe = training_recipe(rl={**RL, **changes})
    run, held = ready_for_rl(curated, tmp_path / "run", recipe), Held(monkeypatch)
    with pytest.raises(Killed):
        trained(run, recipe, held, loop, dies_after=4)
    before = metrics_of(run.path / "rl")
    assert len(before) == 5
    for line in before:
        assert line["max_staleness"] <= 1
        assert line.get("mismatch_kl", 0.0) < 0.1
        assert line.get("token_staleness", 0.0) < 1, "without weights in flight it is 1"
    trained(run, recipe, held, loop)
    assert metrics_of(run.path / "rl") == before, "what was trained on before is sampled again, or changed"


def test_weights_in_flight_are_refused_where_nothing_is_sampled_meanwhile(curated: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="in_flight has no rollouts to reach"):
        rl_section(in_flight=True)
    recipe = training_recipe(rl={**RL, "lookahead": 1, "in_flight": True})
    with pytest.raises(UserError, match=r"set cluster.backend to ray, or leave it out: rl.partial_tokens"):
        rl(recipe, ready_for_rl(curated, tmp_path / "run", recipe))
