"""The two halves of RL as actors of a Ray cluster, and the handles that its loop drives them by.

    h1r rl: the loop (`rl.py`), prompts, verifying        one process without a model
      RayPolicy   step, save, send weights  ->  `trainers` x TrainerActor, a `World` under torch.distributed
      RayEngines  tickets                   ->  `engines`  x EngineActor, native, vLLM or a server's client

Weights travel as a checkpoint in `engine.weights_directory`, which one trainer writes and all engines read; then the
checksum of every tensor that an engine has is held against that of the policy's.
"""

from __future__ import annotations

import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from h1r.common.prose import counted
from h1r.config import Recipe
from h1r.errors import UserError
from h1r.run.directory import Run
from h1r.train.cluster.engine_actor import EngineActor, StartEngineActor
from h1r.train.cluster.engines import RayEngines
from h1r.train.cluster.replies import TrainerLostError, answers, first_answers, first_dead, line
from h1r.train.cluster.setting import Setting
from h1r.train.cluster.trainer_actor import TrainerActor
from h1r.train.fleet import Fleet, Take, nothing, weights_place
from h1r.train.policy import Policy
from h1r.train.rollouts import Group, pack_groups
from h1r.verify.workers.ray_cluster import RayCluster

_ASKED_S = 10.0
"""So long trainers are waited for that are asked whether they live: those that do answer when their step has failed."""


