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
from itertools import compress, zip_longest
from typing import Any, NamedTuple

import numpy as np

from h1r.config import RLSection
from h1r.engine.protocol import Prompt, SamplingParams
from h1r.errors import UserError
from h1r.records import Problem, Trace
from h1r.rollout.pipeline import RolloutPipeline, is_scored
from h1r.rollout.prompts import ProblemPrompt
from h1r.rollout.rewards import FORMAT, Rewards
from h1r.train.advantages import has_signal, overlong_penalty
from h1r.train.cached_arrays import Packed, packed, unpacked
from h1r.train.curriculum import Curriculum, CurriculumState
from h1r.train.ended_early import ending_early, is_censored, is_looped
from h1r.train.journal import Journal
from h1r.train.parallel.world import ALONE, World
from h1r.train.partial import is_open, joined, opening_of, request


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
    segments: list[list[list[int]]] = field(default_factory=list)
    """[version, tokens] of each part of each rollout, where they may have several (`partial.py`, `rl.in_flight`):
    `born` is the oldest first version. Else empty."""
    censored: list[list[int]] = field(default_factory=list)
    """[sample_index, tokens] of the rollouts that are not among `traces`, since they were stopped for their confidence
    (`ended_early.py`)."""


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
    """All groups whose sampling ended in this step: the unbiased view of the policy, for metrics."""
    tokens: int = 0
    """Sampled in this step, those of rollouts that go on included."""
    longest: int = 0
    """Most tokens that one rollout sampled in this step."""
    waiting: int = 0
    """Groups with rollouts that go on in the next step."""


def refuse_untold(traces: Sequence[Trace]) -> None:
    """Raises `UserError` when no token of a batch has a log-probability under the distribution that it was drawn from.

    The loss leaves out single tokens without one; without any, it would have nothing to learn from, in silence.
    """
    told = [math.isfinite(value) for trace in traces for value in trace.sampling_logprobs]
    if told and not any(told):
        raise UserError(
            "no sampled token has a finite log-probability: the engine does not tell them at this temperature (a plain "
            "server does at rl.temperature = 1; `h1r docs vllm`), or the weights are no numbers"
        )


