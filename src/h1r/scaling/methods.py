"""Ways to spend a budget of traces beside DeepConf (`parameters.py`), each a small class; the registry has their names.

    majority               all side by side, one vote each                                         arXiv 2203.11171
    best_of_n              the answer of the trace that was surest of its tokens                   arXiv 2502.18581
    borda                  a vote in which a trace weighs by its rank in that                      arXiv 2502.18581
    adaptive_consistency   traces one after the other, until the leader is surely ahead            arXiv 2305.11860
    esc                    a few at a time, until all of these answer the same                     arXiv 2401.10480
    cges                   one after the other, until the posterior of an answer is high           arXiv 2511.02603
    bayesian_stopping      the same with the answer shapes of other problems (its own file)        arXiv 2602.05395
    short_1, short_3       all at once, and the first 1 or 3 that end are all that count           arXiv 2505.17813
    no_loops               a trace ends where it repeats itself; the others vote                    our choice

Sureness is the mean of a trace's token confidences, in nats. The paper's self-certainty takes every word of the
vocabulary where a token confidence takes the likeliest `top_k`, which is what engines return.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from h1r.common.bounds import bounded, same_as
from h1r.common.scaling_methods import METHODS
from h1r.config import ScalingSection
from h1r.engine.protocol import SamplingParams
from h1r.errors import UserError
from h1r.response.loops import Loop
from h1r.scaling.ballot import Ballot, Entry, Method, Needs, StopReason
from h1r.scaling.voting import Vote, lead_probability

_KINDS: dict[type, tuple[type, ...]] = {int: (int,), float: (int, float), bool: (bool,)}
"""What an option may be, by the type of its default."""


def method_of(section: ScalingSection, budget: int, name: str | None = None, /, **options: Any) -> Method:
    """The recipe's method, or another one by its name, at a budget, with `scaling.options`, or these over them. The
    recipe's options belong to its own method. `UserError` for a name or an option that there is not, and for a value of
    the wrong kind or out of range."""
    wanted = section.method if name is None else name
    kind: type[Method] = METHODS.require(wanted, "scaling.method")
    given = {**(section.options if wanted == section.method else {}), **options}
    known = option_names(kind)
    unknown = [key for key in given if key not in known]
    if unknown and wanted != "deepconf":
        said = f"it has {', '.join(known)}" if known else "it has none"
        raise UserError(f'method "{wanted}" has no option `{unknown[0]}`; {said}')
    _check_kinds(kind, given)
    try:
        return kind.from_section(section, budget, **given)
    except (TypeError, ValueError) as error:
        raise UserError(f'method "{wanted}": {error}') from None


def _check_kinds(kind: type[Method], given: Mapping[str, Any]) -> None:
    """`UserError` for a value that is no number where an option's default is one."""
    for field in dataclasses.fields(kind):
        kinds = _KINDS.get(type(field.default))
        if field.name in given and kinds and type(given[field.name]) not in kinds:
            wanted = {int: "a whole number", float: "a number", bool: "true or false"}[type(field.default)]
            raise UserError(f"option `{field.name}` is {wanted}, not {given[field.name]!r}")


def option_names(kind: type[Method]) -> list[str]:
    """The options of a method: its own fields."""
    base = {one.name for one in dataclasses.fields(Method)}
    return [one.name for one in dataclasses.fields(kind) if one.name not in base]


def meets(kind: type[Method], has: frozenset[str]) -> bool:
    """Whether recorded traces have what the method needs: token lists that are not empty, by their names."""
    return kind.needs <= has


@dataclass(frozen=True, slots=True)
class Majority(Method):
    """Self-consistency (arXiv 2203.11171): every trace runs to its end and has one vote."""


@dataclass(frozen=True, slots=True)
class BestOfN(Method):
    """The answer of the surest trace that has one (self-certainty, arXiv 2502.18581). Every trace runs to its end."""

    needs: ClassVar[frozenset[Needs]] = frozenset({"confidences"})

    @property
    def voter(self) -> str:
        return "surest"

    def vote(self, ballot: Ballot, chosen: Sequence[int]) -> Vote:
        return ballot.vote_of([(index, 1.0) for index in _by_sureness(ballot, chosen)[:1]])

    def weight(self, entry: Entry) -> float | None:
        return None if entry.confidence is None else entry.confidence.mean


@dataclass(frozen=True, slots=True)
class Borda(Method):
    """Of N answered traces the surest has N^power votes, the next (N - 1)^power, and so on (arXiv 2502.18581, Borda
    voting). `power` 0 is majority and a large one best of N; 1 is our choice."""

    needs: ClassVar[frozenset[Needs]] = frozenset({"confidences"})
    power: float = bounded(1.0, minimum=0, exclusiveMaximum=100)

    @property
    def voter(self) -> str:
        return "rank"

    def vote(self, ballot: Ballot, chosen: Sequence[int]) -> Vote:
        order = _by_sureness(ballot, chosen)
        return ballot.vote_of([(index, float(len(order) - rank) ** self.power) for rank, index in enumerate(order)])

    def weight(self, entry: Entry) -> float | None:
        return None


def _by_sureness(ballot: Ballot, chosen: Sequence[int]) -> list[int]:
    """The traces with an answer, the surest first, the earlier of equals first; without confidences, 0 nats."""

    def sureness(index: int) -> float:
        confidence = ballot.entries[index].confidence
        return 0.0 if confidence is None else confidence.mean

    answered = [index for index in chosen if ballot.entries[index].answer is not None]
    return sorted(answered, key=lambda index: (-sureness(index), index))


