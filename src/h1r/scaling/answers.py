r"""Which answer a trace gives, and which answers are the same.

The answer is what the problem's verifier would read: what its own `extract` finds after the thinking, or else what
stands there as its `answer_form` says, in most cases in the last `\boxed{}`. Two answers that are mathematics
(`answer_kind` "value") are the same when the verifier `math` takes one for the other: its first tier decides here, in
bounded time; what only `math-verify` can tell is asked where it can be killed. Answers of other kinds are texts: the
same when equal once normalised, or equal as plain numbers.

Answers are hostile input. One of more than `MAX_CHARS` characters equals itself only. After `MAX_READ` comparisons of a
problem that were more than comparing numbers, after `MAX_ASKED` questions to the second tier, or one that ran into its
time limit, there are no more of the kind: unknown is different.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache, partial

from h1r import mathematics
from h1r.records import Problem
from h1r.response.extract import split_response, stated_box
from h1r.rollout.pipeline import VerifyMany
from h1r.scaling.answer_groups import AnswerGroups, Equivalent
from h1r.verify import exact
from h1r.verify.registry import require, resolve

Extract = Callable[[str], str | None]

MAX_CHARS = 200
MAX_READ = 4_000
"""At 2 ms each, which hostile answers reach, eight seconds."""
MAX_ASKED = 64


def extract_answer(text: str) -> str | None:
    """The boxed answer of a response; None while its thinking is not closed, or when nothing readable is boxed."""
    answer = split_response(text).answer
    return None if answer is None else stated_box(answer)


def extract_for(problem: Problem) -> Extract:
    """How the answers to this problem are read from responses; `UserError` for an unknown verifier."""
    verifier = require(problem.verifier)
    if verifier.extract is not None:
        read = resolve(verifier.extract, verifier.file)
    elif verifier.answer_form is None or verifier.answer_kind == "program" or r"\boxed" in verifier.answer_form:
        return extract_answer
    else:
        read = partial(_in_form, verifier.answer_form)

    def extract(text: str) -> str | None:
        answer = split_response(text).answer
        try:
            return None if answer is None else read(answer)
        except Exception:  # of a verifier's own function, which a hostile answer must not end the run with
            return None

    return extract


def _in_form(form: str, answer: str) -> str | None:
    """What stands at the last place where an answer has the form, up to the end of its line; None for nothing."""
    before, _, after = form.partition("%s")
    found = answer.rpartition(before) if before else ("", "", answer)
    line = found[2].lstrip().partition("\n")[0]
    text = line.partition(after)[0] if after else line
    return text.strip() or None if found[1] == before else None


def certainly_equivalent(one: str, other: str) -> bool:
    """Whether two LaTeX answers are equal by the first tier of the mathematical verifier, in bounded time."""
    equal = _cheaply_equal(one, other)
    return _first_tier(one, other) is True if equal is None else equal


def math_equivalence(verify_many: VerifyMany, max_read: int = MAX_READ, max_asked: int = MAX_ASKED) -> Equivalent:
    """Mathematical equivalence, for one problem, by the project's own verifier; what the first tier cannot tell is
    asked through `verify_many`."""
    may_read, may_ask = max_read, max_asked

    def equivalent(one: str, other: str) -> bool:
        nonlocal may_read, may_ask
        equal = _cheaply_equal(one, other)
        if equal is not None or may_read == 0:
            return equal is True
        may_read -= 1
        equal = _first_tier(one, other)
        if equal is not None or may_ask == 0:
            return equal is True
        may_ask -= 1
        verdict = verify_many([Problem(id="", question="", answer=one)], [rf"\boxed{{{other}}}"])[0]
        if verdict.error is not None and "time limit" in verdict.error:
            may_ask = 0
        return verdict.reward >= 1.0

    return equivalent


def text_equivalent(one: str, other: str) -> bool:
    """Equality of normalised texts, or of plain numbers (0.50 and 1/2)."""
    if max(len(one), len(other)) > MAX_CHARS:
        return False
    if _plain(one) == _plain(other):
        return True
    numbers = _number(one), _number(other)
    return numbers[0] is not None and numbers[1] is not None and numbers[0][0] == numbers[1][0]


def groups_for(problem: Problem, verify_many: VerifyMany) -> AnswerGroups:
    """A grouping of the answers to this problem, which has compared none yet."""
    return AnswerGroups(
        math_equivalence(verify_many) if require(problem.verifier).answer_kind == "value" else text_equivalent
    )


def _cheaply_equal(one: str, other: str) -> bool | None:
    """What needs no reader: too long, letter by letter the same, or two numbers without decimals; None for the rest."""
    if max(len(one), len(other)) > MAX_CHARS:
        return False
    if _plain(one) == _plain(other):
        return True
    numbers = _number(one), _number(other)
    if numbers[0] is None or numbers[1] is None or numbers[0][1] or numbers[1][1]:
        return None  # how close a decimal must be is the verifier's to say
    return numbers[0][0] == numbers[1][0]


def _first_tier(one: str, other: str) -> bool | None:
    try:
        return mathematics.tier_one(one, other)
    except Exception:  # a defect of the reader must cost one comparison of two hostile strings, not the run
        return False


@lru_cache(maxsize=8192)
def _plain(answer: str) -> str:
    return exact.normalise(answer)


@lru_cache(maxsize=8192)
def _number(answer: str) -> tuple[Fraction, bool] | None:
    return mathematics.parse_number(mathematics.normalise(answer))
