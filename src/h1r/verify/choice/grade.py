"""Multiple choice: the letter that an answer names, by the cascade of Artificial Analysis.

    stage    what is looked for                        example
    colon    "answer", a colon, a letter               **Answer:** C
    boxed    a box                                     \\boxed{\\text{C}}
    is       "answer is", a letter                     The answer is (C).
    bracket  a letter and ")", no capital after it     so it must be c) or C) in the end
    correct  a letter, "is the correct answer"         C is the correct answer
    last     a letter at the end                       I choose C
    stop     a letter and a full stop                  It is C. Checked twice.

The first stage that finds an option decides, and within it the last match, or the first one where the problem says
`"match": "first"`, which is how MMLU-Pro's own grading reads a response. The paper (arXiv 2601.02346, section 4.1) uses
the cascade without naming its version. Three guards are ours, since the published expressions read "the answer is not
among them" as N, "answer: I do not know" as I, and the J of `\\boxed{C: 5 J}` as the answer: a letter is a whole word
and an option of the problem, a lower-case letter stands in brackets or ends its line, a box is read from its beginning.

Everything is linear in the text, so it runs in any process.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Iterator
from typing import Any

from h1r.records import Problem, Verdict
from h1r.verify.response.extract import MAX_BOXED_CHARS, last_boxed, unwrap

DEFAULT_OPTIONS = 10
"""A to J, unless `problem.metadata["options"]` says otherwise: a list of the options' texts, or their number."""

_LETTER = r"(?:(?P<upper>[A-Z])(?![A-Za-z0-9'’])|(?P<lower>(?<=\()[a-z](?=\))|[a-z](?=[ \t]{0,8}[.*]{0,3}(?:\n|\Z))))"
_GAP = r"[\s*_$(:\\]{0,8}"
_COLON = re.compile(rf"(?i:answer)[*_]{{0,2}}\s{{0,8}}:{_GAP}{_LETTER}")
_IS = re.compile(rf"(?i:answer[ \t]+is){_GAP}{_LETTER}")
_BRACKET = re.compile(r"(?<![A-Za-z0-9])([A-Z])\)[^A-Z]*\Z")
_CORRECT = re.compile(r"(?<![A-Za-z0-9])([A-Z])\)?[*_]{0,2}\s{1,8}is\s{1,8}the\s{1,8}correct\s{1,8}answer")
_LAST = re.compile(r"(?<![A-Za-z0-9])([A-Z])[)*_$\s]*\Z")
_STOP = re.compile(r"(?<![A-Za-z0-9])([A-Z])\s{0,8}\.(?![A-Za-z0-9])")
_PRONOUN = re.compile(r"[ \t]+[a-z]")
_BOX = re.compile(r"\\f?boxed\s{0,8}\{")
_BOX_BEGIN = re.compile(r"(?:\\[A-Za-z]{1,16}\s*\{|[\s({*$])*([A-Z])(?![A-Za-z0-9])")
_BOX_WORD = re.compile(r"(?<![A-Za-z0-9\\])([A-Z])(?![A-Za-z0-9])")
_MAX_BOXES = 64


def grade(problem: Problem, answer: str) -> Verdict:
    """1 when the letter found is the reference's. Linear time: cannot hang.

    `metadata["options"]` is the list of options or their number; `metadata["match"]` is "last" (default) or "first".
    The reference is a letter, or the text of one of the listed options; so is a boxed answer.
    """
    options = _letters(problem.metadata.get("options"))
    reference = _reference(problem, options)
    if reference is None:
        return Verdict(0.0, error=f"the reference {problem.answer[:40]!r} names none of the options")
    letter, stage = _boxed_text(answer, problem, options), "text"
    if letter is None:
        letter, stage = extract_letter(answer, options, first=problem.metadata.get("match") == "first")
    if letter is None:
        return Verdict(0.0, error="no option letter in the answer")
    return Verdict(float(letter == reference), {f"choice:{stage}": 1.0}, extracted=letter)


def extract_letter(
    answer: str, options: str = string.ascii_uppercase[:DEFAULT_OPTIONS], first: bool = False
) -> tuple[str | None, str]:
    """(the letter, the stage that found it), or (None, "")."""
    for stage, find in _STAGES:
        found: str | None = None
        for letter in find(answer):
            if letter in options:
                found = letter
                if first:
                    break
        if found:
            return found, stage
    return None, ""


def _marked(pattern: re.Pattern[str]) -> Callable[[str], Iterator[str]]:
    """Letters after a phrase that announces them, upper case."""

    def find(text: str) -> Iterator[str]:
        for match in pattern.finditer(text):
            letter = (match["upper"] or match["lower"]).upper()
            if not (letter == "I" and _PRONOUN.match(text, match.end())):
                yield letter

    return find


def _plain(pattern: re.Pattern[str]) -> Callable[[str], Iterator[str]]:
    return lambda text: (match[1] for match in pattern.finditer(text))


def _boxed(text: str) -> Iterator[str]:
    """The letter of each of the last boxes, up to the first closing brace, as the cascade has it."""
    openings = [match.end() for match in _BOX.finditer(text)][-_MAX_BOXES:]
    for start in openings:
        end = text.find("}", start, start + MAX_BOXED_CHARS)
        if end < 0:
            continue
        begin = _BOX_BEGIN.match(text, start, end)
        words = [] if begin else _BOX_WORD.findall(text[start:end])
        if begin or words:
            yield begin[1] if begin else words[-1]


_STAGES: tuple[tuple[str, Callable[[str], Iterator[str]]], ...] = (
    ("colon", _marked(_COLON)),
    ("boxed", _boxed),
    ("is", _marked(_IS)),
    ("bracket", _plain(_BRACKET)),
    ("correct", _plain(_CORRECT)),
    ("last", _plain(_LAST)),
    ("stop", _plain(_STOP)),
)


def _letters(options: Any) -> str:
    count = len(options) if isinstance(options, list) else options
    if not isinstance(count, int) or not 2 <= count <= len(string.ascii_uppercase):
        count = DEFAULT_OPTIONS
    return string.ascii_uppercase[:count]


def _reference(problem: Problem, options: str) -> str | None:
    letter = problem.answer.strip().strip("()*.").upper()
    if len(letter) == 1 and letter in options:
        return letter
    return _letter_of(problem.answer, problem, options)


def _boxed_text(answer: str, problem: Problem, options: str) -> str | None:
    """The letter of the option whose whole text is in the last box."""
    boxed = last_boxed(answer) if isinstance(problem.metadata.get("options"), list) else None
    return _letter_of(unwrap(boxed), problem, options) if boxed else None


def _letter_of(text: str, problem: Problem, options: str) -> str | None:
    """The letter of the first option with that text."""
    listed = problem.metadata.get("options")
    texts = [str(option).strip() for option in listed[: len(options)]] if isinstance(listed, list) else []
    return options[texts.index(text.strip())] if text.strip() in texts else None
