"""Tickets over engines that answer in any order and die: with a stand-in for Ray."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_rollouts import HashEngine

from h1r.engine.protocol import SamplingParams
from h1r.errors import UserError
from h1r.train.cached_arrays import packed
from h1r.train.cluster.engines import RayEngines


class RayActorError(Exception):
    pass


class ObjectLostError(Exception):
    pass


class RayTaskError(Exception):
    pass


class Method:
    def __init__(self, call: Any) -> None:
        self.remote = call


class Actor:
    """Answers when it is asked what came of a call, unless it died meanwhile."""

    def __init__(self, sums: dict[str, int]) -> None:
        self.alive, self.sampled = True, 0
        self.sample = Method(lambda prompt, params: Reference(self, lambda: self._sample(prompt, params), True))
        self.open = self.take = Method(lambda place: Reference(self, lambda: sums))

    def _sample(self, prompt: np.ndarray, params: SamplingParams) -> Any:
        self.sampled += 1
        return packed(HashEngine().generate([prompt.tolist()], [params]))


class Reference:
    def __init__(self, actor: Actor, call: Any, ticket: bool = False) -> None:
        self.actor, self.call, self.ticket = actor, call, ticket


class Ray:
    """deaths: the numbers of the waits for tickets at which an actor dies."""

    exceptions = type("exceptions", (), {one.__name__: one for one in (RayActorError, ObjectLostError, RayTaskError)})

    def __init__(self, seed: int, deaths: set[int]) -> None:
        self.random, self.deaths, self.waits = random.Random(seed), deaths, 0

    def wait(self, asked: list[Reference], num_returns: int = 1, timeout: float = 0) -> tuple[list[Any], list[Any]]:
        if num_returns == len(asked) > 1 or timeout:
            return asked, []
        chosen = self.random.choice(asked)
        self.waits += chosen.ticket
        if chosen.ticket and self.waits in self.deaths:
            self.kill(chosen.actor)
        return [chosen], [one for one in asked if one is not chosen]

    def get(self, asked: Reference) -> Any:
        if not asked.actor.alive:
            raise RayActorError("it died.\nmore")
        return asked.call()

    def kill(self, actor: Actor) -> None:
        actor.alive = False


def opened(ray: Ray, count: int, room: int) -> tuple[RayEngines, list[Actor]]:
    actors: list[Actor] = []

    def start(index: int) -> Actor:
        actors.append(Actor({"weight": 7}))
        return actors[-1]

    engines = RayEngines(ray, start, count, room, 60.0)
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


def test_two_engines_that_die_with_one_prompt_end_the_run_and_wrong_weights_do() -> None:
    engines, _ = opened(Ray(0, {1, 2}), 1, 4)
    with pytest.raises(UserError, match=r"2 engines died while they sampled one prompt, the last: it died$"):
        engines.generate([[1]], SamplingParams(n=2))
    engines, _ = opened(Ray(0, set()), 2, 4)
    with pytest.raises(RuntimeError, match="the weights of engine 0 are not those in training after a sync: weight"):
        engines.take(Path("place"), {"weight": 8})
