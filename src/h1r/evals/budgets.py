"""What the kept answers of a benchmark come to by a vote, at budgets of powers of two and of all n answers a problem:
majority, and the recipe's `scaling.method`, DeepConf as a rule (Table 7 of arXiv 2601.02346: accuracy, tokens).

    accuracy(b)   mean over problems of the mean over blocks of b answers, of which there are floor(n / b)
    tokens(b)     sum over problems of the mean over blocks; all that the method spends, on traces that it stops too

The method's traces are replayed (`scaling/replay.py`), a block as if its traces ran side by side; majority's all run to
their ends. An answer is what its verdict read, and a vote is right where the answer that won was graded as right:
majority at budget 1 is pass@1, and at n it is cons@n. Answers without a verdict, or in which nothing was found, do not
vote; a block in which no answer has a verdict is left out. A method that needs what the answers do not carry, as
DeepConf does of an API's, is not priced, and neither is DeepConf below its warm-up.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from h1r.common.progress import note
from h1r.common.scaling_methods import METHODS
from h1r.config import ScalingSection
from h1r.errors import UserError
from h1r.evals.metrics import is_correct
from h1r.evals.samples import Samples
from h1r.records import Trace, Verdict
from h1r.rollout.pipeline import VerifyMany, is_scored
from h1r.scaling.answer_groups import AnswerGroups
from h1r.scaling.answers import groups_for
from h1r.scaling.ballot import Method
from h1r.scaling.intervals import mean_accuracy
from h1r.scaling.methods import method_of
from h1r.scaling.replay import simulate_many
from h1r.scaling.voting import vote
from h1r.verify import require

_KINDS = ("text", "value", "letters")
"""Answers that can be the same; programs and whole responses cannot."""
_OF_GENERATION = {"problems", "budgets", "temperature", "top_p", "max_tokens"}
"""Keys of [scaling] that say how its own traces are generated, and nothing of these."""


def at_budgets(
    samples: Samples, section: ScalingSection, verify_many: VerifyMany, level: float = 0.95
) -> dict[str, Any] | None:
    """{"method", "settings", "lacks", "rows": [{"budget", "majority", "deepconf"}]}, ready for JSON; scores are
    {"accuracy", "interval", "tokens"}.

    None with one answer a problem, where answers have no majority, and where none has a verdict. "deepconf" is the
    score of the method, whichever it is, and None where it is not priced; "lacks": what the answers would have to carry
    for it. Tokens are None where a server did not state them. The answers of one problem are in memory at a time.
    """
    names = {problem.verifier for problem in samples.problems}
    if samples.n < 2 or any(not name or require(name).answer_kind not in _KINDS for name in names):
        return None
    lacks = sorted(METHODS.require(section.method, "scaling.method").needs - samples.carried())
    lacks += [] if samples.states_tokens() else ["tokens"]
    budgets = sorted({2**i for i in range(samples.n.bit_length())} | {samples.n})
    priced = {budget: None if lacks else _method(section, budget) for budget in budgets}
    scores = {(budget, key): _Score() for budget in budgets for key in ("majority", "deepconf")}
    for index, problem in enumerate(samples.problems):
        answers = _Answers(samples.of_problem(index), groups_for(problem, verify_many))
        for budget in budgets:
            scores[budget, "majority"].add(answers, budget, None)
            if (method := priced[budget]) is not None:
                scores[budget, "deepconf"].add(answers, budget, method)
    if not scores[1, "majority"].accuracies:
        return None
    known = "tokens" not in lacks
    rows = [
        {"budget": budget, **{key: scores[budget, key].told(level, known) for key in ("majority", "deepconf")}}
        for budget in budgets
    ]
    return {"method": section.method, "settings": settings_of(section), "lacks": lacks, "rows": rows}


def settings_of(section: ScalingSection) -> dict[str, Any]:
    """What the scores depend on beside the answers."""
    return section.model_dump(mode="json", exclude=_OF_GENERATION)


def cons_at_n(found: Mapping[str, Any] | None) -> float | None:
    """The share of problems whose most frequent answer, of all of its answers, is right."""
    return None if found is None else found["rows"][-1]["majority"]["accuracy"]


def _method(section: ScalingSection, budget: int) -> Method | None:
    """None where majority is all there is, and where the method cannot work at the budget."""
    if section.method == "majority" or (section.method == "deepconf" and budget < section.warmup):
        return None
    try:
        return method_of(section, budget)
    except UserError as error:  # a setting must not cost what was asked and graded
        note(f"not priced on the answers at a budget of {budget}: {error}")
        return None


class _Answers:
    """The answers to one problem. `read`: what the verdict of each found, None where it does not vote."""

    def __init__(self, answers: Sequence[tuple[Trace, Verdict | None]], groups: AnswerGroups) -> None:
        self.groups = groups
        self.traces = [trace for trace, _ in answers]
        verdicts = [verdict if verdict is not None and is_scored(verdict) else None for _, verdict in answers]
        self.scored = [verdict is not None for verdict in verdicts]
        self.right = [verdict is not None and is_correct(verdict) for verdict in verdicts]
        self.read = [None if verdict is None else verdict.extracted for verdict in verdicts]

    def majority(self, block: range) -> int | None:
        """The number of an answer that won, None without one."""
        found = vote(self.read[block.start : block.stop], [1.0] * len(block), self.groups).index
        return None if found is None else block[found]

    def replayed(self, blocks: Sequence[range], method: Method) -> tuple[list[int | None], int]:
        """Of each block the number of an answer that won, and the tokens of all of them."""
        # A replay hands on texts, and equal texts have equal verdicts where both have one.
        numbers = {trace.text: number for number, trace in enumerate(self.traces) if self.scored[number]}

        def read(text: str) -> str | None:
            return self.read[numbers[text]] if text in numbers else None

        recorded = [self.traces[block.start : block.stop] for block in blocks]
        solutions = simulate_many(recorded, method, extract=read, groups=[self.groups] * len(blocks))
        traces = [solution.answer_trace for solution in solutions]
        spent = sum(solution.tokens_total for solution in solutions)
        return [None if trace is None else numbers[trace.text] for trace in traces], spent


@dataclasses.dataclass(slots=True)
class _Score:
    """One method at one budget, over the problems so far."""

    accuracies: list[float] = dataclasses.field(default_factory=list)
    blocks: int = 1
    tokens: float = 0.0

    def add(self, answers: _Answers, budget: int, method: Method | None) -> None:
        """Takes in the answers to a problem; without a whole block of them, nothing. method: None for majority."""
        starts = range(0, len(answers.traces) - budget + 1, budget)
        blocks = [range(start, start + budget) for start in starts]
        if not blocks:
            return
        if method is None:
            winners = [answers.majority(block) for block in blocks]
            spent = sum(trace.num_tokens for trace in answers.traces[: blocks[-1].stop])
        else:
            winners, spent = answers.replayed(blocks, method)
        self.tokens += spent / len(blocks)
        grades = [
            float(winner is not None and answers.right[winner])
            for winner, block in zip(winners, blocks, strict=True)
            if any(answers.scored[block.start : block.stop])
        ]
        if grades:
            self.accuracies.append(fmean(grades))
            self.blocks = max(self.blocks, len(blocks))

    def told(self, level: float, tokens_known: bool) -> dict[str, Any] | None:
        if not self.accuracies:
            return None
        estimate = mean_accuracy(self.accuracies, self.blocks, level)
        tokens = self.tokens if tokens_known else None
        return {"accuracy": estimate.value, "interval": list(estimate.interval), "tokens": tokens}
