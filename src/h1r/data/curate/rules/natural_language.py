"""Which natural language a question is asked in, by py3langid (a naive Bayes model of 97 languages inside its wheel).

Only prose is looked at: formulas, code, quotations and addresses go first. A text of fewer letters than `MIN_LETTERS`,
or one of which the model is not sure (`MIN_PROBABILITY`), has no language that could be told, and is never dropped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

from h1r.data.curate.drop_log import DropLog
from h1r.data.curate.io.items import Item
from h1r.errors import UserError
from h1r.response.language import prose
from h1r.verify.controls import from_generator

STEP = "language"
MIN_LETTERS = 20
"""An ideogram counts as three. Our choice."""
MIN_PROBABILITY = 0.8
"""Our choice."""
MAX_CHARS = 4000
"""Of a question its beginning is looked at."""


def language_of(text: str) -> str | None:
    """The ISO 639-1 code of a text's language; None where it cannot be told."""
    said = "".join(char if char.isalpha() or char == "'" else " " for char in prose(text[:MAX_CHARS]))
    letters = sum(1 if char < "\u2e80" else 3 for char in said if char != " ")
    if letters < MIN_LETTERS:
        return None
    code, probability = _identifier().classify(" ".join(said.split()))
    return str(code) if probability >= MIN_PROBABILITY else None


def in_languages(items: Iterable[Item], drop_log: DropLog, languages: list[str]) -> Iterator[Item]:
    """Drops questions in other languages than these; generated ones pass unlooked at."""
    for item in items:
        drop_log.take(STEP)
        found = None if from_generator(item.problem) else language_of(item.problem.question)
        if found is None or found in languages:
            yield item
        else:
            drop_log.drop(STEP, item, f"in another language ({found})", item.problem.question)


@cache
def _identifier() -> Any:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError:
        raise UserError("curate.languages needs py3langid; run `pip install 'open-h1r[curate]'`") from None
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
