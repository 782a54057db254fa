"""The format reward's conditions (arXiv 2601.02346, section 3.4).

    format = well_formed and coherent and one_script

well_formed: `<think> thinking </think> answer`, the tags once each, the first at the very start, neither part empty.
coherent:    no degenerate repetition (`repetition.py`).
one_script:  no mixing of languages, seen as writing systems (`language.py`).

The paper names the three conditions and gives no detector. All are linear in the text.
"""

from __future__ import annotations

from h1r.response.extract import THINK_CLOSE, THINK_OPEN, Response, split_response
from h1r.response.language import is_one_language
from h1r.response.repetition import is_degenerate


def check_format(text: str, question: str = "") -> dict[str, float]:
    """The conditions as 0 or 1: `format` and the three it is made of. Scripts of the question may be in the answer."""
    response = split_response(text)
    parts = {
        "well_formed": float(_is_well_formed(text, response)),
        "coherent": float(_is_coherent(response)),
        "one_script": float(is_one_language(text, question, response)),
    }
    return {"format": float(all(parts.values())), **parts}


def is_coherent(text: str) -> bool:
    """Whether neither the thinking nor the answer repeats itself."""
    return _is_coherent(split_response(text))


def is_well_formed(text: str) -> bool:
    """Whether the text is exactly `<think> thinking </think> answer`, both parts with content."""
    return _is_well_formed(text, split_response(text))


def _is_coherent(response: Response) -> bool:
    return not any(is_degenerate(part) for part in (response.thinking, response.answer) if part)


def _is_well_formed(text: str, response: Response) -> bool:
    if not response.thinking or not response.answer:
        return False
    if not text.lstrip().startswith(THINK_OPEN) or text.count(THINK_OPEN) != 1 or text.count(THINK_CLOSE) != 1:
        return False
    return bool(response.thinking.strip() and response.answer.strip())
