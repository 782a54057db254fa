"""What runs in an engine's actor: an engine, and the one thread that touches it.

A ticket is a prompt and how it is sampled. Those that come while others run join them in one stream of the engine,
between two of its traces. New weights wait for the end of what runs (`take`), or come in the middle of it (`renew`,
`tickets.py`). What a ticket samples is determined by its seed and the weights (and, with `renew`, by when they came),
so one that was lost with an actor may be asked of another: nothing of it had been handed out.
"""

from __future__ import annotations

import os
import queue
import threading
from asyncio import wrap_future
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from safetensors import safe_open

from h1r.config import EngineSection
from h1r.engine.protocol import Engine, SamplingParams
from h1r.engine.source import dtype_of
from h1r.errors import EngineLostError, UserError
from h1r.models import CausalLM
from h1r.models.checkpoint import stored_state
from h1r.models.checksum import checksum
from h1r.train.cached_arrays import Packed
from h1r.train.cluster.setting import Setting
from h1r.train.cluster.tickets import Ticket, Tickets
from h1r.train.fleet import open_on_files, open_start, own_servers
from h1r.train.parallel.sampling_copy import checksums
from h1r.train.parallel.world import ALONE, World
from h1r.train.start import rl_start


@dataclass(eq=False)
class _Job:
    """What the engine's thread does when nothing runs."""

    work: Callable[[], Any]
    future: Future[Any] = field(default_factory=Future)


class EngineActor:
    """The methods are coroutines of one event loop, so that any number of tickets is under way at once."""

    def __init__(self, setting: Setting, index: int, engines: int) -> None:
        self._setting, self._own = setting, World(data_rank=index, data_degree=engines)
        self._inbox: queue.SimpleQueue[Ticket | _Job | None] = queue.SimpleQueue()
        """None: there is something in `_renewals`."""
        self._jobs: list[_Job] = []
        self._renewals: deque[_Job] = deque()
        self._version: int | None = None
        """Of the weights, where traces are to say it."""
        self._tokenizer: Any = None
        self._given: dict[str, int] = {}
        """What the engine said when it had taken weights, of one that says it."""
        self._resources = ExitStack()
        threading.Thread(target=self._main, name="h1r-engine", daemon=True).start()

    async def open(self, place: str, version: int | None = None) -> dict[str, int]:
        """Opens the engine on the checkpoint in `place`; the checksums of what it has. version: as in `renew`."""
        return await self._do(partial(self._open_at, Path(place), version))

    async def take(self, place: str) -> dict[str, int]:
        """Takes the weights of the checkpoint in `place`; the checksums of what it has then."""
        return await self._do(partial(self._take, Path(place)))

    async def renew(self, place: str, version: int) -> dict[str, int]:
        """As `take`, but in the middle of what runs, which goes on with these weights. Traces then say which version
        each of their tokens is from (`Trace.versions`)."""
        job = _Job(partial(self._take_version, Path(place), version))
        self._renewals.append(job)
        self._inbox.put(None)
        return await wrap_future(job.future)

    async def sample(self, prompt: np.ndarray, params: SamplingParams) -> Packed:
        """The `params.n` traces of a prompt [tokens], in order, without what RL does not read."""
        ticket = Ticket(prompt.tolist(), params)
        self._inbox.put(ticket)
        return await wrap_future(ticket.future)

    async def _do(self, work: Callable[[], Any]) -> Any:
        job = _Job(work)
        self._inbox.put(job)
        return await wrap_future(job.future)

    def _main(self) -> None:
        while True:
            found = self._jobs.pop(0) if self._jobs else self._inbox.get()
            if isinstance(found, Ticket):
                self._sample(found)
            elif found is not None:
                _run(found)
            self._renew()

    def _renew(self) -> None:
        while self._renewals:
            _run(self._renewals.popleft())

    def _sample(self, first: Ticket) -> None:
        """A stream of tickets that takes in others, and new weights, while it runs."""
        tickets = Tickets(self._engine, self._tokenizer, self._version, lambda: bool(self._renewals))
        try:
            tickets.add(first)
            self._drain(tickets)
            while tickets.wait:
                for _ in tickets.run():
                    if not self._jobs and not self._renewals:
                        self._drain(tickets)
                self._renew()
                tickets.go_on(self._version)
                self._drain(tickets)
        except EngineLostError:
            _die()
        except BaseException as error:
            tickets.fail(error)

    def _drain(self, tickets: Tickets) -> None:
        """What has come, up to new weights: later tickets are for these."""
        while not self._jobs:
            try:
                found = self._inbox.get_nowait()
            except queue.Empty:
                return
            if isinstance(found, Ticket):
                tickets.add(found)
            elif found is not None:
                self._jobs.append(found)

    def _open_at(self, place: Path, version: int | None) -> dict[str, int]:
        found = self._open(place)
        self._version = version
        return found

    def _open(self, place: Path) -> dict[str, int]:
        recipe, run = self._setting.enter()
        section = own_servers(recipe.engine, self._own)
        _refuse_other_type(section, place)
        self._tokenizer = rl_start(recipe, run)[1]
        opened = open_on_files(recipe, section, self._tokenizer, place)
        self._engine = self._resources.enter_context(opened)
        # A server that found these weights its own says nothing of them: it reads them once more.
        if (given := section.kind == "server") and not _received(self._engine):
            self._engine.load_weights(place)
        return self._have(place, given)

    def _take(self, place: Path) -> dict[str, int]:
        if self._given and _received(self._engine) != self._given:
            raise UserError(
                "an engine no longer has the weights that it was given, so it has sampled with others; where it is a "
                "server, see why it was started again. --resume goes on from the newest checkpoint"
            )
        self._engine.load_weights(place)
        return self._have(place, given=True)

    def _take_version(self, place: Path, version: int) -> dict[str, int]:
        found = self._take(place)
        self._version = version
        return found

    def _have(self, place: Path, given: bool) -> dict[str, int]:
        sums = _sums(self._engine, place, given)
        self._given = sums if given and hasattr(self._engine, "received") else {}
        return sums


