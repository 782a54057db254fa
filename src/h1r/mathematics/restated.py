r"""What keeps an answer of the right value from being the answer: it is a formula of the question, or in a wrong form.

    What is 1/2 + 1/3?     5/6 earns; \frac{1}{2}+\frac{1}{3} and \frac{3}{6}+\frac{2}{6} do not
    Factor x^2 - 9.        (x-3)(x+3) earns; x^2-9 and 9-x^2 times -1 do not

`objection` is asked of answers that are equal to the reference. It has none

    to what is written as the reference is (`shape`), to a choice, to words, to the formula of a listed option, or with
        the form "any";
    to a number written out (12, 0.5, 3/4), though the question holds it: it may be the answer by chance. The same goes
        for 3\sqrt{2} or \frac{\pi}{4} beside a reference that is no plain number;
    to closed forms beside a number: 10!, 2^{20}-1, \binom{10}{3}, unless the question holds them. What is left as a
        sum, product, quotient, root or logarithm of numbers, or as a \sum, \prod, \int, \lim, is not evaluated.

Without a question only a form that the problem names is held against an answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from h1r.mathematics.forms import (
    FORMS,
    Form,
    decided,
    has_operator,
    is_arithmetic,
    is_exact_form,
    is_numeral,
    is_unevaluated,
)
from h1r.mathematics.parse import variables
from h1r.mathematics.question import option_formulas, question_formulas
from h1r.mathematics.read import read
from h1r.mathematics.shape import Shape, leaves, shape_of, stated
from h1r.mathematics.text import bracketed
from h1r.mathematics.types import Answer, Choice, Group, Opaque, Ratio, Relation, Value, Words
from h1r.mathematics.units import DEGREE

RESTATED = "restates a formula of the question"
NOT_EVALUATED = "not evaluated"


Element = tuple[Answer, ...]
"""What an element of an answer states, each of which may be the answer: 2+3 and 5 of 2+3 = 5."""


def objection(question: str, reference: str, answer: str, form: str) -> str | None:
    """Why an answer that equals the reference does not earn, as a phrase; None when it does. LaTeX, no boxes."""
    if form == "any" or (form == "auto" and not question) or read(reference).text == read(answer).text:
        return None
    return _objection(question, reference, answer, form)


@lru_cache(maxsize=8192)
def _objection(question: str, reference: str, answer: str, form: str) -> str | None:
    known, found = read(reference), _without_brackets(read(answer))
    if isinstance(known, Choice | Words) or isinstance(found, Choice | Words):
        return None
    if isinstance(found, Relation) and not isinstance(known, Relation) and shape_of(found) in _shapes(question)[0]:
        return RESTATED  # a condition of the question: f(-1) = 0
    wanted = _elements(known)
    right = {shape_of(side) for side in (known, *stated(known), *(side for element in wanted for side in element))}
    if any(shape_of(side) in right for side in (found, *stated(found))):
        return None
    if any(shape_of(read(option)) == shape_of(found) for option in option_formulas(question)):
        return None
    unlike = [element for element in _elements(found) if not any(shape_of(side) in right for side in element)]
    if question and _is_restated(question, known, found, unlike):
        return RESTATED
    if form == "auto" and not _is_evaluated(wanted, unlike):
        return NOT_EVALUATED
    for required in decided(question) if form == "auto" else (form,):
        if _misses(FORMS[required], known, found, wanted, unlike, by_words=form == "auto"):
            return FORMS[required].error
    return None


def _without_brackets(answer: Answer) -> Answer:
    group = bracketed(answer.source) if isinstance(answer, Opaque) else None
    return read(group[1]) if group and group[0] == "(" else answer


def _elements(answer: Answer) -> list[Element]:
    """The elements of a list, tuple or matrix, or the answer itself as the only one."""
    sides = stated(answer)
    parts = leaves(sides[-1])
    return [stated(part) for part in parts] if parts != (sides[-1],) else [sides]


@lru_cache(maxsize=1024)
def _shapes(question: str) -> tuple[frozenset[Shape], frozenset[Shape]]:
    """The shapes of a question's formulas and of their sides: those that leave something to do, and exact forms."""
    to_do: set[Shape] = set()
    exact: set[Shape] = set()
    for formula in question_formulas(question):
        whole = read(formula)
        sides = whole.sides if isinstance(whole, Relation) else ()
        for part in (whole, *sides, *leaves(whole)):
            if r"\overline" in part.text and is_numeral(part):  # 0.\overline{3} is no common way to write an answer
                to_do.add(shape_of(part))
            elif not (_is_solved(part) or is_numeral(part)):
                (exact if is_exact_form(part) else to_do).add(shape_of(part))
    return frozenset(to_do), frozenset(exact)


def _is_solved(answer: Answer) -> bool:
    """A name, or what says nothing but where an unknown or a point lies: x, 0 < x < 1, (2,3), \\{1,2\\}."""
    if isinstance(answer, Value):
        return answer.node[0] == "var" or is_numeral(answer)
    if isinstance(answer, Relation):
        return all(map(_is_solved, answer.sides))
    return isinstance(answer, Group) and all(map(_is_solved, answer.items))


def _is_restated(question: str, known: Answer, found: Answer, unlike: Sequence[Element]) -> bool:
    to_do, exact = _shapes(question)
    plain = all(any(map(is_numeral, element)) for element in _elements(known))
    held = to_do | exact if plain else to_do
    if shape_of(found) in held:
        return True
    if any(all(shape_of(side) in held for side in element) for element in unlike):
        return True
    return _is_given_quantity(question, known, found)


def _is_given_quantity(question: str, known: Answer, found: Answer) -> bool:
    """A quantity of the question in another unit than the reference: 3 feet, of which the inches are asked for."""
    if not isinstance(known, Value) or not isinstance(found, Value) or not is_numeral(found):
        return False
    if known.unit is None or found.unit is None or known.unit == found.unit:
        return False
    text = " ".join(found.text.split())
    place = question.find(text)
    return place >= 0 and not question[max(place - 1, 0) : place].isdigit()


def _is_evaluated(wanted: Sequence[Element], unlike: Sequence[Element]) -> bool:
    """False where an element still has a sum, integral or limit beside a constant, or operations beside a number."""
    constant = all(any(map(_is_constant, element)) for element in wanted)
    if constant and any(all(map(has_operator, element)) for element in unlike):
        return False
    if not all(any(map(is_numeral, element)) for element in wanted):
        return True
    values = [side for element in wanted for side in element if isinstance(side, Value)]
    rounded = any(side.decimals or side.unit == DEGREE for side in values)
    left = is_arithmetic if rounded else is_unevaluated  # \\sqrt{2} is more than 1.414214, and \pi/2 is 90 degrees
    return not any(all(map(left, element)) for element in unlike)


def _is_constant(answer: Answer) -> bool:
    return isinstance(answer, Value) and not variables(answer.node)


def _misses(
    form: Form, known: Answer, found: Answer, wanted: Sequence[Element], unlike: Sequence[Element], by_words: bool
) -> bool:
    """Whether an answer lacks a form; one that words ask for counts only where the reference has it."""
    if form.whole:
        return not form.fits(stated(found)[-1], known)
    wanted_values = [side for element in wanted for side in element if isinstance(side, Value | Ratio)]
    if not wanted_values or (by_words and not all(form.fits(side, side) for side in wanted_values)):
        return False
    for element in unlike:
        values = [side for side in element if isinstance(side, Value | Ratio)]
        if values and not any(form.fits(side, wanted_values[0] if len(wanted) == 1 else side) for side in values):
            return True
    return False
