"""Multiple choice: the options that an answer states, and whether they are the reference's.

The answer is made plain (`text`), its letters are found (`lists`), and what is said of them is read (`statements`).
Of the strongest statements the last decides, or the first where the problem says `"match": "first"`, which is how
MMLU-Pro's own grading reads a response. A statement that names several options to choose from ("B or D"), or more than
the question asks for, earns nothing; where the reference has several letters, the answer has to have the same ones.

The paper (arXiv 2601.02346, section 4.1) uses the cascade of Artificial Analysis without naming its version. Its order
is kept in the claims' strengths; what differs is that a denial is no answer, that several letters are not one of them,
and that a letter has to be an option.

Everything is linear in the text, so it runs in any process.
"""

from __future__ import annotations

import string
from typing import NamedTuple

from h1r.records import Problem, Verdict
from h1r.verify.choice.options import DEFAULT_OPTIONS, Options, options_of, reference_of
from h1r.verify.choice.statements import Claim, claims
from h1r.verify.choice.text import plain


class Reading(NamedTuple):
    """The letters that an answer states, in alphabetical order, and by what kind of claim; "" and "" for none.

    `open`: they are alternatives. `denied`: no letter is stated, but some are denied.
    """

    letters: str
    stage: str
    open: bool = False
    denied: bool = False


def grade(problem: Problem, answer: str) -> Verdict:
    """1 when the options stated are the reference's. Linear time: cannot hang.

    `metadata["options"]` has the options in one of the forms of `choice.options`; `metadata["match"]` is "last"
    (default) or "first". The reference is one letter or several, or the text of one of the listed options.
    """
    options = options_of(problem.metadata.get("options"))
    reference = reference_of(problem.answer, options)
    if reference is None:
        why = f"the reference {problem.answer[:40]!r} names none of the options"
        return Verdict(0.0, error=why, reason="unscored")
    found = read(answer, options, first=problem.metadata.get("match") == "first", several=len(reference) > 1)
    if not found.letters:
        why = "options are denied, none is stated" if found.denied else "no option letter in the answer"
        return Verdict(0.0, error=why, reason="not_extracted")
    parts = {f"choice:{found.stage}": 1.0}
    if found.open:
        return Verdict(0.0, parts, " or ".join(found.letters), "several options are left open", "wrong")
    extracted = ", ".join(found.letters)
    return Verdict(float(set(found.letters) == reference), parts, extracted)


def read(answer: str, options: Options, first: bool = False, several: bool = False) -> Reading:
    """What an answer states. `several`: the question has several right options, so separate claims add up."""
    found = claims(plain(answer, options), options.letters)
    stated = [claim for claim in found if not claim.denied]
    if not stated:
        return Reading("", "", denied=bool(found))
    strength = max(claim.strength for claim in stated)
    strongest = sorted((claim for claim in stated if claim.strength == strength), key=lambda claim: claim.start)
    chosen = strongest[0] if first else strongest[-1]
    if chosen.stage == "right":
        return _together([claim for claim in strongest if claim.stage == "right"], several)
    if any(_takes_back(claim, chosen) for claim in found):
        return Reading("", "", denied=True)
    beside = {letter for claim in stated if claim.stage == "also" for letter in claim.letters} - set(chosen.letters)
    return Reading(
        "".join(sorted({*chosen.letters, *beside})), chosen.stage, chosen.open or (bool(beside) and not several)
    )


def extract_letter(
    answer: str, options: str = string.ascii_uppercase[:DEFAULT_OPTIONS], first: bool = False
) -> tuple[str | None, str]:
    """(the one letter that an answer states, the kind of claim), or (None, "")."""
    letters, stage, is_open, _ = read(answer, Options(options), first)
    return (letters, stage) if len(letters) == 1 and not is_open else (None, "")


def _together(claims: list[Claim], several: bool) -> Reading:
    """Options that are called right one by one: all of them, or, where one is right, left open if they differ."""
    letters = "".join(sorted({letter for claim in claims for letter in claim.letters}))
    is_open = any(claim.open for claim in claims) or (len(letters) > 1 and len(claims) > 1 and not several)
    return Reading(letters, "right", is_open)


def _takes_back(denial: Claim, stated: Claim) -> bool:
    """Whether a later claim denies just what was stated: "The answer is B. No, it cannot be B"."""
    is_later = denial.denied and denial.strength == 3 and denial.start > stated.start
    return is_later and set(denial.letters) == set(stated.letters)