class StartEngineActor(EngineActor):
    """One on what RL starts from, for the selection of its problems."""

    def _open(self, place: Path) -> dict[str, int]:
        recipe, run = self._setting.enter()
        self._engine = self._resources.enter_context(open_start(recipe, *rl_start(recipe, run)))
        return {}


def _run(job: _Job) -> None:
    try:
        job.future.set_result(job.work())
    except EngineLostError:
        _die()
    except BaseException as error:
        job.future.set_exception(error)


def _die() -> NoReturn:
    """An actor without its engine: another takes its place, as where the actor itself dies."""
    os._exit(1)


def _refuse_other_type(section: EngineSection, place: Path) -> None:
    if section.kind != "native" or section.dtype == "auto" or not (place / "config.json").exists():
        return
    if (trained := dtype_of(place)) != getattr(torch, section.dtype):
        raise UserError(
            f"engine.dtype = {section.dtype} is not what the trainer computes in "
            f"({str(trained).removeprefix('torch.')}); set rl.compute_dtype to the same, or leave engine.dtype out"
        )


def _received(engine: Engine) -> dict[str, int] | None:
    """What the engine says that it took; None of one that says nothing."""
    received: Callable[[], dict[str, int]] | None = getattr(engine, "received", None)
    return None if received is None else received()


def _sums(engine: Engine, place: Path, given: bool) -> dict[str, int]:
    """The checksum of each tensor that an engine has: as its model has it, or as its workers have read it, or, of an
    engine that says neither, as it lies in the files. given: it was given them while it ran, so that one which can say
    what it took has to."""
    model = getattr(engine, "model", None)
    if isinstance(model, CausalLM):
        return checksums(stored_state(model), ALONE)
    found = _received(engine)
    if found or (given and found is not None):
        return found
    sums: dict[str, int] = {}
    for file in sorted(place.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            sums |= {name: checksum(tensors.get_tensor(name)) for name in tensors.keys()}  # noqa: SIM118
    return sums
