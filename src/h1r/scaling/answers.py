r"""Which answer a trace gives, and which answers are the same.

The answer is the last `\boxed{}` after the thinking. Two answers to a problem that a mathematical verifier reads are
the same when that verifier takes one for the other: what is certain in linear time is decided here, the rest where it
can be killed. Answers to other problems are texts: the same when equal once normalised, or equal as plain numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from h1r.records import Problem, Verdict
from h1r.scaling.voting import AnswerGroups, Equivalent
from h1r.verify import exact, math
from h1r.verify.extract import last_boxed, split_response

VerifyMany = Callable[[Sequence[Problem], Sequence[str]], list[Verdict]]
"""Verdicts of texts under their problems' verifiers, one by one (`VerifierPool.verify_many`)."""


def extract_answer(text: str) -> str | None:
    """The boxed answer of a response; None while its thinking is not closed, or when nothing readable is boxed."""
    answer = split_response(text).answer
    return None if answer is None else last_boxed(answer)


def certainly_equivalent(founder: str, answer: str) -> bool:
    """Whether two LaTeX answers are equal for certain, in linear time: as LaTeX, as rationals, as lists of these."""
    return math.tier_one(math.normalise(founder), math.normalise(answer)) is True


def math_equivalence(verify_many: VerifyMany) -> Equivalent:
    """Mathematical equivalence by the project's own verifier; what is not certain is asked through `verify_many`."""

    def equivalent(founder: str, answer: str) -> bool:
        equal = math.tier_one(math.normalise(founder), math.normalise(answer))
        if equal is not None:
            return equal
        reference = Problem(id="", question="", answer=founder, verifier="math")
        return verify_many([reference], [rf"\boxed{{{answer}}}"])[0].reward >= 1.0

    return equivalent


def text_equivalent(founder: str, answer: str) -> bool:
    """Equality of normalised texts, or of plain numbers (0.50 and 1/2)."""
    if exact.normalise(founder) == exact.normalise(answer):
        return True
    numbers = [math.parse_number(math.normalise(side)) for side in (founder, answer)]
    return numbers[0] is not None and numbers[1] is not None and numbers[0][0] == numbers[1][0]


def groups_for(problem: Problem, verify_many: VerifyMany) -> AnswerGroups:
    """An empty grouping of the answers to this problem."""
    return AnswerGroups(math_equivalence(verify_many) if problem.verifier == "math" else text_equivalent)
