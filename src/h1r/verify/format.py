"""The format reward's conditions (arXiv 2601.02346, section 3.4).

    format = well_formed and coherent and one_script

well_formed: `<think> thinking </think> answer`, the tags once each, the first at the very start, neither part empty.
coherent:    no degenerate repetition (`repetition.py`).
one_script:  no mixing of languages, seen as writing systems (`language.py`).

The paper names the three conditions and gives no detector. All are linear in the text.
"""

from __future__ import annotations

from h1r.verify.extract import THINK_CLOSE, THINK_OPEN, split_response
from h1r.verify.language import is_one_language
from h1r.verify.repetition import is_degenerate


def check_format(text: str, question: str = "") -> dict[str, float]:
    """The conditions as 0 or 1: `format` and the three it is made of. Scripts of the question may be in the answer."""
    parts = {
        "well_formed": float(is_well_formed(text)),
        "coherent": float(is_coherent(text)),
        "one_script": float(is_one_language(text, question)),
    }
    return {"format": float(all(parts.values())), **parts}


def is_coherent(text: str) -> bool:
    """Whether neither the thinking nor the answer repeats itself."""
    response = split_response(text)
    return not any(is_degenerate(part) for part in (response.thinking, response.answer) if part)


def is_well_formed(text: str) -> bool:
    """Whether the text is exactly `<think> thinking </think> answer`, both parts with content."""
    if not text.lstrip().startswith(THINK_OPEN) or text.count(THINK_OPEN) != 1 or text.count(THINK_CLOSE) != 1:
        return False
    response = split_response(text)
    return bool(response.thinking and response.thinking.strip() and response.answer and response.answer.strip())