@contextmanager
def open_cluster(recipe: Recipe) -> Iterator[RayCluster]:
    """The Ray cluster of `[cluster]`, until the end of the `with` block. `UserError` where Ray is not installed, where
    the cluster cannot be joined, and for numbers of trainers that do not fit."""
    section, context, data = recipe.cluster, recipe.parallel.context, recipe.parallel.data
    if section.trainers % context or data not in (-1, section.trainers // context):
        raise UserError(
            f"cluster.trainers = {section.trainers} is not parallel.context = {context} times parallel.data = {data}; "
            "make it a multiple of parallel.context, and leave parallel.data out"
        )
    # A cluster of this machine has a place for each actor, whatever the machine has processors.
    verifying = 2 * recipe.verify.workers if recipe.verify.backend == "ray" else 0
    places = max(os.cpu_count() or 1, section.trainers + section.engines + verifying)
    try:
        cluster = RayCluster(section.address, num_cpus=places)
    except ImportError:
        raise UserError(
            'Ray is not installed; `pip install "open-h1r[ray]"`, or leave cluster.backend out, which trains on the '
            "processes of torchrun"
        ) from None
    try:
        yield cluster
    finally:
        cluster.leave()


@contextmanager
def open_handles(cluster: RayCluster, recipe: Recipe, run: Run) -> Iterator[tuple[RayPolicy, Fleet]]:
    """Trainers and engines of the recipe, until the end of the `with` block. Raises as `rl_policy` and `open_engine`
    do, and `UserError` where actors do not start in `cluster.start_limit_s`."""
    section = recipe.cluster
    with weights_place(recipe.engine) as place, _actors(cluster, recipe, run) as start, ExitStack() as stack:
        trainers = [start(TrainerActor, section.trainer_gpus) for _ in range(section.trainers)]
        policy = RayPolicy(cluster.ray, trainers, section.start_limit_s)
        sums = policy.send_weights(place)
        engines = _engines(cluster, recipe, partial(start, EngineActor))
        stack.callback(engines.close)
        engines.open(place, sums)
        sender = Sender(policy, engines, place, recipe.rl.in_flight)
        yield policy, Fleet(engines, sender.update, apart=True)


@contextmanager
def open_engines(cluster: RayCluster, recipe: Recipe, run: Run) -> Iterator[RayEngines]:
    """The engines of the recipe on what RL starts from, until the end of the `with` block. Raises as `open_engine`
    does, and `UserError` where actors do not start in `cluster.start_limit_s`."""
    with _actors(cluster, recipe, run) as start, ExitStack() as stack:
        engines = _engines(cluster, recipe, partial(start, StartEngineActor))
        stack.callback(engines.close)
        engines.open(run.path, {})  # what they have to open the recipe says
        yield engines


@contextmanager
def _actors(cluster: RayCluster, recipe: Recipe, run: Run) -> Iterator[Callable[..., Any]]:
    """What starts an actor of a kind with so many cards (None: one, where the cluster has any) and further arguments;
    all of them are killed at the end of the `with` block."""
    ray, setting = cluster.ray, Setting.of(recipe, run)
    card = 1.0 if ray.cluster_resources().get("GPU") else 0.0
    started: list[Any] = []

    def start(kind: type, cards: float | None, *arguments: Any) -> Any:
        made = ray.remote(num_cpus=1, num_gpus=card if cards is None else cards)(kind)
        started.append(made.remote(setting, *arguments))
        return started[-1]

    try:
        yield start
    finally:
        for actor in started:
            ray.kill(actor)


def _engines(cluster: RayCluster, recipe: Recipe, start: Callable[..., Any]) -> RayEngines:
    section = recipe.cluster
    cards = 0.0 if recipe.engine.kind == "server" else section.engine_gpus
    return RayEngines(
        cluster.ray,
        lambda index: start(cards, index, section.engines),
        section.engines,
        recipe.engine.max_sequences,
        section.start_limit_s,
        recipe.rl.in_flight,
    )


class Sender:
    """Weights on their way, in a directory for each time that they were sent: engines may still sample with one when
    trainers write the next. place: that of the first. in_flight: engines take them as soon as they are there."""

    def __init__(self, policy: RayPolicy, engines: RayEngines, place: Path, in_flight: bool = False) -> None:
        self._policy, self._engines, self._place, self._in_flight = policy, engines, place, in_flight
        self._sent = 0
        self._there: deque[Path] = deque([place])
        """Those that were not removed, in order."""

    def update(self, step: int) -> Take:
        """See `Fleet.update`."""
        self._sent += 1
        place = self._place.with_name(f"{self._place.name}-{self._sent}")
        sums = self._policy.send_weights(place)
        self._there.append(place)
        if not self._in_flight:
            return partial(self._take, place, sums)
        self._engines.offer(partial(self._take, place, sums, step))
        return nothing

    def _take(self, place: Path, sums: Mapping[str, int], version: int | None = None) -> None:
        self._engines.take(place, sums, version)
        while self._there[0] != place:  # those before, and offers that a later one has overtaken
            shutil.rmtree(self._there.popleft(), ignore_errors=True)


class RayPolicy(Policy):
    """A policy whose ranks are `trainers`. limit_s: seconds that they have to start."""

    def __init__(self, ray: Any, trainers: Sequence[Any], limit_s: float) -> None:
        self._ray, self._trainers = ray, trainers
        (host, *_) = first_answers(ray, [trainer.host.remote() for trainer in trainers], limit_s, "trainer")
        (port,) = self._answers([trainers[0].store.remote(host, len(trainers))])
        joined = [trainer.join.remote(host, port, rank, len(trainers)) for rank, trainer in enumerate(trainers)]
        self.positions, self.eos_token_ids = self._answers(joined)[0]

    def restore(self, step: int) -> dict[str, Any]:
        """See `Policy.restore`."""
        state: dict[str, Any] = self._call("restore", step)
        return state

    def step(self, groups: Sequence[Group], step: int) -> dict[str, float]:
        """See `Policy.step`. The groups lie in the cluster's store once, and ranks of a machine share them."""
        found: dict[str, float] = self._on_all("step", self._ray.put(pack_groups(groups)), step)
        return found

    def count_idle(self, why: str | None) -> None:
        """See `Policy.count_idle`."""
        self._call("count_idle", why)

    def save(self, step: int, state: dict[str, Any], arrays: Mapping[str, np.ndarray], last: bool) -> int:
        """See `Policy.save`."""
        whole: int = self._call("save", step, state, dict(arrays), last)
        return whole

    def publish(self, steps: int) -> None:
        """See `Policy.publish`."""
        self._call("publish", steps)

    def send_weights(self, place: Path) -> dict[str, int]:
        """See `LocalPolicy.send_weights`."""
        found: dict[str, int] = self._on_all("send_weights", str(place))
        return found

    def _call(self, method: str, *arguments: Any) -> Any:
        return self._on_all("call", method, *arguments)

    def _on_all(self, method: str, *arguments: Any) -> Any:
        """What the main rank says."""
        return self._answers([getattr(trainer, method).remote(*arguments) for trainer in self._trainers])[0]

    def _answers(self, asked: Sequence[Any]) -> list[Any]:
        try:
            return answers(self._ray, asked, "trainer")
        except self._ray.exceptions.RayActorError as error:
            raise self._lost(error) from error
        except (UserError, RuntimeError) as error:
            # Where one dies, the exchanges of the others fail, and they may say so first.
            dead = first_dead(self._ray, [trainer.host.remote() for trainer in self._trainers], _ASKED_S)
            if dead is None:
                raise
            raise self._lost(dead) from error

    def _lost(self, error: Exception) -> TrainerLostError:
        return TrainerLostError(f"one of {counted(len(self._trainers), 'trainer')} died ({line(error)})")
