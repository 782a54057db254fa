r"""Which problems no rule can grade, by the words of their question and reference (our choice of rules).

    several questions    parts (a) and (b), (i) and (ii), "Part A", with one reference that is no list
    a missing figure     "the figure below", "as shown in the diagram", and no drawing, table or picture in the text
    a reference of prose a sentence, a proof, "answers vary": more than MAX_WORDS words beside its formulas

Of problems whose verifier reads a value (mathematics) only: a judge, a program's tests, options and instructions can
ask what they like.
"""

from __future__ import annotations

import re

from h1r.records import Problem
from h1r.verify.registry import require

MAX_WORDS = 4
MAX_CHARS = 20_000
"""Of a question and of a reference: only their beginnings are looked at."""
_PARTS = (
    re.compile(r"(?<![A-Za-z0-9()\\_^])\(?(?P<label>[a-e])\)\s"),
    re.compile(r"(?<![A-Za-z0-9()\\_^])\(?(?P<label>iv|i{1,3})\)\s"),
    re.compile(r"\b[Pp]art (?P<label>[A-Ea-e1-5])\b"),
)
_FIRST_TWO = ({"a", "b"}, {"i", "ii"}, {"A", "B"}, {"1", "2"})
_LIST = re.compile(r"[,;]|\\\\|\band\b|\\text\{\s?and\s?\}")
_SEEN = r"(?:figure|diagram|graph|picture|image|drawing|illustration|chart)"
_FIGURE = re.compile(
    rf"\b(?:in|from|on|by|as|see|to|of) (?:the|this) (?:\w++ ){{0,2}}{_SEEN}\b"
    rf"|\b{_SEEN} (?:is )?(?:shown|below|above|at (?:the )?(?:right|left)|to the (?:right|left))"
    r"|\b(?:shown|given|pictured|depicted|drawn|illustrated|graphed) "
    r"(?:below|above|at (?:the )?right|to the right|here)\b",
    re.IGNORECASE,
)
_DRAWN = re.compile(
    r"\[asy\]|\\begin\{(?:tikzpicture|asy|picture|tabular|array|figure)\}|!\[|<(?:img|table|svg)\b|\|\s?-{3}"
)
_FORMULA = re.compile(
    r"\$[^$]*+\$|\\\([^)]{0,400}+\)|\\(?:text|mbox|textbf|boxed|mathrm)\b|\\[A-Za-z]++|(?<![A-Za-z])[A-Za-z]++\("
)
_WORD = re.compile(r"(?<![A-Za-z])[A-Za-z]{2,}+")


def why_ungradable(problem: Problem) -> str | None:
    """Why no rule can grade a problem, as a phrase; None where nothing speaks against it.

    `UserError` for a verifier that is unknown.
    """
    if require(problem.verifier).answer_kind != "value":
        return None
    question, answer = problem.question[:MAX_CHARS], problem.answer[:MAX_CHARS]
    if _has_parts(question) and not _LIST.search(answer):
        return "several questions with one reference"
    if _FIGURE.search(question) and not _DRAWN.search(question):
        return "a figure that is not there"
    if len(_WORD.findall(_FORMULA.sub(" ", answer))) > MAX_WORDS:
        return "a reference of prose"
    return None


def _has_parts(question: str) -> bool:
    labels = [{match["label"] for match in pattern.finditer(question)} for pattern in _PARTS]
    return any(first <= found for found in labels for first in _FIRST_TWO)
