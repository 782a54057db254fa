"""Exact match of the boxed answer with the reference, after normalisation that cannot change its meaning."""

from __future__ import annotations

import unicodedata

from h1r.records import Problem, Verdict
from h1r.response.extract import stated_box, unwrap


def normalise(answer: str) -> str:
    """Composed and case-folded, white space runs as one space, outer typesetting and a final full stop removed.

    Not compatibility-composed: that would make `x²` the same as `x2`.
    """
    text = unwrap(unwrap(answer).removesuffix("."))
    return " ".join(unicodedata.normalize("NFC", text).casefold().split()).removesuffix(".").rstrip()


def grade(problem: Problem, answer: str) -> Verdict:
    """1 when the boxed answer equals the reference after `normalise`. Linear time: cannot hang."""
    boxed = stated_box(answer)
    if boxed is None:
        return Verdict(0.0, error=r"no readable \boxed{} answer", reason="not_extracted")
    reference = normalise(problem.answer)
    if not reference:
        return Verdict(0.0, extracted=boxed, error="the problem has no reference", reason="unscored")
    return Verdict(float(normalise(boxed) == reference), extracted=boxed)
