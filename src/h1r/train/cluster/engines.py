"""Several engines of a cluster as one: the tickets of a stream go to the engine with the least to do.

A ticket's seed and the weights determine its tokens, so it does not matter who samples it, nor how often: the tickets
of an engine that died are sampled once more, by the others and, as soon as it has started, by the engine that takes its
place. With weights in flight they get other tokens then; nobody has seen those that were lost.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from h1r.common.progress import note
from h1r.engine.protocol import Prompt, Running, SamplingParams
from h1r.engine.requests import one_per_prompt
from h1r.errors import UserError
from h1r.records import Trace
from h1r.train.cached_arrays import unpacked
from h1r.train.cluster.replies import answer, first_answers, line

POLL_S = 0.05
"""How soon weights in flight are looked for. Our choice."""
MAX_DEATHS = 2
"""So many engines may die with one ticket before the run ends: it may be what kills them."""


@dataclass(eq=False)
class _Ticket:
    number: int
    prompt: Prompt
    params: SamplingParams
    deaths: int = 0
    cancelled: bool = False


class RayEngines:
    """The engine protocol over actors (`EngineActor`), for one stream at a time.

    start: makes the actor of a number below `count`. max_sequences: traces that one decodes together. limit_s: seconds
    that an engine has to start. in_flight: weights that come while a stream runs (`offer`) are taken in the middle of
    it.
    """

    def __init__(
        self,
        ray: Any,
        start: Callable[[int], Any],
        count: int,
        max_sequences: int,
        limit_s: float,
        in_flight: bool = False,
    ) -> None:
        self._ray, self._start, self._limit_s = ray, start, limit_s
        self._room = 2 * max_sequences
        self._actors = [start(index) for index in range(count)]
        self._live = set(range(count))
        """Those that take tickets."""
        self._starting: dict[Any, tuple[int, float]] = {}
        """Reference of a reply -> which of them takes the place of one that died, and until when it may start."""
        self._waiting: deque[_Ticket] = deque()
        self._asked: dict[Any, tuple[int, _Ticket]] = {}
        """Reference of a reply -> whose it is to be, and to what."""
        self._busy: Counter[int] = Counter()
        self._count = 0
        self._closed = False
        self._in_flight = in_flight
        self._version: int | None = None
        self._offered: deque[Callable[[], None]] = deque(maxlen=1)
        self._look: Callable[[], None] | None = None
        self.place = Path()
        """The checkpoint whose weights they have."""

    def open(self, place: Path, sums: Mapping[str, int]) -> None:
        """Opens all of them on the checkpoint in `place`, whose tensors have these checksums. Raises `UserError` as
        `open_engine` does."""
        self.place, self._sums = place, sums
        asked = [actor.open.remote(str(place)) for actor in self._actors]
        for index, found in enumerate(first_answers(self._ray, asked, self._limit_s, "engine")):
            self._check(index, found)

    def take(self, place: Path, sums: Mapping[str, int], version: int | None = None) -> None:
        """Has all of them take the weights in `place`, when those that start are there: they read the weights before.
        version: they take them in the middle of what runs, and say of each token which it is from. Raises
        `RuntimeError` where one then has others."""
        if version is None:
            self._asked.clear()  # cancelled
        while self._starting:
            for one in self._wait(self._starting):
                self._started(one)
        self.place, self._sums, self._version = place, sums, version
        asked = {
            index: actor.take.remote(str(place)) if version is None else actor.renew.remote(str(place), version)
            for index, actor in enumerate(self._actors)
            if index in self._live
        }
        for index, one in asked.items():
            try:
                found = answer(self._ray, one, "engine")
            except self._lost as error:
                self._redo(index, error)
            else:
                self._check(index, found)

    def offer(self, take: Callable[[], None]) -> None:
        """From any thread: weights that `take` has the engines take, before the next prompt is handed out, or within
        `POLL_S` seconds where all are. Of several offers the last one is taken."""
        self._offered.append(take)

    def generate(self, prompts: Sequence[Prompt], params: SamplingParams | Sequence[SamplingParams]) -> list[Trace]:
        """See `Engine.generate`."""
        return sorted(self.stream(prompts, params), key=lambda trace: (trace.prompt_index, trace.sample_index))

    def stream(self, prompts: Sequence[Prompt], params: SamplingParams | Sequence[SamplingParams]) -> Iterator[Trace]:
        """See `Engine.stream`; the traces of a prompt come together, without `logprobs` and `confidences`. `UserError`
        where `MAX_DEATHS` engines died with one ticket, and where none is left."""
        self._waiting.clear()
        self._asked.clear()
        self._busy.clear()
        self._count = 0
        for prompt, one in zip(prompts, one_per_prompt(prompts, params), strict=True):
            self.add(prompt, one)
        while self._waiting or any(not ticket.cancelled for _, ticket in self._asked.values()):
            if self._offered:
                self._offered.pop()()
            self._hand_out()
            for one in self._wait((*self._asked, *self._starting)):
                if one in self._starting:
                    self._started(one)
                else:
                    yield from self._ended(one)
            if self._look is not None:
                self._look()

    def add(self, prompt: Prompt, params: SamplingParams) -> int:
        """See `Engine.add`."""
        number, self._count = self._count, self._count + 1
        self._waiting.append(_Ticket(number, prompt, params))
        return number

    def cancel(self, prompt_index: int) -> list[Trace]:
        """Of `Engine.cancel` what RL needs: that no trace of the prompt comes any more. What runs goes on unseen."""
        self._waiting = deque(ticket for ticket in self._waiting if ticket.number != prompt_index)
        for _, ticket in self._asked.values():
            ticket.cancelled |= ticket.number == prompt_index
        return []

    def watch(self, look: Callable[[], None] | None) -> None:
        """`look` is called whenever a prompt has ended."""
        self._look = look

    def progress(self) -> list[Running]:
        """Nothing: what runs is not known here."""
        return []

    def load_weights(self, weights: Mapping[str, Tensor] | str | Path) -> None:
        """Raises `UserError`: they come from the trainers (`take`)."""
        raise UserError("engines on a cluster take the weights of its trainers")

    @property
    def _lost(self) -> tuple[type[Exception], ...]:
        errors = self._ray.exceptions
        return (errors.RayActorError, errors.ObjectLostError)

    def _hand_out(self) -> None:
        """Every engine gets as much as keeps it busy, and the rest waits for whoever is free first."""
        while self._waiting and self._live:
            index = min(self._live, key=lambda one: (self._busy[one], one))
            if self._busy[index] >= self._room:
                return
            ticket = self._waiting.popleft()
            self._busy[index] += ticket.params.n
            prompt = np.array(ticket.prompt, np.int32)
            self._asked[self._actors[index].sample.remote(prompt, ticket.params)] = (index, ticket)

    def _ended(self, one: Any) -> list[Trace]:
        if one not in self._asked:  # lost with its engine
            return []
        index, ticket = self._asked[one]
        try:
            traces = unpacked(answer(self._ray, one, "engine"))
        except self._lost as error:
            self._redo(index, error)
            return []
        del self._asked[one]
        self._busy[index] -= ticket.params.n
        for trace in traces:
            trace.prompt_index = ticket.number
        return [] if ticket.cancelled else traces

    def _wait(self, asked: Iterable[Any]) -> list[Any]:
        """What has come of what was asked, of tickets and of those that start; nothing where one has been given up
        meanwhile, or weights may have come."""
        ends = min((until for _, until in self._starting.values()), default=None)
        left = None if ends is None else max(0.0, ends - time.monotonic())
        if self._in_flight:
            left = POLL_S if left is None else min(left, POLL_S)
        ended: list[Any] = self._ray.wait([*asked], timeout=left)[0]
        if not ended:
            for one in [one for one, (_, until) in self._starting.items() if until <= time.monotonic()]:
                self._give_up(self._starting.pop(one)[0], f"it did not start in {self._limit_s:g} s")
        return ended

    def _redo(self, index: int, why: Exception) -> None:
        """Puts another engine in the place of one that died, and its tickets first in the queue."""
        lost = [one for one, (whose, _) in self._asked.items() if whose == index]
        again = [ticket for ticket in (self._asked.pop(one)[1] for one in lost) if not ticket.cancelled]
        for ticket in again:
            ticket.deaths += 1
            if ticket.deaths >= MAX_DEATHS:
                raise UserError(f"{MAX_DEATHS} engines died while they sampled one prompt, the last: {line(why)}")
        self._waiting.extendleft(reversed(again))
        self._busy[index] = 0
        self._replace(index, why)

    def close(self) -> None:
        """No actor is started any more: those that die now are meant to."""
        self._closed = True

    def _replace(self, index: int, why: Exception) -> None:
        if self._closed:
            raise RuntimeError("the engines were ended") from why
        note(f"engine {index} died ({line(why)}); another takes its place")
        self._live.discard(index)
        self._ray.kill(self._actors[index])
        self._actors[index] = self._start(index)
        if self._closed:  # meanwhile: perhaps nobody else knows of this one any more
            self._ray.kill(self._actors[index])
            raise RuntimeError("the engines were ended") from why
        self._starting[self._actors[index].open.remote(str(self.place), self._version)] = (
            index,
            time.monotonic() + self._limit_s,
        )

    def _started(self, one: Any) -> None:
        index, _ = self._starting.pop(one)
        failures: tuple[type[Exception], ...] = (UserError, RuntimeError, *self._lost)
        try:
            found = answer(self._ray, one, "engine")
        except failures as error:
            self._give_up(index, line(error))
        else:
            self._check(index, found)
            self._live.add(index)

    def _give_up(self, index: int, why: str) -> None:
        if self._closed:
            raise RuntimeError("the engines were ended")
        self._ray.kill(self._actors[index])
        if not self._live and not self._starting:
            raise UserError(
                f"no engine is left, and engine {index} cannot be started again ({why}); look whether the cluster has "
                "room for it, and --resume goes on from the newest checkpoint"
            )
        note(f"engine {index} cannot be started again ({why}); the run goes on without it")

    def _check(self, index: int, found: Mapping[str, int]) -> None:
        if differing := sorted(name for name, value in self._sums.items() if found.get(name) != value):
            raise RuntimeError(
                f"the weights of engine {index} are not those in training after a sync: {differing[0]} "
                f"({len(differing)} in all)"
            )
