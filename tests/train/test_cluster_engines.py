"""Engines that answer in any order, die, and do not start again, and trainers that die: with a stand-in for Ray."""

from __future__ import annotations

import random
import tempfile
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_rollouts import HashEngine

from h1r.engine.protocol import SamplingParams
from h1r.errors import UserError
from h1r.train.cached_arrays import packed
from h1r.train.cluster.engine_actor import EngineActor
from h1r.train.cluster.engines import RayEngines
from h1r.train.cluster.handles import RayPolicy, Sender
from h1r.train.cluster.replies import TrainerLostError, line
from h1r.train.cluster.trainer_actor import TrainerActor
from h1r.train.parallel.world import ALONE


class RayActorError(Exception):
    pass


class ObjectLostError(Exception):
    pass


class RayTaskError(Exception):
    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


class Method:
    def __init__(self, call: Any) -> None:
        self.remote = call


class Actor:
    """Answers when it is asked what came of a call, unless it died meanwhile."""

    def __init__(self, sums: dict[str, int], starts: bool = True) -> None:
        self.alive, self.sampled = True, 0
        self.sample = Method(lambda prompt, params: Reference(self, lambda: self._sample(prompt, params), True))
        self.version: int | None = None
        self.take = Method(lambda place: Reference(self, lambda: sums, ready=starts))
        self.open = self.renew = Method(
            lambda place, version=None: Reference(self, lambda: self._has(version), ready=starts)
        )
        self._sums = sums

    def _has(self, version: int | None) -> dict[str, int]:
        self.version = version
        return self._sums

    def _sample(self, prompt: np.ndarray, params: SamplingParams) -> Any:
        self.sampled += 1
        return packed(HashEngine().generate([prompt.tolist()], [params]))


class Trainer:
    """What it says when it is called: an error, or None for one that hangs, or for one that died."""

    def __init__(self, fails: Exception | None = None) -> None:
        self.alive = True
        self.host = Method(lambda: Reference(self, lambda: "host"))
        self.store = Method(lambda host, ranks: Reference(self, lambda: 1))
        self.join = Method(lambda *_: Reference(self, lambda: (200, [7])))
        self.call = Method(lambda *_: Reference(self, lambda: self._fail(fails), ready=fails is not None))

    def _fail(self, error: Exception | None) -> None:
        assert error is not None
        raise RayTaskError(error)


class Reference:
    def __init__(self, actor: Actor | Trainer, call: Any, ticket: bool = False, ready: bool = True) -> None:
        self.actor, self.call, self.ticket, self.ready = actor, call, ticket, ready


class Ray:
    """deaths: the numbers of the waits for tickets at which an actor dies."""

    exceptions = type("exceptions", (), {one.__name__: one for one in (RayActorError, ObjectLostError, RayTaskError)})

    def __init__(self, seed: int, deaths: set[int]) -> None:
        self.random, self.deaths, self.waits = random.Random(seed), deaths, 0

    def wait(
        self, asked: list[Reference], num_returns: int = 1, timeout: float | None = None
    ) -> tuple[list[Any], list[Any]]:
        ready = [one for one in asked if one.ready]
        if num_returns == len(asked) > 1 or not ready:
            assert ready or timeout is not None, "it waits for ever"
            return ready, [one for one in asked if not one.ready]
        chosen = self.random.choice(ready)
        self.waits += chosen.ticket
        if chosen.ticket and self.waits in self.deaths:
            self.kill(chosen.actor)
        return [chosen], [one for one in asked if one is not chosen]

    def get(self, asked: Reference) -> Any:
        if not asked.actor.alive:
            raise RayActorError("it died.\nmore")
        return asked.call()

    def kill(self, actor: Actor | Trainer) -> None:
        actor.alive = False


def opened(
    ray: Ray, count: int, room: int, again: bool = True, in_flight: bool = False
) -> tuple[RayEngines, list[Actor]]:
    """again: those that take the place of the first `count` start."""
    actors: list[Actor] = []

    def start(index: int) -> Actor:
        actors.append(Actor({"weight": 7}, again or len(actors) < count))
        return actors[-1]

    engines = RayEngines(ray, start, count, room, 60.0, in_flight)
    engines.open(Path("place"), {"weight": 7})
    return engines, actors


