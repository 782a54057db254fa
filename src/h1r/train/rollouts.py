"""Groups of rollouts with rewards, and the stream of prompts that they come from.

    problems (seeded order) -> rollout, G graded traces each -> rewards -> groups that teach something

Online sampling (arXiv 2601.02346, section 3.3): a group whose rewards are all equal has no gradient. `backfill` drops
it and draws more prompts until the batch is full, at most `max_rounds` times; what a round gives beyond the batch waits
in a bounded cache for later steps, at most `max_age` of them. `reject` takes the smaller batch, `duplicate` repeats
groups that do teach.

Which problems come next, and how many rollouts each gets, the recipe may leave to the pass rates so far
(`curriculum.py`).

Nothing here holds a random generator: the order of prompts and every seed are functions of counters, so the state of
the stream is those counters, the cache, and what the visits of problems came to.
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from h1r.config import RLSection
from h1r.engine.protocol import Prompt, SamplingParams
from h1r.errors import UserError
from h1r.records import Problem, Trace
from h1r.rollout.pipeline import RolloutPipeline
from h1r.rollout.rewards import FORMAT, Rewards
from h1r.train.advantages import has_signal, overlong_penalty
from h1r.train.cached_arrays import Packed, packed, unpacked
from h1r.train.curriculum import Curriculum, CurriculumState
from h1r.train.journal import Journal
from h1r.train.parallel.world import ALONE, World


@dataclass
class Group:
    """The G rollouts of one prompt, less those without a verdict: they say nothing about the policy.

    `rewards` are what the loss sees, `correct` and `well_formed` their parts. `well_formed` is None where nobody
    looked: without a penalty the format is not checked.
    """

    problem_id: str
    prompt_ids: list[int]
    traces: list[Trace]
    rewards: list[float]
    correct: list[bool]
    well_formed: list[bool | None]
    born: int
    """The optimiser step whose policy sampled it."""
    parts: list[dict[str, float]] = field(default_factory=list)
    """What each reward is the weighted sum of, by name."""


def pack_groups(groups: Sequence[Group]) -> Packed:
    """Groups as JSON, and the long lists of their traces as arrays; the inverse of `unpack_groups`."""
    rows, arrays = packed([trace for group in groups for trace in group.traces])
    left = iter(rows)
    packs = [{one.name: getattr(group, one.name) for one in fields(group)} for group in groups]
    return [{**pack, "traces": [next(left) for _ in pack["traces"]]} for pack in packs], arrays


def unpack_groups(found: Packed) -> list[Group]:
    """The groups, bit for bit; without arrays from the JSON alone, as earlier versions wrote it."""
    packs, arrays = found
    left = iter(unpacked(([row for pack in packs for row in pack["traces"]], arrays)))
    return [Group(**{**pack, "traces": [next(left) for _ in pack["traces"]]}) for pack in packs]


@dataclass
class Collected:
    """A batch of groups and what it took to get it."""

    groups: list[Group]
    generated: int = 0
    """Groups sampled in this step, whatever became of them."""
    dropped: int = 0
    """Of these, groups whose rewards were all equal."""
    from_cache: int = 0
    sampled: list[Group] = field(default_factory=list)
    """All groups sampled in this step: the unbiased view of the policy, for metrics."""


def refuse_untold(traces: Sequence[Trace]) -> None:
    """Raises `UserError` when no token of a batch has a log-probability under the distribution that it was drawn from.

    The loss leaves out single tokens without one; without any, it would have nothing to learn from, in silence.
    """
    told = [math.isfinite(value) for trace in traces for value in trace.sampling_logprobs]
    if told and not any(told):
        raise UserError(
            "no sampled token has a finite log-probability: the engine does not tell them at this temperature (a plain "
            "server does at rl.temperature = 1; docs/guide/vllm.md), or the weights are no numbers"
        )


@dataclass(frozen=True)
class StreamState:
    """Where a stream is, between two batches."""

    drawn: int
    share: float
    cache: tuple[Group, ...]
    curriculum: CurriculumState | None = None
    """None where nothing depends on pass rates."""

    @property
    def metrics(self) -> Mapping[str, float]:
        """What there is to say of it, beside the batch before it."""
        return {} if self.curriculum is None else self.curriculum.metrics

    def as_json(self) -> dict[str, Any]:
        """Everything needed to go on to the same bits, as JSON, but for `arrays`."""
        found = {"drawn": self.drawn, "yield": self.share, "cache": pack_groups(self.cache)[0]}
        return found if self.curriculum is None else {**found, "curriculum": dict(self.curriculum.visits)}

    def arrays(self) -> dict[str, np.ndarray]:
        """The long lists of the cached rollouts (`cached_arrays.py`)."""
        return pack_groups(self.cache)[1]


class GroupStream:
    """Draws prompts in a seeded order, samples and scores their groups, and fills batches."""

    def __init__(
        self,
        problems: Sequence[Problem],
        prompts: Sequence[Prompt],
        pipeline: RolloutPipeline,
        section: RLSection,
        seed: int,
        world: World = ALONE,
        journal: Journal | None = None,
    ) -> None:
        """`prompts`: those of the problems, one by one. Of several processes each draws and grades the prompts that
        `world` deals it, on an engine of its own with equal weights; all of them see all groups, and keep the same
        counters and cache. journal: keeps what was sampled, and gives what it has in the place of sampling."""
        self._world, self._journal = world, journal
        self._problems, self._prompts = problems, prompts
        self._pipeline = pipeline
        self._section, self._seed = section, seed
        self._rewards = Rewards(section.rewards, section.format_conditions)
        self._curriculum = Curriculum(problems, section, seed) if section.curriculum.measures else None
        self._drawn = 0
        self._cache: list[Group] = []
        self._yield = 1.0

    def collect(self, step: int, made: int | None = None) -> Collected:
        """The groups of one optimiser step: at most `batch_size`, each with signal. made: steps that made the weights
        which the engine has; None: `step`."""
        section, backfill = self._section, self._section.backfill
        result = Collected([])
        if self._curriculum is not None:
            self._curriculum.begin_batch()
        if backfill.mode == "backfill":
            fresh = [group for group in self._cache if step - group.born <= backfill.max_age]
            result.groups, self._cache = fresh[: section.batch_size], fresh[section.batch_size :]
            result.from_cache = len(result.groups)
        rounds = backfill.max_rounds if backfill.mode == "backfill" else 1
        for _ in range(rounds):
            missing = section.batch_size - len(result.groups)
            if missing <= 0:
                break
            # With a yield of 1/3, three prompts are drawn for each group that is missing; what comes out in surplus
            # is kept in the cache, so little is wasted.
            wanted = math.ceil(missing / self._yield) if backfill.mode == "backfill" else section.batch_size
            groups = self._sample(min(wanted, section.batch_size), step if made is None else made)
            useful = [group for group in groups if self._teaches(group)]
            result.generated += len(groups)
            result.dropped += len(groups) - len(useful)
            result.sampled += groups
            self._yield = max(0.1, 0.7 * self._yield + 0.3 * len(useful) / len(groups))
            result.groups += useful[:missing]
            if backfill.mode == "backfill":
                self._cache += useful[missing:]
                del self._cache[: max(0, len(self._cache) - backfill.cache_groups)]
        if backfill.mode == "duplicate" and result.groups:
            useful = result.groups
            result.groups = [useful[i % len(useful)] for i in range(section.batch_size)]
        return result

    def snapshot(self) -> StreamState:
        """Where the stream is. What it holds does not change any more."""
        curriculum = None if self._curriculum is None else self._curriculum.snapshot()
        return StreamState(self._drawn, self._yield, tuple(self._cache), curriculum)

    def restore(self, state: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        """Goes on from `state` and `arrays`; without arrays from the state alone, as earlier versions wrote it."""
        self._drawn, self._yield = state["drawn"], state["yield"]
        self._cache = unpack_groups((state["cache"], dict(arrays)))
        if self._curriculum is not None:
            self._curriculum.restore(state["curriculum"])

    def _sample(self, count: int, step: int) -> list[Group]:
        """The groups of the next `count` draws, out of the journal where it has them."""
        first, self._drawn = self._drawn, self._drawn + count
        found = None
        if self._journal is not None:
            found = self._world.told(self._journal.read(first, count) if self._world.main else None)
        groups = self._sampled(first, count, step) if found is None else unpack_groups(found)
        if self._journal is not None and found is None and self._world.main:
            self._journal.write(first, count, pack_groups(groups))
        if self._curriculum is not None:
            self._curriculum.see(first, [(group.problem_id, group.correct) for group in groups])
        return groups

    def _sampled(self, first: int, count: int, step: int) -> list[Group]:
        section = self._section
        drawn = self._world.deal(self._draw(first, count))
        indices = [draw.problem for draw in drawn]
        params = SamplingParams(temperature=section.temperature, max_tokens=section.max_tokens)
        # The draw number enters the seed: a prompt that comes again gets other rollouts.
        stride = max(section.num_generations, section.curriculum.max_group)
        each = [dataclasses.replace(params, n=draw.size, seed=self._seed + draw.number * stride) for draw in drawn]
        with self._world.agreed():
            graded = self._pipeline.graded(
                [self._problems[i] for i in indices], each, _keep_for_loss, [self._prompts[i] for i in indices]
            )
            graded = [one for one in graded if one.scored]
            refuse_untold([one.trace for one in graded])
            parts = [self._rewards.parts(one.problem, one.trace.text, one.verdict) for one in graded]
        groups = [Group(self._problems[i].id, list(self._prompts[i]), [], [], [], [], step) for i in indices]
        for one, named in zip(graded, parts, strict=True):
            group, verdict = groups[one.trace.prompt_index], one.verdict
            group.traces.append(one.trace)
            length = (one.trace.num_tokens, section.max_tokens, section.overlong_buffer)
            penalty = overlong_penalty(*length, section.overlong_penalty)
            group.parts.append({**named, "overlong": -penalty} if section.overlong_buffer else named)
            group.rewards.append(self._rewards.total(named) - penalty)
            group.correct.append(verdict.parts.get("correct", 0.0) >= 1)
            group.well_formed.append(verdict.parts["format"] >= 1 if "format" in verdict.parts else None)
        return self._world.gather(groups)

    def _teaches(self, group: Group) -> bool:
        """Whether its rewards differ, and not in format alone where such groups are left out."""
        if self._section.backfill.format_only or not has_signal(group.rewards):
            return has_signal(group.rewards)
        rest = [self._rewards.total(named | {FORMAT: 0.0}) + named.get("overlong", 0.0) for named in group.parts]
        return has_signal(rest)

    def _draw(self, first: int, count: int) -> list[_Draw]:
        numbers = range(first, first + count)
        if self._curriculum is None:
            return [_Draw(number, self._index(number), self._section.num_generations) for number in numbers]
        by_rate = self._section.curriculum.choose == "pass_rate"
        indices = self._curriculum.draw(first, count) if by_rate else [self._index(number) for number in numbers]
        return [_Draw(*one) for one in zip(numbers, indices, self._curriculum.sizes(indices), strict=True)]

    def _index(self, number: int) -> int:
        """Which problem the draw `number` takes by epochs: each is another permutation."""
        epoch, at = divmod(number, len(self._problems))
        return _permutation(len(self._problems), self._seed, epoch)[at]


class _Draw(NamedTuple):
    """problem: its index. size: how many rollouts it gets."""

    number: int
    problem: int
    size: int


def _keep_for_loss(trace: Trace) -> None:
    """The loss needs neither of these, nor does a cached group."""
    trace.logprobs, trace.confidences = [], []


@lru_cache(maxsize=2)
def _permutation(n: int, seed: int, epoch: int) -> tuple[int, ...]:
    order = list(range(n))
    random.Random(f"rl prompts {seed} {epoch}").shuffle(order)
    return tuple(order)
