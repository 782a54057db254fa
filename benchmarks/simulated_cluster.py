"""A cluster of engines on a simulated clock, for `rl_at_scale.py`: what `RayEngines` asks of Ray, answered by cards
that decode in the time that was published, rollouts of lengths that are drawn, and a clock with two tracks."""

from __future__ import annotations

import heapq
import itertools
import math
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np

from h1r.config import RLSection
from h1r.engine.protocol import SamplingParams
from h1r.records import Problem, Trace, Verdict
from h1r.train.cached_arrays import packed

UNIT = 256
"""Tokens of a rollout that one stands for."""
MEAN_TOKENS = 20_000
"""Of a rollout in RL, where its length settles (arXiv 2601.02346, section 3)."""
DEVIATION = 0.6
"""Of the logarithm of a length. Our choice: 4 % of rollouts are then cut at the paper's 49,152 tokens."""
BETWEEN_PROBLEMS = 0.5
"""Share of the variance of that logarithm. Our choice."""
DECODING = ((16, 16 / 1520), (32, 32 / 1393.5))
"""Sequences on a card, and seconds of a step of decoding: 64 and 128 sequences on 4 H100, the published tokens a second
and card of Falcon-H1R-7B. With 2 a step takes as long as with 16 (192 tokens a second): fewer are no faster."""


@dataclass(frozen=True)
class Costs:
    """Seconds of what is not decoding. Ours, all but `update`."""

    update: float
    """Of a step at full length (`plan`)."""
    terms: tuple[float, float]
    """a and b of the operations of n tokens, a n + b n^2."""
    full: float
    """Operations of a step at full length, in these terms."""
    weights: float
    """Bytes."""
    prefill: float
    """Seconds a token on a card, computed at the share of its peak that the plan takes."""
    nodes: int = 1
    """Of engines."""
    write: float = 5e9
    """Bytes a second in which a trainer writes weights."""
    read: float = 100e9
    """Bytes a second in which all nodes together read them, each once for its 8 engines."""
    verdicts: float = 1000.0
    """A second. A core was measured at 6,000 of short answers with format checks."""


class Clock:
    """Seconds on the track that computes now; in the place of the module `time` in the loop."""

    def __init__(self) -> None:
        self._tracks, self._at = {"loop": 0.0, "rollouts": 0.0}, "loop"

    def monotonic(self) -> float:
        return self._tracks[self._at]

    def until(self, moment: float) -> None:
        self._tracks[self._at] = max(self._tracks[self._at], moment)

    def wait(self, seconds: float) -> None:
        self._tracks[self._at] += seconds

    @contextmanager
    def rollouts(self) -> Iterator[None]:
        """The other track, from now on or from when it is free."""
        before, now = self._at, self.monotonic()
        self._at = "rollouts"
        self.until(now)
        yield
        self._at = before


class Later(Future[Any]):
    """What is there at a moment of the clock."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock, self.moment = clock, 0.0

    def result(self, timeout: float | None = None) -> Any:
        self._clock.until(self.moment)
        return super().result(timeout)


class Track:
    """In the place of `DaemonThreads`: what was submitted runs on the rollouts' track."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def submit(self, function: Callable[[], Any]) -> Later:
        later = Later(self._clock)
        with self._clock.rollouts():
            later.set_result(function())
            later.moment = self._clock.monotonic()
        return later

    def close(self) -> None: ...


@dataclass
class Batch:
    """Seconds of one batch of groups on the rollouts' track, and what was sampled in them."""

    seconds: Counter[str] = field(default_factory=Counter)
    rounds: int = 0
    busy: float = 0.0
    """Seconds in which engines decoded, summed over them."""
    tickets: int = 0


@dataclass(eq=False)
class Reference:
    """Of a reply: from `moment` on there is `value`."""

    moment: float = math.inf
    value: Any = None


class Engine:
    """One card that decodes: all sequences that run get their tokens at the same speed, which depends on how many they
    are."""

    def __init__(self, ray: Ray) -> None:
        self._ray = ray
        self.open = self.take = SimpleNamespace(remote=self._read)
        self.sample = SimpleNamespace(remote=self._sample)
        self._running: list[tuple[float, int, _Request]] = []
        self._waiting: deque[tuple[int, _Request]] = deque()
        self._moment = self._done = 0.0
        self.version = 0

    def _read(self, place: str) -> Reference:
        return Reference(self._ray.clock.monotonic() + self._ray.read_seconds, {})

    def _sample(self, prompt: np.ndarray, params: SamplingParams) -> Reference:
        traces = self._ray.rollouts(prompt, params)
        asked = _Request(Reference(), traces, len(traces))
        self._go_on(self._ray.clock.monotonic())
        self._moment += len(prompt) * UNIT * self._ray.costs.prefill
        self._waiting.extend((len(trace.token_ids), asked) for trace in traces)
        self._next()
        return asked.reference

    def end(self) -> None:
        """Of the sequence that ends first."""
        self._go_on(self._ends())
        _, _, asked = heapq.heappop(self._running)
        self._ray.ended(self._moment)
        asked.left -= 1
        if not asked.left:
            asked.reference.value, asked.reference.moment = packed(asked.traces), self._moment
            self._ray.ready.append(asked.reference)
        self._next()

    def _next(self) -> None:
        while self._waiting and len(self._running) < self._ray.together:
            tokens, asked = self._waiting.popleft()
            heapq.heappush(self._running, (self._done + tokens, next(self._ray.numbers), asked))
        self.version += 1
        if self._running:
            self._ray.expect(self._ends(), self, self.version)

    def _ends(self) -> float:
        return self._moment + (self._running[0][0] - self._done) * self._step()

    def _go_on(self, moment: float) -> None:
        if moment > self._moment:
            if self._running:
                self._done += (moment - self._moment) / self._step()
                self._ray.batch.busy += moment - self._moment
            self._moment = moment

    def _step(self) -> float:
        return UNIT * step_seconds(len(self._running))