@settings(max_examples=40, deadline=None)
@given(
    tickets=st.integers(1, 12), count=st.integers(1, 4), room=st.integers(1, 6), seed=st.integers(0, 9),
    death=st.integers(1, 20),
)  # fmt: skip
def test_any_number_of_engines_in_any_order_gives_what_one_gives_once(
    tickets: int, count: int, room: int, seed: int, death: int
) -> None:
    prompts = [[100, i] for i in range(tickets)]
    each = [SamplingParams(n=3, seed=10 * i) for i in range(tickets)]
    expected = HashEngine().generate(prompts, each)
    engines, actors = opened(Ray(seed, {death}), count, room)
    found = engines.generate(prompts, each)
    assert found == expected
    assert sum(actor.sampled for actor in actors) >= tickets
    assert not Counter(engines._busy).total()


@settings(max_examples=25, deadline=None)
@given(
    tickets=st.integers(2, 9), count=st.integers(1, 3), seed=st.integers(0, 9), death=st.integers(1, 20),
    offers=st.lists(st.integers(0, 16), min_size=1, max_size=5),
)  # fmt: skip
def test_weights_in_flight_reach_all_engines_in_a_stream_that_loses_nothing_and_older_ones_are_removed(
    tickets: int, count: int, seed: int, death: int, offers: list[int]
) -> None:
    """offers: after how many traces weights come, each before the stream goes on."""
    prompts, each = [[100, i] for i in range(tickets)], [SamplingParams(n=2, seed=10 * i) for i in range(tickets)]
    engines, _ = opened(Ray(seed, {death}), count, 2, in_flight=True)
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch) / "model"
        place.mkdir()
        engines.place = place
        policy: Any = SimpleNamespace(send_weights=lambda place: place.mkdir() or {"weight": 7})
        sender = Sender(policy, engines, place, in_flight=True)
        found, last = [], 0
        stream = engines.stream(prompts, each)
        for trace in stream:
            found.append(trace)
            for _ in range(offers.count(len(found))):
                last += 1
                sender.update(last)()
        assert engines._version == (sum(0 < one <= 2 * tickets - 2 for one in offers) or None)
        if engines._offered:  # behind the last prompt: the next stream begins with them
            assert list(engines.stream([[1]], [SamplingParams(n=1)]))
        assert {engines._actors[index].version for index in engines._live} == {last or None}
        assert [path.name for path in Path(scratch).iterdir()] == [f"model-{last}" if last else "model"]
    found.sort(key=lambda trace: (trace.prompt_index, trace.sample_index))
    assert found == HashEngine().generate(prompts, each)


def test_two_engines_that_die_with_one_prompt_end_the_run_and_wrong_weights_do() -> None:
    engines, _ = opened(Ray(0, {1, 2}), 1, 4)
    with pytest.raises(UserError, match=r"2 engines died while they sampled one prompt, the last: it died$"):
        engines.generate([[1]], SamplingParams(n=2))
    engines, _ = opened(Ray(0, set()), 2, 4)
    with pytest.raises(RuntimeError, match="the weights of engine 0 are not those in training after a sync: weight"):
        engines.take(Path("place"), {"weight": 8})


def test_an_engine_that_does_not_start_again_holds_nobody_up_until_none_is_left(
    capsys: pytest.CaptureFixture[str],
) -> None:
    prompts = [[100, i] for i in range(9)]
    each = [SamplingParams(n=2, seed=10 * i) for i in range(9)]
    engines, actors = opened(Ray(0, {1}), 2, 2, again=False)
    assert engines.generate(prompts, each) == HashEngine().generate(prompts, each)
    assert len(actors) == 3
    ((waited, (index, _)),) = engines._starting.items()
    engines._starting[waited] = (index, 0.0)  # its time is over
    engines.take(Path("next"), {"weight": 7})
    said = capsys.readouterr().err
    assert f"engine {index} cannot be started again (it did not start in 60 s); the run goes on without it" in said
    assert not actors[2].alive
    assert engines.generate(prompts, each) == HashEngine().generate(prompts, each)
    actors[1 - index].alive, engines._limit_s = False, 0.0
    with pytest.raises(UserError, match=r"no engine is left, .* --resume goes on from the newest checkpoint"):
        engines.generate(prompts, each)


