r"""Mathematical equality of an answer and the reference, in two tiers (arXiv 2601.02346, section 3.3).

    tier 1   equal as normalised LaTeX, else by type and value (`read`, `compare`): bounded work, no `eval`
    tier 2   `math-verify` (`symbolic`), only for forms that tier 1 cannot read; runs where it can be killed

The paper sends every answer that tier 1 calls wrong to tier 2. Here tier 1 also says "wrong" where both sides are read
and differ, since what `math-verify` adds to these are its false positives: words read as products of letters, lists
that lose their order or repetitions, units dropped, relations without unknowns.

    math           takes the boxed answer only: for rewards, where the prompt asks for a box
    math_lenient   also finds an answer that is not boxed (`extract`): for responses of others

Numbers are compared exactly, and to 6 decimals beside a written decimal, unless `problem.metadata` says otherwise
(`options`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache

from h1r.mathematics.clean import clean, domain
from h1r.mathematics.compare import compare
from h1r.mathematics.extract import MAX_BARE_CHARS, find_answer
from h1r.mathematics.letters import same_letters
from h1r.mathematics.options import DEFAULT, Options, options_of
from h1r.mathematics.points import same_at
from h1r.mathematics.qualifiers import INTEGERS
from h1r.mathematics.read import read
from h1r.mathematics.restated import objection
from h1r.mathematics.symbolic import is_readable, symbolic
from h1r.mathematics.text import MAX_CHARS, refusal, squeeze
from h1r.mathematics.types import Opaque
from h1r.records import Problem, Verdict
from h1r.response.extract import last_boxed, stated_box

_UNCLOSED_BOX = re.compile(r"^.*\\boxed ?\{", re.DOTALL)
_STATES = re.compile(r"\banswer is\b")
_NUMBER = re.compile(r"([-+]?)((?:\d+|[1-9]\d{0,2}(?:,\d{3})+)?)\.(\d+)|([-+]?)(\d+|[1-9]\d{0,2}(?:,\d{3})+)\.?")
_WARMING = (
    ("x+1", "1+x"),
    (r"\frac{2}{3}", r"\int_0^2 \sqrt{t} dt"),
    (r"\frac{m(m+1)(2m+1)}{6}", r"\sum_{j=1}^{m} j^2"),
    ("2", r"\sum_{j=0}^{\infty} \frac{1}{2^j}"),
    ("120", r"\prod_{j=2}^{5} j"),
    ("1", r"\lim_{t \to 0} \frac{\sin t}{t}"),
)
_RATIO = re.compile(r"([-+]?)(?:(\d+)/(\d+)|\\frac\{([-+]?\d+)\}\{([-+]?\d+)\})")


def quick(problem: Problem, answer: str) -> Verdict | None:
    """Tier 1 on the boxed answer, for any process: a verdict, or None when only tier 2 can tell."""
    return _first_tier(problem, stated_box(answer))


def grade(problem: Problem, answer: str) -> Verdict:
    """Both tiers on the boxed answer. Tier 2 may hang or raise on hostile input: call it where it can be killed."""
    return _both_tiers(problem, stated_box(answer))


def quick_lenient(problem: Problem, answer: str) -> Verdict | None:
    """As `quick`, wherever the answer stands."""
    return _first_tier(problem, _found(problem, answer))


def grade_lenient(problem: Problem, answer: str) -> Verdict:
    """As `grade`, wherever the answer stands."""
    return _both_tiers(problem, _found(problem, answer))


def _found(problem: Problem, answer: str) -> str | None:
    """The answer of a response; the whole of it where it is the reference to the letter, such as a sentence."""
    return problem.answer if answer.strip() == problem.answer.strip() else find_answer(answer)


def warm() -> None:
    """Imports `math-verify` and has it read each kind of formula that it is asked for, so that no answer pays for what
    its parser and sympy load and keep: a process that grades one answer inherits it."""
    for known, answer in _WARMING:
        symbolic(known, answer)


def equivalent(gold: str, answer: str) -> bool:
    """Whether two LaTeX answers (no responses) are equal by either tier."""
    equal = tier_one(gold, answer)
    return symbolic(_known(gold), answer) if equal is None else equal


def tier_one(gold: str, answer: str, options: Options = DEFAULT) -> bool | None:
    """Whether two LaTeX answers are equal, or None when this tier cannot tell. Nothing equals an empty text."""
    if not options.ordered and same_letters(gold, answer):
        return True
    known, found = read(_known(gold)), read(_unboxed(answer))
    if not known.text or not found.text:
        return False
    if options.try_list and (same := same_at(known, found, options.try_list)) is not None:
        return same
    if len(gold) > MAX_BARE_CHARS and read(_unboxed(gold)).text == found.text:
        return True  # a long reference that is no worked solution
    if _may_say_where(gold) and _may_say_where(answer) and _lie_elsewhere(_known(gold), _unboxed(answer)):
        return False
    return compare(known, found, options)


def _may_say_where(text: str) -> bool:
    """Whether a text may say where its unknowns lie; cheap."""
    return "in" in text or "∈" in text or "real" in text


def _lie_elsewhere(gold: str, answer: str) -> bool:
    """Whether both answers say where their unknowns lie, and not the same: k integer, k natural."""
    domains = [domain(text) for text in (gold, answer) if len(text) <= MAX_CHARS]
    if INTEGERS in domains:
        return any(other in ("R", "Q", "C") for other in domains)
    return len(domains) == 2 and None not in domains and domains[0] != domains[1]


def normalise(latex: str) -> str:
    """The answer with one spelling for what is typeset in many: no sizes, styles, dollars, or needless blanks."""
    return squeeze(clean(latex))


def parse_number(text: str) -> tuple[Fraction, bool] | None:
    """(value, written as a decimal) of a normalised integer, decimal or fraction; None for anything else."""
    if match := _NUMBER.fullmatch(text):
        sign, whole, part = (match[1], match[2], match[3]) if match[3] else (match[4], match[5], "")
        value = Fraction(int(whole.replace(",", "") + part), 10 ** len(part))
        return (-value if sign == "-" else value), bool(part)
    if match := _RATIO.fullmatch(text):
        over, under = int(match[2] or match[4]), int(match[3] or match[5])
        if under != 0:
            return (-1 if match[1] == "-" else 1) * Fraction(over, under), False
    return None


def _first_tier(problem: Problem, found: str | None) -> Verdict | None:
    options = options_of(problem)
    if found is None:
        error = r"no readable \boxed{} answer" if problem.verifier == "math" else "no answer found"
        return Verdict(0.0, error=error, reason="not_extracted")
    references = (problem.answer, *options.accept)
    verdicts = [tier_one(reference, found, options) for reference in references]
    if True in verdicts:
        equal = [reference for reference, verdict in zip(references, verdicts, strict=True) if verdict]
        return _equal(problem, equal, found, options)
    if None in verdicts and is_readable(found) and any(is_readable(_known(reference)) for reference in references):
        return None
    answer = _unboxed(found)
    if not isinstance(read(answer), Opaque):
        return Verdict(0.0, extracted=found, reason="wrong")
    return Verdict(0.0, extracted=found, error=refusal(answer), reason="not_readable")


def _both_tiers(problem: Problem, found: str | None) -> Verdict:
    verdict = _first_tier(problem, found)
    if verdict is not None:
        return verdict
    assert found is not None
    options = options_of(problem)
    equal = [reference for reference in (problem.answer, *options.accept) if symbolic(_known(reference), found)]
    return _equal(problem, equal, found, options)


def _equal(problem: Problem, references: Sequence[str], found: str, options: Options) -> Verdict:
    """The verdict on an answer that equals some references: it earns unless it restates the question, or the form."""
    why: str | None = None
    for reference in references:
        why = objection(problem.question, _known(reference), _unboxed(found), options.form)
        if why is None:
            return Verdict(1.0, extracted=found)
    return Verdict(0.0, extracted=found, error=why)


@lru_cache(maxsize=8192)
def _known(reference: str) -> str:
    """The answer of a reference, which may be a worked solution."""
    is_solution = len(reference) > MAX_BARE_CHARS or ("\\" not in reference and _STATES.search(reference) is not None)
    if "boxed" not in reference and is_solution and (stated := find_answer(reference)):
        return stated
    return _unboxed(reference)


def _unboxed(answer: str) -> str:
    r"""The answer without the box it may stand in, or without the open box it begins with."""
    if "boxed" not in answer:
        return answer
    answer = answer.replace(r"\\boxed", r"\boxed")
    return last_boxed(answer) or _UNCLOSED_BOX.sub("", answer)
