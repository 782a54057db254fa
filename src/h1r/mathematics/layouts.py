r"""What stands in rows: matrices and sums of them, determinants, systems of equations, and values by cases.

Texts in, rows of texts out; `read` reads the entries.
"""

from __future__ import annotations

import re

from h1r.mathematics.parse import WORD_CLOSE, WORD_OPEN
from h1r.mathematics.prose import RUN
from h1r.mathematics.text import MAX_LIST_ITEMS, split_with

Rows = list[list[str]]

_MATRIX = re.compile(
    r"((?:[^\\]|\\(?!begin))*?) ?\\begin ?\{([pbBvV]?matrix|array)\}(?:\{[lcr| ]*\})?(.*)\\end ?\{\2\}", re.DOTALL
)
_ENVIRONMENT = re.compile(
    r"(?:\\\{|\{|\[)? ?\\begin ?\{(cases|dcases|rcases|aligned|align\*?|gathered|split|array)\}(?:\{[lcr| ]*+\})?(.*)"
    r"\\end ?\{\1\} ?\.?",
    re.DOTALL,
)
_ROW_END = re.compile(r"\\\\(?:\[[^\]]*\])?|\\cr(?![A-Za-z])")
_RELATION = re.compile(r"[=<>]|\\(?:le|ge|ne|in|approx)(?![A-Za-z])")
_CONDITION = re.compile(
    rf"^[{WORD_OPEN}{WORD_CLOSE} ,]*+(?:(?:if|when|for|where|as)\b[{WORD_OPEN}{WORD_CLOSE} ,]*+)?",
    re.IGNORECASE,
)
_DETERMINANT = re.compile(
    r"(?:\| ?\\begin ?\{array\}(?:\{[lcr| ]*+\})?(.*)\\end ?\{array\} ?\||\\begin ?\{vmatrix\}(.*)\\end ?\{vmatrix\}"
    r"|\\det ?\(? ?\\begin ?\{[pb]?matrix\}(.*)\\end ?\{[pb]?matrix\} ?\)?)",
    re.DOTALL,
)


def matrix_sum(text: str) -> Rows | None:
    """The entries of a literal matrix, or of a sum of multiples of such; None for anything else."""
    pieces, signs = split_with(_without_brackets(text), r"[+-]")
    if pieces and not pieces[0]:
        pieces = pieces[1:]
    else:
        signs = ["+", *signs]
    total: Rows = []
    for sign, piece in zip(signs, pieces, strict=True):
        match = _MATRIX.fullmatch(piece)
        rows = _entries(match[3]) if match and match[2] not in ("vmatrix", "Vmatrix") else None
        if match is None or not rows or RUN.search(match[1]) or (total and _shape(rows) != _shape(total)):
            return None
        plain = sign == "+" and not match[1]
        factor = f"{sign}({match[1]})" if match[1] else sign
        terms = [[entry if plain else f"{factor}({entry})" for entry in row] for row in rows]
        pairs = zip(total or terms, terms, strict=True)
        total = [[f"{old}+({new})" for old, new in zip(*pair, strict=True)] for pair in pairs] if total else terms
    return total or None


def determinant_rows(text: str) -> Rows | None:
    """The entries of a text that is one determinant."""
    match = _DETERMINANT.fullmatch(text)
    return _entries(match[1] or match[2] or match[3] or "") if match else None


def system(text: str) -> list[str] | None:
    r"""The rows of a text that is one system: each states a relation, and none has a condition in a second column."""
    rows = _rows_of_environment(text)
    if rows is None:
        return None
    joined = [" ".join(part for part in row if part) for row in rows]
    stated = [row.strip(" ,;.") for row in joined]
    is_system = all(map(_RELATION.search, stated)) and not any(len(row) > 1 and _is_condition(row) for row in rows)
    return stated if is_system and len(stated) > 1 else None


def cases(text: str) -> list[tuple[str, str]] | None:
    """(value, condition) of each row of values by cases, the condition without its "if"; None for anything else."""
    rows = _rows_of_environment(text)
    if rows is None or not all(len(row) == 2 and row[0].strip() and row[1].strip() for row in rows):
        return None
    return [(row[0].strip(" ,;."), _CONDITION.sub("", row[1]).strip(f" ,;.{WORD_CLOSE}")) for row in rows]


def _is_condition(row: list[str]) -> bool:
    """Whether the second column says when the first holds; in a system it goes on with the relation (x &= 4)."""
    return bool(row[0].strip()) and not _RELATION.match(row[1].strip()) and bool(row[1].strip())


def _rows_of_environment(text: str) -> Rows | None:
    match = _ENVIRONMENT.fullmatch(text)
    if match is None or r"\begin" in match[2]:
        return None
    return _entries(match[2])


def _without_brackets(text: str) -> str:
    """The one matrix that stands between brackets, as an array does, or the text itself."""
    inner = text[1:-1].strip()
    is_one = text[0] in "([" and text[-1] in ")]" and inner.startswith(r"\begin") and inner.count(r"\begin") == 1
    return inner if is_one and _MATRIX.fullmatch(inner) else text


def _shape(rows: Rows) -> list[int]:
    return [len(row) for row in rows]


def _entries(body: str) -> Rows | None:
    if r"\begin" in body or body.count("&") > MAX_LIST_ITEMS:
        return None
    rows = [row for row in _ROW_END.split(body.replace(r"\hline", "")) if row.strip()]
    return [[entry.strip() for entry in row.split("&")] for row in rows] if 0 < len(rows) <= MAX_LIST_ITEMS else None