@dataclass(frozen=True, slots=True)
class OneByOne(Method):
    """Draws one trace after the other, until `certainty` reaches `certain`: nothing is in flight at the end."""

    certain: float = bounded(0.95, exclusiveMinimum=0, maximum=1)

    @property
    def tau(self) -> float | None:
        return self.certain

    def first(self) -> int:
        return 1

    def more(self, ballot: Ballot) -> int:
        return 0 if ballot.agreed() else 1


@dataclass(frozen=True, slots=True)
class AdaptiveConsistency(OneByOne):
    """Draws one trace after the other, so nothing is in flight at the end, and stops when the leading answer is the
    likelier of the first two with a probability of `certain` (arXiv 2305.11860: its Beta criterion and its 0.95,
    which the paper finds as good as the Dirichlet one that it approximates)."""

    def certainty(self, outcome: Vote) -> float:
        return lead_probability(outcome)


@dataclass(frozen=True, slots=True)
class EarlyStopping(Method):
    """Early-stopping self-consistency (arXiv 2401.10480): `window` traces at a time, until all of a window have the
    same answer; then all that there are vote. Its window of 5. A trace without an answer differs from every other."""

    window: int = bounded(5, minimum=2)

    def first(self) -> int:
        return min(self.window, self.budget)

    def more(self, ballot: Ballot) -> int:
        drawn = sorted(ballot.entries)
        last = [ballot.entries[index].answer for index in drawn[-self.window :]]
        same = None not in last and len(set(ballot.groups(last))) == 1
        return 0 if same else min(self.window, self.budget - len(drawn))


@dataclass(frozen=True, slots=True)
class ConfidenceGuided(OneByOne):
    """CGES, confidence-guided early stopping (arXiv 2511.02603, version 2 of 2026, Algorithm 1): one trace after the
    other, until the posterior of an answer reaches `certain`.

        A(a) = prod_t  C_t  where trace t answers a,  (1 - C_t) / K  where it does not

    over the K different answers so far and one that was not given yet; the posterior is A, normalised. The paper leaves
    open which C in (0, 1) stands for a trace; here it is the geometric mean of the probabilities that the model gave
    its tokens. Unlike Algorithm 1, the answer not given yet neither ends a problem nor wins: it is no answer.
    """

    needs: ClassVar[frozenset[Needs]] = frozenset({"logprobs"})

    @property
    def voter(self) -> str:
        return "posterior"

    def vote(self, ballot: Ballot, chosen: Sequence[int]) -> Vote:
        given = [i for i in chosen if ballot.entries[i].answer is not None and ballot.entries[i].likelihood is not None]
        if not given:
            return Vote()
        answers = [ballot.entries[i].answer for i in given]
        likelihoods = [ballot.entries[i].likelihood or 0.0 for i in given]
        totals = posterior([str(one) for one in ballot.groups(answers)], likelihoods)
        winner = max(totals, key=totals.__getitem__)  # the first of equals
        index = given[answers.index(winner)]
        return Vote(winner, totals[winner], totals[winner], totals, len(given), index)

    def weight(self, entry: Entry) -> float | None:
        return entry.likelihood


def posterior(centres: Sequence[str], likelihoods: Sequence[float]) -> dict[str, float]:
    """The posterior of each answer of CGES, in order of first appearance; what they lack to 1 is that of an answer not
    given yet."""
    distinct = list(dict.fromkeys(centres))
    logs = dict.fromkeys(distinct, 0.0)
    unseen = 0.0
    for centre, likelihood in zip(centres, likelihoods, strict=True):
        sure = min(max(likelihood, 1e-9), 1 - 1e-9)
        other = math.log1p(-sure) - math.log(len(distinct))
        for one in distinct:
            logs[one] += math.log(sure) if one == centre else other
        unseen += other
    top = max(unseen, *logs.values())
    whole = math.fsum([math.exp(unseen - top), *(math.exp(one - top) for one in logs.values())])
    return {one: math.exp(log - top) / whole for one, log in logs.items()}


@dataclass(frozen=True, slots=True)
class Shortest(Method):
    """short-m@k (arXiv 2505.17813): k traces side by side, ended together when the first m are done. These vote; a tie
    goes to the shorter. The length is that of the whole trace, which the paper counts to the end of its thinking."""

    settling: ClassVar[StopReason] = "first ended"
    m: ClassVar[int]

    def settled(self, ballot: Ballot, last: Entry) -> bool:
        return len(ballot.entries) >= self.m

    def vote(self, ballot: Ballot, chosen: Sequence[int]) -> Vote:
        ended = sorted(chosen, key=lambda index: (ballot.entries[index].trace.num_tokens, index))
        return ballot.vote_of([(index, 1.0) for index in ended])


@dataclass(frozen=True, slots=True)
class Short1(Shortest):
    """short-1@k (arXiv 2505.17813): the answer of the first trace that ends. A trace that ends without one counts."""

    m: ClassVar[int] = 1


@dataclass(frozen=True, slots=True)
class Short3(Shortest):
    """short-3@k (arXiv 2505.17813): the first three traces that end vote."""

    m: ClassVar[int] = 3


@dataclass(frozen=True, slots=True)
class NoLoops(Method):
    """Majority of the traces that do not run into a loop. One that does ends at the first token at which its last
    `repeats` copies of up to `period` tokens are the same, and are `shortest` tokens or more together (our choice, in
    the manner of `response.repetition`, which reads whole texts). Needs an engine that can tell: the native one."""

    needs: ClassVar[frozenset[Needs]] = frozenset({"token_ids"})
    repeats: int = same_as(Loop, "repeats")
    period: int = same_as(Loop, "period")
    shortest: int = same_as(Loop, "shortest")

    def __post_init__(self) -> None:
        self.check()
        Loop(self.repeats, self.period, self.shortest)

    def requested(self, ballot: Ballot) -> SamplingParams:
        return dataclasses.replace(self.sampling, loop=Loop(self.repeats, self.period, self.shortest))