@dataclass(eq=False)
class _Request:
    reference: Reference
    traces: list[Trace]
    left: int


class Ray:
    """What `RayEngines` knows of Ray, and what its engines sample."""

    exceptions = type("exceptions", (), {name: type(name, (Exception,), {}) for name in (
        "RayActorError", "ObjectLostError", "RayTaskError")})  # fmt: skip

    def __init__(self, clock: Clock, costs: Costs, together: int, section: RLSection) -> None:
        self.clock, self.costs, self.together, self._section = clock, costs, together, section
        self.read_seconds = costs.nodes * costs.weights / costs.read
        self.numbers = itertools.count()
        self.ready: deque[Reference] = deque()
        self.batch = Batch()
        self._events: list[tuple[float, int, Engine, int]] = []
        self._began: float | None = None
        self._ends: list[float] = []
        self._mean = mean_of_logarithm(MEAN_TOKENS, section.max_tokens * UNIT)

    def rollouts(self, prompt: np.ndarray, params: SamplingParams) -> list[Trace]:
        """Those of a prompt, or what one goes on with. Their first token says how long they will be and whether they
        are right, so that one which goes on knows."""
        self.batch.tickets += 1
        self._began = self.clock.monotonic() if self._began is None else self._began
        if len(prompt):
            kinds, before = [int(prompt[0])], len(prompt)
        else:
            kinds, before = self._drawn(params), 0
        return [self._trace(number, kind, before, params) for number, kind in enumerate(kinds)]

    def ended(self, moment: float) -> None:
        self._ends.append(moment)

    def verify(self, problems: Sequence[Problem], texts: Sequence[str]) -> list[Verdict]:
        """The end of a round, whose time is told apart here."""
        now = self.clock.monotonic()
        if self._began is not None:
            mean = sum(self._ends) / len(self._ends)
            self.batch.seconds["rollout"] += mean - self._began
            self.batch.seconds["longest"] += now - mean
            self.batch.rounds += 1
        self._began, self._ends = None, []
        self._spend("verify", len(texts) / self.costs.verdicts)
        return [Verdict(float(text.startswith("right")), {"correct": float(text.startswith("right")), "format": 1.0})
                for text in texts]  # fmt: skip

    def expect(self, moment: float, engine: Engine, version: int) -> None:
        heapq.heappush(self._events, (moment, next(self.numbers), engine, version))

    def wait(
        self, asked: Sequence[Reference], num_returns: int = 1, timeout: float | None = None
    ) -> tuple[list[Reference], list[Reference]]:
        if num_returns == len(asked) > 1:
            self.clock.until(max(one.moment for one in asked))
            return list(asked), []
        if asked[0].moment < math.inf and asked[0] not in self.ready:  # weights, which are read at once
            self.clock.until(asked[0].moment)
            return [asked[0]], [*asked[1:]]
        while not self.ready:
            _, _, engine, version = heapq.heappop(self._events)
            if version == engine.version:
                engine.end()
        self.clock.until(self.ready[0].moment)
        return [self.ready.popleft()], []

    def get(self, one: Reference) -> Any:
        self.clock.until(one.moment)
        return one.value

    def _spend(self, part: str, seconds: float) -> None:
        self.clock.wait(seconds)
        self.batch.seconds[part] += seconds

    def _drawn(self, params: SamplingParams) -> list[int]:
        draw = np.random.default_rng(params.seed)
        problem, own = draw.standard_normal(), draw.standard_normal(params.n)
        spread = math.sqrt(BETWEEN_PROBLEMS) * problem + math.sqrt(1 - BETWEEN_PROBLEMS) * own
        tokens = np.exp(self._mean + DEVIATION * spread)
        harder = 0.5 * math.erfc(-problem / math.sqrt(2))
        right = draw.random(params.n) < math.sin(math.pi / 2 * (1 - harder)) ** 2
        lengths = np.minimum(np.ceil(tokens / UNIT), self._section.max_tokens).astype(int)
        right &= lengths < self._section.max_tokens
        return [int(2 * length + one) for length, one in zip(lengths, right, strict=True)]

    def _trace(self, number: int, kind: int, before: int, params: SamplingParams) -> Trace:
        left, right = kind // 2 - before, kind % 2
        count = min(left, params.max_tokens)
        whole = count == left and kind // 2 < self._section.max_tokens
        text = ("right" if right else "wrong") if before == 0 else ""
        ids, reason = [kind] * count, "stop" if whole else "length"
        return Trace(0, number, ids, text, [], [-0.5] * count, [], reason, params.seed + number)  # type: ignore[arg-type]


def step_seconds(sequences: int) -> float:
    """Of a step that decodes so many on a card, by `DECODING`, on a line through its points."""
    (few, least), (many, most) = DECODING
    return least if sequences <= few else least + (sequences - few) * (most - least) / (many - few)


def mean_of_logarithm(mean: float, longest: float) -> float:
    """Of log-normal lengths whose mean is `mean` when they are cut at `longest`."""

    def cut(mu: float) -> float:
        below = (math.log(longest) - mu) / DEVIATION
        share = [0.5 * math.erfc(-x / math.sqrt(2)) for x in (below - DEVIATION, below)]
        return math.exp(mu + DEVIATION**2 / 2) * share[0] + longest * (1 - share[1])

    low, high = 0.0, math.log(longest)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if cut(middle) < mean else (low, middle)
    return low
