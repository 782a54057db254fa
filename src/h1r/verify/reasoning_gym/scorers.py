"""Scorers of ours, for families whose own would evaluate the answer, or pay answers that solve nothing.

    evaluated there (`eval`, sympy)   puzzle24, countdown, simple_integration, intermediate_integration,
                                      polynomial_multiplication, string_insertion, spiral_matrix, binary_matrix,
                                      n_queens
    paid there                        puzzle24: any four numbers that make 24; complex_arithmetic: `nan`; coin_flip: `0`
                                      for all that is improbable; game_of_life_halting: any text, for "it does halt";
                                      polynomial_equations: any text, where there is no real solution

Each takes the answer as it stands and the family's item, and says whether the answer is right, or None where it is not
readable as one. They end in linear time but for comparisons of formulas, which are bounded (`h1r.mathematics.value`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from h1r.mathematics.value import same_value
from h1r.verify.reasoning_gym.formula import derivative, is_expanded, numbers_of, read_formula, value_of

Item = dict[str, Any]

ROUNDING = Fraction(1, 10_000)
"""What an answer may be off where a family asks for four decimals, or takes so many."""
RELATIVE_ROUNDING = Fraction(1, 100)
"""The same of small probabilities, relative to them: two digits of them have to be right. Our choice."""

_UNSIGNED = r"\d{1,40}(?:\.\d{0,40})?|\.\d{1,40}"
_NUMBER = re.compile(rf"([+-]?(?:{_UNSIGNED})(?:[eE][+-]?\d{{1,2}})?)")
_RATIO = re.compile(r"([+-]?)(?:(\d{1,40}) ?/ ?(\d{1,40})|\\[dt]?frac\{(\d{1,40})\}\{(\d{1,40})\})")
_COMPLEX = re.compile(rf"((?>[+-]?(?:{_UNSIGNED}))(?![ij]))?(?:([+-]?)({_UNSIGNED})?([ij]))?")


def number(text: str) -> Fraction | None:
    """A decimal or a ratio of integers, exactly; None for anything else, `nan` and `inf` among it."""
    text = text.strip()
    if not text.isascii():
        return None
    if _NUMBER.fullmatch(text):
        return Fraction(text)
    if (match := _RATIO.fullmatch(text)) and int(match[3] or match[5]):
        return Fraction(int(match[2] or match[4]), int(match[3] or match[5])) * (-1 if match[1] == "-" else 1)
    return None


def _makes(answer: str, item: Item, target: Fraction) -> bool | None:
    """Whether an arithmetic expression has that value, with exactly the item's numbers, each once."""
    node = read_formula(answer)
    numbers = None if node is None else numbers_of(node)
    if node is None or numbers is None:
        return None
    return sorted(numbers) == sorted(map(Fraction, item["metadata"]["numbers"])) and value_of(node) == target


def puzzle24(answer: str, item: Item) -> bool | None:
    return _makes(answer, item, Fraction(24))


def countdown(answer: str, item: Item) -> bool | None:
    return _makes(answer, item, Fraction(item["metadata"]["target"]))


def integration(answer: str, item: Item) -> bool | None:
    """Whether the derivative of the answer is the integrand; every letter but the unknown is a constant."""
    name = item["metadata"]["variable"]
    integrand, found = read_formula(item["metadata"]["integrand"]), read_formula(answer)
    slope = derivative(found, name) if found else None
    if integrand is None or slope is None:
        return None
    return same_value(slope, integrand) is True


def polynomial_multiplication(answer: str, item: Item) -> bool | None:
    """Whether the answer is the product, multiplied out: the question itself is no answer."""
    found, product = read_formula(answer), read_formula(item["answer"])
    if found is None or product is None:
        return None
    return is_expanded(found) and same_value(found, product) is True


def polynomial_equations(answer: str, item: Item) -> bool | None:
    """Whether the numbers of a list are the real solutions, each once, as rounded."""
    found, wanted = _numbers(answer), _numbers(item["answer"])
    if found is None or wanted is None:
        return None
    pairs = zip(sorted(found), sorted(wanted), strict=False)
    return len(found) == len(wanted) and all(abs(one - other) <= ROUNDING for one, other in pairs)


def _numbers(text: str) -> list[Fraction] | None:
    if not text.strip():
        return []
    parts = text.split(",") if text.count(",") < 100 else []
    found = [value for part in parts if (value := number(part)) is not None]
    return found if parts and len(found) == len(parts) else None


def complex_arithmetic(answer: str, item: Item) -> bool | None:
    """Whether the answer is that complex number, as `a + bi`."""
    text = re.sub(r"[ *]", "", answer.lower()) if answer.isascii() else ""
    while text.startswith("(") and text.endswith(")"):
        text = text[1:-1]
    match = _COMPLEX.fullmatch(text)
    if not text or match is None:
        return None
    real, sign, size, unit = match.groups()
    if real and unit and not sign:
        return None
    imaginary = Fraction(size or 1) if unit else Fraction(0)
    found = (Fraction(real or 0), -imaginary if sign == "-" else imaginary)
    return found == tuple(map(Fraction, item["metadata"]["result"]))


def coin_flip(answer: str, item: Item) -> bool | None:
    """Whether the answer is the probability, rounded at the fourth decimal at most, and not to nothing."""
    found = number(answer)
    if found is None:
        return None
    rational = item["metadata"]["rational"]
    exact = Fraction(rational["numerator"], rational["denominator"])
    return abs(found - exact) <= min(ROUNDING, RELATIVE_ROUNDING * exact)


def game_of_life_halting(answer: str, item: Item) -> bool | None:
    text = answer.strip().lower()
    return text == str(item["answer"]).strip().lower() if text in ("true", "false") else None


def same_words(answer: str, item: Item) -> bool:
    """Equal but for the amount of white space between words."""
    return answer.split() == str(item["answer"]).split()


def same_rows(answer: str, item: Item) -> bool:
    """Equal row by row, but for the amount of white space."""
    return _rows(answer) == _rows(str(item["answer"]))


def n_queens(answer: str, item: Item) -> bool:
    return _rows(answer) in [_rows(board) for board in item["metadata"]["valid_answers"]]


def _rows(text: str) -> list[list[str]]:
    return [row.split() for row in text.strip().splitlines()]


OWN: dict[str, Callable[[str, Item], bool | None]] = {
    "binary_matrix": same_rows,
    "coin_flip": coin_flip,
    "complex_arithmetic": complex_arithmetic,
    "countdown": countdown,
    "game_of_life_halting": game_of_life_halting,
    "intermediate_integration": integration,
    "n_queens": n_queens,
    "polynomial_equations": polynomial_equations,
    "polynomial_multiplication": polynomial_multiplication,
    "puzzle24": puzzle24,
    "simple_integration": integration,
    "spiral_matrix": same_words,
    "string_insertion": same_words,
}