@dataclass(frozen=True)
class StreamState:
    """Where a stream is, between two batches."""

    drawn: int
    share: float
    cache: tuple[Group, ...]
    curriculum: CurriculumState | None = None
    """None where nothing depends on pass rates."""
    open: tuple[Group, ...] = ()
    """Groups with rollouts that go on."""

    @property
    def metrics(self) -> Mapping[str, float]:
        """What there is to say of it, beside the batch before it."""
        return {} if self.curriculum is None else self.curriculum.metrics

    def as_json(self) -> dict[str, Any]:
        """Everything needed to go on to the same bits, as JSON, but for `arrays`."""
        packs, cached = pack_groups((*self.cache, *self.open))[0], len(self.cache)
        return {
            "drawn": self.drawn,
            "yield": self.share,
            "cache": packs[:cached],
            **({"open": packs[cached:]} if self.open else {}),
            **({} if self.curriculum is None else {"curriculum": dict(self.curriculum.visits)}),
        }

    def arrays(self) -> dict[str, np.ndarray]:
        """The long lists of the rollouts that it holds (`cached_arrays.py`), those of the cache first."""
        return pack_groups((*self.cache, *self.open))[1]


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
        self._open: list[Group] = []
        self._yield = 1.0
        self._index_of = {problem.id: index for index, problem in enumerate(problems)}

    def collect(self, step: int, made: int | None = None) -> Collected:
        """The groups of one optimiser step: at most `batch_size`, each with signal. made: steps that made the weights
        which the engine has; None: `step`."""
        section, backfill = self._section, self._section.backfill
        result = Collected([])
        if self._curriculum is not None:
            self._curriculum.begin_batch()
        if backfill.mode == "backfill":
            fresh = [group for group in self._cache if self._is_fresh(group, step)]
            result.groups, self._cache = fresh[: section.batch_size], fresh[section.batch_size :]
            result.from_cache = len(result.groups)
        going_on, self._open = self._open, []
        rounds = backfill.max_rounds if backfill.mode == "backfill" else 1
        for _ in range(rounds):
            missing = section.batch_size - len(result.groups)
            # A rollout that waits for another step may become too old, so all go on, whether a group is missing or not.
            if missing <= 0 and not going_on:
                break
            # With a yield of 1/3, three prompts are drawn for each group that is missing; what comes out in surplus
            # is kept in the cache, so little is wasted. Each further round waits for its longest rollout once more.
            over = (1 + backfill.overdraw) / self._yield
            wanted = math.ceil(missing * over) if backfill.mode == "backfill" else section.batch_size
            # Rollouts that have not ended are among those that the next batches will want.
            room = math.ceil(section.batch_size * over) - len(going_on) - len(self._open)
            most = section.batch_size * (backfill.max_rounds if backfill.overdraw else 1)
            count = min(wanted - len(going_on), most, room)
            if going_on:
                count = max(1, count)  # the journal knows a round by its first draw
            elif count <= 0:
                break
            groups = self._sample(going_on, count, step, step if made is None else made)
            self._count_tokens(result, going_on, groups)
            going_on = []
            ended = [group for group in groups if not self._goes_on(group)]
            self._open += [group for group in groups if self._goes_on(group)]
            useful = [group for group in ended if self._teaches(group)]
            result.generated += len(ended)
            result.dropped += len(ended) - len(useful)
            result.sampled += ended
            self._yield = max(0.1, 0.7 * self._yield + 0.3 * len(useful) / len(groups))
            missing = max(0, missing)
            result.groups += useful[:missing]
            if backfill.mode == "backfill":
                self._cache += useful[missing:]
                del self._cache[: max(0, len(self._cache) - backfill.cache_groups)]
        result.waiting = len(self._open)
        if backfill.mode == "duplicate" and result.groups:
            useful = result.groups
            result.groups = [useful[i % len(useful)] for i in range(section.batch_size)]
        return result

    def snapshot(self) -> StreamState:
        """Where the stream is. What it holds does not change any more."""
        curriculum = None if self._curriculum is None else self._curriculum.snapshot()
        return StreamState(self._drawn, self._yield, tuple(self._cache), curriculum, tuple(self._open))

    def restore(self, state: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        """Goes on from `state` and `arrays`; without arrays from the state alone, as earlier versions wrote it."""
        self._drawn, self._yield = state["drawn"], state["yield"]
        groups = unpack_groups((state["cache"] + state.get("open", []), dict(arrays)))
        self._cache, opened = groups[: len(state["cache"])], groups[len(state["cache"]) :]
        self._open = [group for group in opened if group.problem_id in self._index_of]
        if self._curriculum is not None:
            self._curriculum.restore(state["curriculum"])

    def _sample(self, going_on: Sequence[Group], count: int, step: int, made: int) -> list[Group]:
        """The groups that go on, and those of the next `count` draws, out of the journal where it has them."""
        first, self._drawn = self._drawn, self._drawn + count
        number, found = len(going_on) + count, None
        if self._journal is not None:
            found = self._world.told(self._journal.read(first, number) if self._world.main else None)
        groups = self._sampled(going_on, first, count, step, made) if found is None else unpack_groups(found)
        if self._journal is not None and found is None and self._world.main:
            self._journal.write(first, number, pack_groups(groups))
        if self._curriculum is not None:
            numbers = [first] * len(going_on) + [*range(first, first + count)]
            visits = zip(numbers, groups, strict=True)
            self._curriculum.see((number, group.problem_id, group.correct) for number, group in visits)
        return groups

    def _sampled(self, going_on: Sequence[Group], first: int, count: int, step: int, made: int) -> list[Group]:
        section = self._section
        params = ending_early(SamplingParams(temperature=section.temperature, max_tokens=section.max_tokens), section)
        # The draw number enters the seed: a prompt that comes again gets other rollouts.
        stride = max(section.num_generations, section.curriculum.max_group)
        groups: list[Group] = []
        asked: list[tuple[Group, Trace | None, Prompt, SamplingParams]] = []
        all_of_them: list[Group | _Draw] = [*going_on, *self._draw(first, count)]
        for one in self._world.deal(all_of_them):
            if isinstance(one, Group):
                group, limit = (
                    Group(one.problem_id, one.prompt_ids, [], [], [], [], one.born),
                    self._limit(one.born, step),
                )
                for trace, parts in zip(one.traces, one.segments, strict=True):
                    if is_open(trace, section.max_tokens):
                        asked.append((group, trace, *request(one.prompt_ids, trace, len(parts), params, limit)))
                    group.traces.append(trace)
                    group.segments.append([*parts])
            else:
                prompt = self._prompts[one.problem]
                group = Group(self._problems[one.problem].id, list(prompt), [], [], [], [], made)
                limit = section.max_tokens if _has_turns(prompt) else self._limit(made, step)
                seed = self._seed + one.number * stride
                each = dataclasses.replace(params, n=one.size, seed=seed, max_tokens=min(limit, section.max_tokens))
                asked.append((group, None, prompt, each))
            groups.append(group)
        with self._world.agreed():
            self._generate(asked, made)
            self._grade([group for group in groups if not self._goes_on(group)])
        return self._world.gather(groups)

    def _generate(self, asked: Sequence[tuple[Group, Trace | None, Prompt, SamplingParams]], made: int) -> None:
        """Has each group get what was asked for it: traces of its own, or what one of its traces goes on with."""
        problems = [self._problems[self._index_of[group.problem_id]] for group, *_ in asked]
        traces = []
        for trace in self._pipeline.stream(problems, [one[3] for one in asked], [one[2] for one in asked]):
            _keep_for_loss(trace)
            traces.append(trace)
        for trace in sorted(traces, key=lambda trace: (trace.prompt_index, trace.sample_index)):
            group, before, _, _ = asked[trace.prompt_index]
            parts, trace.versions = trace.versions or [[made, trace.num_tokens]], None
            if before is None:
                group.traces.append(trace)
                if self._section.partial_tokens or self._section.in_flight:
                    group.segments.append(parts)
                continue
            at = next(at for at, one in enumerate(group.traces) if one is before)
            tokenizer = self._pipeline.tokenizer
            group.traces[at] = joined(before, trace, opening_of(group.prompt_ids, tokenizer), tokenizer)
            group.segments[at] += parts
        if self._section.in_flight:  # weights may have come since the batch began
            for group, *_ in asked:
                group.born = min(parts[0][0] for parts in group.segments)

    def _grade(self, groups: Sequence[Group]) -> None:
        """Gives groups whose sampling has ended their rewards, and takes traces out that have no verdict, or are not to
        have one."""
        section = self._section
        for group in groups:
            kept = [not is_censored(trace) for trace in group.traces]
            group.censored = [[one.sample_index, one.num_tokens] for one in group.traces if is_censored(one)]
            group.traces, group.segments = [*compress(group.traces, kept)], [*compress(group.segments, kept)]
        owners = [(group, trace) for group in groups for trace in group.traces]
        problems = [self._problems[self._index_of[group.problem_id]] for group, _ in owners]
        verdicts = self._pipeline.verdicts(problems, [trace for _, trace in owners])
        scored = [is_scored(verdict) for verdict in verdicts]
        refuse_untold([trace for (_, trace), kept in zip(owners, scored, strict=True) if kept])
        left = iter(scored)
        for group in groups:
            kept = [next(left) for _ in group.traces]
            group.traces = [*compress(group.traces, kept)]
            group.segments = [*compress(group.segments, kept)]
        for (group, trace), problem, verdict in compress(zip(owners, problems, verdicts, strict=True), scored):
            named = self._rewards.parts(problem, trace.text, verdict)
            tokens = section.max_tokens if is_looped(trace) else trace.num_tokens
            penalty = overlong_penalty(tokens, section.max_tokens, section.overlong_buffer, section.overlong_penalty)
            group.parts.append({**named, "overlong": -penalty} if section.overlong_buffer else named)
            group.rewards.append(self._rewards.total(named) - penalty)
            group.correct.append(verdict.parts.get("correct", 0.0) >= 1)
            group.well_formed.append(verdict.parts["format"] >= 1 if "format" in verdict.parts else None)

    def _limit(self, born: int, step: int) -> int:
        """How many new tokens a rollout may sample in this step whose first ones have the weights that `born` steps
        made."""
        section = self._section
        too_old = section.max_staleness and step + 1 + section.lookahead - born > section.max_staleness
        return section.max_tokens if too_old or not section.partial_tokens else section.partial_tokens

    def _goes_on(self, group: Group) -> bool:
        """Whether a rollout of it waits for the next step."""
        if not self._section.partial_tokens or _has_turns(self._prompts[self._index_of[group.problem_id]]):
            return False
        return any(is_open(trace, self._section.max_tokens) for trace in group.traces)

    def _is_fresh(self, group: Group, step: int) -> bool:
        """Whether a cached group may be trained on."""
        section, age = self._section, step - group.born
        young = age + section.lookahead <= section.max_staleness if section.max_staleness else True
        return age <= section.backfill.max_age and young

    def _count_tokens(self, result: Collected, going_on: Sequence[Group], groups: Sequence[Group]) -> None:
        for group, earlier in zip_longest(groups, going_on):
            before = {trace.sample_index: trace.num_tokens for trace in earlier.traces} if earlier else {}
            graded = [[trace.sample_index, trace.num_tokens] for trace in group.traces]
            for index, tokens in (*graded, *group.censored):
                new = tokens - before.get(index, 0)
                result.tokens, result.longest = result.tokens + new, max(result.longest, new)

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


def _has_turns(prompt: Prompt) -> bool:
    """Whether it begins a conversation, which is never cut."""
    return isinstance(prompt, ProblemPrompt) and prompt.environment is not None


def _keep_for_loss(trace: Trace) -> None:
    """The loss needs neither of these, nor does a cached group."""
    trace.logprobs, trace.confidences = [], []


@lru_cache(maxsize=2)
def _permutation(n: int, seed: int, epoch: int) -> tuple[int, ...]:
    order = list(range(n))
    random.Random(f"rl prompts {seed} {epoch}").shuffle(order)
    return tuple(order)