def test_an_engine_that_starts_while_the_run_ends_is_killed() -> None:
    engines, actors = opened(Ray(0, {1}), 1, 2)

    def start(index: int) -> Actor:
        engines.close()
        actors.append(Actor({"weight": 7}))
        return actors[-1]

    engines._start = start
    with pytest.raises(RuntimeError, match="the engines were ended"):
        engines.generate([[1]], SamplingParams(n=2))
    assert not actors[1].alive


def test_no_trace_of_a_cancelled_prompt_comes_any_more_and_its_engine_is_busy_until_it_ends() -> None:
    engines, _ = opened(Ray(0, set()), 1, 4)
    stream = engines.stream([[1], [2], [3]], [SamplingParams(n=2, seed=i) for i in range(3)])
    first = next(stream).prompt_index
    cancelled, last = {0, 1, 2} - {first}
    engines.cancel(cancelled)
    assert engines._busy[0] == 4
    assert [trace.prompt_index for trace in stream] == [first, last, last]
    while engines._asked:
        for one in engines._wait((*engines._asked,)):
            assert engines._ended(one) == []
    assert not engines._busy.total()
    stream = engines.stream([[1], [2]], SamplingParams(n=1))
    next(stream)
    engines.cancel(0)
    engines.cancel(1)
    assert not list(stream)


def test_a_trainer_that_died_is_seen_behind_the_failure_of_another() -> None:
    ray = Ray(0, set())
    trainers = [Trainer(RuntimeError("connection closed by peer")), Trainer()]
    policy = RayPolicy(ray, trainers, 60.0)
    with pytest.raises(RuntimeError, match="a trainer on the Ray cluster failed: connection closed by peer"):
        policy.publish(1)
    trainers[1].alive = False
    with pytest.raises(TrainerLostError, match=r"one of 2 trainers died \(it died\); --resume"):
        policy.publish(1)
    assert line(RayActorError()) == "RayActorError"


def test_weights_for_another_machine_are_refused_before_they_are_written(tmp_path: Path) -> None:
    trainer = TrainerActor.__new__(TrainerActor)
    trainer._policy = SimpleNamespace(world=ALONE, send_weights=lambda _: {"weight": 7})  # type: ignore[assignment]
    assert trainer.send_weights(str(tmp_path / "model")) == {"weight": 7}
    with pytest.raises(UserError, match=r"elsewhere, .* is on another machine .* set engine.weights_directory to"):
        trainer.send_weights(str(tmp_path / "elsewhere" / "model"))


def test_an_engine_that_lost_the_weights_that_it_was_given_ends_the_run(tmp_path: Path) -> None:
    class Server:
        """reads: what it says that it has after it was given weights."""

        def __init__(self) -> None:
            self.reads: dict[str, int] = {"weight": 7}
            self.has: dict[str, int] = {}

        def load_weights(self, place: Path) -> None:
            self.has = self.reads

        def received(self) -> dict[str, int]:
            return self.has

    actor, server = EngineActor(None, 0, 1), Server()  # type: ignore[arg-type]
    actor._engine = server  # type: ignore[assignment]
    assert actor._take(tmp_path) == {"weight": 7}
    assert actor._take(tmp_path) == {"weight": 7}
    server.has = {}  # started again, with the weights of its own
    with pytest.raises(UserError, match="so it has sampled with others; where it is a server, see why it was started"):
        actor._take(tmp_path)
    server.reads = {}
    actor._given = {}
    assert actor._take(tmp_path) == {}, "the sums of the files are not what it has"
