"""Accuracy over problems, and the failures that are not the model's (or not only).

    pass@1 = mean over problems of (correct / n)           n answers a problem
    pass@k = mean over problems of 1 - C(n - c, k) / C(n, k)   unbiased (arXiv 2107.03374, equation 1)

Intervals resample problems, not answers (`h1r.scaling.intervals`). An answer is correct only at full reward: partial
credit does not count. Traces that the engine failed at, or that could not be scored, are in no accuracy. Beside every
score stand shares of traces: cut off at the token limit; no answer could be extracted; not scored, through no fault of
the answer; failed in the engine; and each reason for a reward below 1 (`records.Verdict`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from h1r.records import REASONS, Verdict
from h1r.scaling.intervals import Estimate, mean_accuracy

USAGE = ("prompt_tokens", "completion_tokens", "reasoning_tokens", "cached_tokens")
"""Tokens that a server states (`records.Trace.usage`)."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How many of one problem's answers were correct."""

    problem_id: str
    family: str
    correct: int
    samples: int

    def __post_init__(self) -> None:
        if not 0 <= self.correct <= self.samples or self.samples < 1:
            raise ValueError(f"problem {self.problem_id}: {self.correct} of {self.samples} answers cannot be correct")


@dataclass(slots=True)
class Answer:
    """What the accuracy and the shares need of one answer. `tokens`: those the model sampled. `answered`: the text, or
    the verifier, states an answer (a verifier that was killed cannot say what it had read). `reward`: 0 to 1, None
    before a verdict; `reason`: why it is below 1 (`records.Verdict`). `unanswerable`: no engine could, the prompt is
    too long. `usage`: the counts of `USAGE`, where a server stated them. `confidence`: 0 to 1, that which the answer
    states. `room`: `records.Trace.room`, and 0 where the prompt left none."""

    tokens: int
    finish_reason: str
    answered: bool
    reward: float | None = None
    reason: str | None = None
    unanswerable: bool = False
    usage: tuple[int, ...] | None = None
    confidence: float | None = None
    room: int | None = None

    @property
    def scored(self) -> bool:
        """Whether there is a verdict that says anything of the answer."""
        return self.reward is not None and self.reason != "unscored"


@dataclass(frozen=True, slots=True)
class Faults:
    """Shares of all traces, 0 to 1."""

    truncated: float
    no_answer: float
    unscored: float
    error: float
    unanswerable: float = 0.0
    """Those of `error` whose prompts are too long for the model: asking again is of no use."""
    reasons: dict[str, float] = field(default_factory=dict)


def is_correct(graded: Verdict | Answer) -> bool:
    """Full reward, and nothing less."""
    return graded.reward is not None and graded.reward >= 1.0


def pass_at_1(outcomes: Sequence[Outcome], level: float = 0.95) -> Estimate:
    """Mean accuracy with its interval: a cluster bootstrap, or Wilson with one answer a problem.

    Raises `ValueError` without problems.
    """
    samples = max((outcome.samples for outcome in outcomes), default=0)
    return mean_accuracy([outcome.correct / outcome.samples for outcome in outcomes], samples, level)


def pass_at_k(outcomes: Sequence[Outcome], k: int) -> float:
    """The chance that at least one of k answers is correct; raises `ValueError` when a problem has fewer than k."""
    if not outcomes or min(outcome.samples for outcome in outcomes) < k or k < 1:
        raise ValueError(f"pass@{k} needs at least {max(k, 1)} answers to every problem")
    missed = [math.comb(o.samples - o.correct, k) / math.comb(o.samples, k) for o in outcomes]
    return 1 - math.fsum(missed) / len(outcomes)


def per_family(outcomes: Sequence[Outcome], level: float = 0.95) -> dict[str, dict[str, Any]]:
    """{family: {"pass_at_1", "interval", "n"}} in order of name; n counts problems."""
    table = {}
    for family in sorted({outcome.family for outcome in outcomes}):
        members = [outcome for outcome in outcomes if outcome.family == family]
        estimate = pass_at_1(members, level)
        table[family] = {"pass_at_1": estimate.value, "interval": list(estimate.interval), "n": len(members)}
    return table


def faults(answers: Iterable[Answer]) -> Faults:
    """The shares. Raises `ValueError` without answers."""
    of: Counter[str] = Counter()
    reasons: Counter[str | None] = Counter()
    for answer in answers:
        of["all"] += 1
        of["truncated"] += answer.finish_reason == "length"
        of["unanswerable"] += answer.unanswerable
        if answer.finish_reason == "error":
            of["error"] += 1
            continue
        of["no_answer"] += not answer.answered
        of["unscored"] += not answer.scored
        reasons[answer.reason] += 1
    if not of["all"]:
        raise ValueError("shares of answers need at least one answer")
    shares = {name: of[name] / of["all"] for name in ("truncated", "no_answer", "unscored", "error", "unanswerable")}
    return Faults(**shares, reasons={one: reasons[one] / of["all"] for one in REASONS if reasons[one]})


BIN = 100
"""Answers of one bin of `calibration_error`."""


def calibration_error(answers: Iterable[Answer]) -> float | None:
    """How far the confidence that answers state is from their accuracy, 0 to 1; None where none states any.

    The root mean square over bins of 100 answers in order of confidence, each weighted by its size; the last one takes
    what is left over. This is the measure of Humanity's Last Exam (arXiv 2501.14249; `calib_err` with p = 2 in
    hle_eval/run_judge_results.py), but for its script, which leaves the last bin out: here every answer counts.
    """
    known = [(one.confidence, is_correct(one)) for one in answers if one.scored and one.confidence is not None]
    pairs = sorted(known, key=lambda pair: pair[0])
    if not pairs:
        return None
    starts = range(0, max(len(pairs) - BIN + 1, 1), BIN)
    total = 0.0
    for start, end in zip(starts, [*starts[1:], len(pairs)], strict=True):
        stated, right = zip(*pairs[start:end], strict=True)
        total += (math.fsum(stated) - sum(right)) ** 2 / (end - start)
    return math.sqrt(total / len(pairs))


def total_usage(answers: Iterable[Answer]) -> dict[str, int] | None:
    """Tokens over all answers, by the names of `USAGE`; None where no server stated any."""
    total, stated = [0] * len(USAGE), False
    for answer in answers:
        if answer.usage is not None:
            total, stated = [one + more for one, more in zip(total, answer.usage, strict=True)], True
    return dict(zip(USAGE, total, strict=True)) if stated else None


@dataclass(slots=True)
class Room:
    """Of a benchmark's problems those whose prompts left less of the model's context than `max_tokens`."""

    max_tokens: int
    least: int | None = None
    lowered: set[int] = field(default_factory=set)
    none: set[int] = field(default_factory=set)

    def add(self, problem: int, answer: Answer) -> None:
        """Takes in an answer to a problem, by its index."""
        if answer.room == 0:
            self.none.add(problem)
        elif answer.room is not None:
            self.lowered.add(problem)
            self.least = answer.room if self.least is None else min(self.least, answer.room)

    def told(self) -> dict[str, int] | None:
        """{"max_tokens", "lowered", "least", "none"}: how many tokens were asked for; to how many problems answers had
        fewer, and the fewest (0 without any); how many problems had no room for an answer. None where all have it."""
        if not (self.lowered or self.none):
            return None
        return {
            "max_tokens": self.max_tokens,
            "lowered": len(self.lowered),
            "least": self.least or 0,
            "none": len(self.none),
        }
