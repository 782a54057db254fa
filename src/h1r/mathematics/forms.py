r"""The form that an answer has to have beside the right value: names, words of a question that ask for it, checks.

    any             no form, and a formula of the question is accepted
    auto            what the question's words ask for (the default); nothing where the question is not known
    value           a number written out: no arithmetic, power, root or function left where the reference has none
    lowest_terms    no common factor above and below a line              \frac{5}{8}, not \frac{10}{16}
    fraction        no decimals and no percent                           \frac{1}{2}, not 0.5
    improper        a fraction, no mixed number                          \frac{7}{2}, not 3\frac{1}{2}
    mixed_number    3\frac{1}{2}, not \frac{7}{2}
    decimal         0.75, not \frac{3}{4}
    percent         75\%, not 0.75
    scientific      4.5 \times 10^3, not 4500
    factored        a product of as many factors as the reference has    (x-3)(x+3), not x^2-9; 2^3 \cdot 3, not 24
    expanded        no product with a sum in it                          x^2-9, not (x-3)(x+3)
    simplified      no like terms, no numbers to be added or multiplied  5x, not 3x+2x
    radical         no square under a root                               5\sqrt{2}, not \sqrt{50}
    rationalized    no root below a line                                 \frac{\sqrt{2}}{2}, not \frac{1}{\sqrt{2}}
    radians         \frac{\pi}{2}, not 90^\circ
    degrees         90^\circ, not \frac{\pi}{2}
    pi              holds a \pi                                          4\pi, not 12.566371
    interval        (-2,4), not -2<x<4: never asked for by words, since both are the same set

`decided` gives what words ask for. A form that was decided so counts only where the reference has it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import gcd, prod

from h1r.mathematics.parse import FUNCTIONS, Node, mentions, variables
from h1r.mathematics.shape import Shape, any_part, factors, is_mixed, numbers, ratio, shape, terms
from h1r.mathematics.types import Answer, Group, Ratio, Union, Value
from h1r.mathematics.units import DEGREE, PERCENT

MAX_TRIAL = 1_000
MAX_QUESTION_CHARS = 20_000


@dataclass(frozen=True, slots=True)
class Form:
    """`fits(answer, reference)` of one value each; `words` ask for the form, and nothing does where it is None."""

    fits: Callable[[Answer, Answer], bool]
    error: str
    words: re.Pattern[str] | None = None
    whole: bool = False
    """Whether it is one of the whole answer, and not of each of its elements."""


@lru_cache(maxsize=2048)
def decided(question: str) -> tuple[str, ...]:
    """The forms that the words of a question ask for."""
    question = question[:MAX_QUESTION_CHARS]
    return tuple(name for name, form in FORMS.items() if form.words is not None and form.words.search(question))


def is_numeral(answer: Answer) -> bool:
    """An integer, a decimal, a fraction in lowest terms or a mixed number, with or without a sign and a unit."""
    if not isinstance(answer, Value):
        return False
    node = _unsigned(answer.node)
    return node[0] == "num" or _is_lowest(node) or (is_mixed(answer) and _is_lowest(node[2]))


def is_arithmetic(answer: Answer) -> bool:
    """Whether what is left of a number is to be added, multiplied, divided, or squared and then added."""
    return _is_left(answer, ("num", "neg", "add", "mul", "div"))


def is_unevaluated(answer: Answer) -> bool:
    r"""Whether an answer that is a whole number or a fraction is written with operations but powers and factorials.

    That is `is_arithmetic`, and \sqrt{9+16}, \log_2 8, \cos 60^\circ. Closed forms are 10!, 2^{20}-1, \binom{10}{3}.
    """
    others = ("root", "log", "log10", "ln", "abs", "floor", "ceil", "const")
    return _is_left(answer, ("num", "neg", "add", "mul", "div", *others, *FUNCTIONS.values()))


def _is_left(answer: Answer, kinds: tuple[str, ...]) -> bool:
    if not isinstance(answer, Value) or is_numeral(answer):
        return False
    node = _unsigned(answer.node)
    added = any_part(node, lambda part: part[0] == "add")
    if any_part(node, lambda part: part[0] not in kinds and not (added and _is_small_power(part))):
        return False
    if (parts := ratio(node)) is not None:  # of whole numbers: a fraction, unless it comes out even
        return parts[1] == 0 or parts[0] % parts[1] == 0
    return not (_WORDY.search(answer.text) or is_mixed(answer))


def _is_small_power(node: Node) -> bool:
    return node[0] == "pow" and node[2] in (("num", Fraction(2)), ("num", Fraction(3)))


def is_exact_form(answer: Answer) -> bool:
    r"""Whether nothing is left to do in a number with roots, \pi, e, i, logarithms: 3\sqrt{2}, \frac{\pi}{4}, 6+9i."""
    if is_numeral(answer):
        return True
    if not isinstance(answer, Value) or variables(answer.node):
        return False
    kinds = ("num", "neg", "add", "mul", "div", "root", "const", "ln")
    if any_part(answer.node, lambda part: part[0] not in kinds or _is_left_open(part)):
        return False
    return all(fits(answer, answer) for fits in (_fits_simplified, _fits_radical, _fits_rationalized, _fits_lowest))


def _is_left_open(node: Node) -> bool:
    """A product with a sum, a quotient by a sum or by i, a root of a root."""
    if node[0] == "root":
        return bool(node[2][0] != "num")
    if node[0] == "div" and (mentions(node[2], "i") or shape(node[2])[0] == "sum"):
        return True
    return node[0] == "mul" and any(shape(part)[0] == "sum" for part in node[1:])


def _unsigned(node: Node) -> Node:
    return node[1] if node[0] == "neg" else node


def _is_ratio(node: Node) -> bool:
    return ratio(node) is not None


def _is_lowest(node: Node) -> bool:
    parts = ratio(node)
    return parts is not None and parts[1] > 1 and gcd(*parts) == 1


def _fits_value(answer: Answer, reference: Answer) -> bool:
    if is_numeral(reference):
        return is_numeral(answer) or _fits_scientific(answer, reference)
    constant = isinstance(reference, Value) and not variables(reference.node)
    return is_exact_form(answer) if constant else not has_operator(answer)


def has_operator(answer: Answer) -> bool:
    """Whether a sum, product, integral or limit is left to be computed."""
    return _OPERATOR.search(answer.text) is not None


def _fits_lowest(answer: Answer, reference: Answer) -> bool:
    if isinstance(answer, Ratio):
        parts = [part.node for part in answer.parts]
        whole = all(part[0] == "num" and part[1].denominator == 1 for part in parts)
        return not whole or gcd(*(int(part[1]) for part in parts)) == 1
    return not isinstance(answer, Value) or not any_part(answer.node, _is_reducible)


def _is_reducible(node: Node) -> bool:
    if node[0] != "div":
        return False
    if gcd(_content(shape(node[1])), _content(shape(node[2]))) > 1:
        return True
    return any(
        {factor for factor, _ in above} & {factor for factor, _ in below} for _, above, below in terms(shape(node))
    )


def _content(written: Shape) -> int:
    """The greatest whole number that divides every term of a formula as it is written."""
    found = 0
    for _, above, below in terms(written):
        if below:
            return 1
        whole = prod(
            int(value) ** power for value, power in numbers(above) if value.denominator == 1 and power <= MAX_TRIAL
        )
        found = gcd(found, whole)
    return found or 1


def _fits_fraction(answer: Answer, reference: Answer) -> bool:
    if not isinstance(answer, Value) or answer.decimals or answer.unit == PERCENT:
        return False
    return any_part(answer.node, _is_ratio) or not _has_fraction(reference)


def _has_fraction(answer: Answer) -> bool:
    return isinstance(answer, Value) and any_part(answer.node, lambda node: node[0] == "div")


def _fits_improper(answer: Answer, reference: Answer) -> bool:
    return _fits_fraction(answer, reference) and isinstance(answer, Value) and not is_mixed(answer)


def _fits_mixed(answer: Answer, reference: Answer) -> bool:
    return isinstance(answer, Value) and is_mixed(answer)


def _fits_decimal(answer: Answer, reference: Answer) -> bool:
    return isinstance(answer, Value) and _unsigned(answer.node)[0] == "num" and answer.unit != PERCENT


def _fits_percent(answer: Answer, reference: Answer) -> bool:
    return isinstance(answer, Value) and answer.unit == PERCENT


def _fits_scientific(answer: Answer, reference: Answer) -> bool:
    if not isinstance(answer, Value) or (node := _unsigned(answer.node))[0] != "mul":
        return False
    first, second = node[1], node[2]
    return first[0] == "num" and 1 <= first[1] < 10 and second[0] == "pow" and second[1] == ("num", Fraction(10))


def _fits_factored(answer: Answer, reference: Answer) -> bool:
    if not isinstance(answer, Value) or not isinstance(reference, Value):
        return False
    found, wanted = shape(answer.node), shape(reference.node)
    if found[0] == "sum" or (answer is reference and wanted[0] in ("num", "var")):
        return False
    if not variables(reference.node):
        return _are_primes(found)
    if wanted[0] == "sum":
        return found[0] == "term"
    counts = [sum(power for factor, power in factors(side) if factor[0] != "num") for side in (found, wanted)]
    if counts[0] < counts[1]:
        return False
    sums = [[factor for factor, _ in factors(side) if factor[0] == "sum"] for side in (found, wanted)]
    contents = [max(map(_content, side), default=1) for side in sums]
    return contents[0] == 1 or contents[1] > 1


def _are_primes(written: Shape) -> bool:
    found, count = factors(written), numbers(factors(written))
    return len(found) == len(count) and all(value.denominator == 1 and _is_prime(int(value)) for value, _ in count)


def _is_prime(number: int) -> bool:
    """By trial up to MAX_TRIAL; a larger number without a small factor counts as one."""
    if number < 2:
        return False
    return all(number % trial for trial in range(2, min(MAX_TRIAL, int(number**0.5) + 1)))


def _fits_expanded(answer: Answer, reference: Answer) -> bool:
    if not isinstance(answer, Value):
        return False
    return all(factor[0] != "sum" for _, above, _ in terms(shape(answer.node)) for factor, power in above)


def _fits_simplified(answer: Answer, reference: Answer) -> bool:
    return isinstance(answer, Value) and not any_part(answer.node, lambda node: _has_like_terms(node, answer))


def _has_like_terms(node: Node, answer: Value) -> bool:
    """Terms that differ by numbers only, but for a mixed number's; two numbers, or two roots of them, in a product."""
    if node[0] not in ("add", "mul"):
        return False
    if node == _unsigned(answer.node) and is_mixed(answer):
        return False
    seen = set()
    for _, above, below in terms(shape(node)):
        whole = sum(value.denominator == 1 and power == 1 for value, power in numbers(above))
        roots = sum(power for factor, power in above if factor[0] == "pow" and [factor[1][0], factor[2][0]] == _ROOT)
        rest = (
            tuple(pair for pair in above if pair[0][0] != "num"),
            tuple(pair for pair in below if pair[0][0] != "num"),
        )
        if whole > 1 or roots > 1 or rest in seen or (whole and numbers(below) and not rest[0] and node[0] == "mul"):
            return True
        seen.add(rest)
    return False


def _fits_radical(answer: Answer, reference: Answer) -> bool:
    return isinstance(answer, Value) and not any_part(answer.node, _is_unreduced_root)


def _fits_rationalized(answer: Answer, reference: Answer) -> bool:
    return isinstance(answer, Value) and not any_part(answer.node, _has_root_below)


def _has_root_below(node: Node) -> bool:
    if node[0] == "root" and node[2][0] == "div":
        return True
    return node[0] == "div" and any_part(node[2], lambda part: part[0] == "root")


def _is_unreduced_root(node: Node) -> bool:
    if node[0] != "root" or node[1][0] != "num" or node[1][1].denominator != 1:
        return False
    inside, degree = node[2], int(node[1][1])
    if inside[0] != "num" or inside[1].denominator != 1 or degree < 2:
        return False
    number = abs(int(inside[1]))
    for trial in range(2, MAX_TRIAL):
        power = trial**degree
        if power > number:
            break
        if number % power == 0:
            return True
    return number < 2


def _fits_pi(answer: Answer, reference: Answer) -> bool:
    return isinstance(answer, Value) and mentions(answer.node, "pi")


def _fits_radians(answer: Answer, reference: Answer) -> bool:
    return isinstance(answer, Value) and answer.unit != DEGREE


def _fits_degrees(answer: Answer, reference: Answer) -> bool:
    return isinstance(answer, Value) and (answer.unit == DEGREE or not mentions(answer.node, "pi"))


def _fits_interval(answer: Answer, reference: Answer) -> bool:
    if isinstance(answer, Union):
        return all(_fits_interval(part, part) or isinstance(part, Group) for part in answer.parts)
    return isinstance(answer, Group) and answer.opening in ("(", "[") and len(answer.items) == 2


_OPERATOR = re.compile(r"\\(?:sum|prod|i{0,3}int|oint|lim)(?![A-Za-z])")
_ROOT = ["num", "term"]
"""The kinds of base and exponent of the root of a number, in a shape."""
_WORDY = re.compile(r"(?<!\\)(?<![A-Za-z\\])[A-Za-z]{1,20} ?\d")
"""A word before a number: each number has its unit, as in 3 feet 2 inches."""
_KIND = r"(?:as|to|into|in) (?:an? )?(?:(?!or\b|and\b)[a-z-]{1,14} ){0,2}"
_NO_CHOICE = r"(?!,? or\b|s?\)|/)"
_TERMS = (
    r"(?:lowest|simplest|smallest|reduced) (?:possible )?(?:terms|fraction|form)|(?:simplified|irreducible) fraction"
)
_FACTOR = (
    r"(?:^|[.:;!?]\s{1,3}|\n|\b(?:[Cc]ompletely|[Ff]ully|[Pp]lease|then|and|to) )[Ff]actor(?:i[sz]e)?\b"
    r"(?! (?:of|is|that|in|by)\b)|\b[Ff]actor (?:completely|the (?:following|expression|polynomial|quadratic))"
    r"|\b(?:completely |fully )?factor(?:ed|ised|ized) (?:form|completely)|\bprime factori[sz]ation of"
    r"|\bproduct of (?:its )?prime"
)
_FRACTION = (
    rf"\b{_KIND}(?<!mixed )fraction\b{_NO_CHOICE}|\b[Ww]hat common fraction\b"
    r"|\bthe fraction (?:that (?:equals|is equal to)|equal to|equivalent to)"
)
_DECIMAL = (
    rf"\b{_KIND}decimal\b(?! (?:place|digit|point)){_NO_CHOICE}|\bdecimal (?:equivalent|form|value|notation) of\b"
)
_SIMPLIFY = r"\bSimplify\b|\bsimplify the\b"
_EXPAND = r"\b(?:Expand|expand the|Multiply out|multiply out)\b|\bexpanded form\b"


def _words(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


FORMS: dict[str, Form] = {
    "value": Form(_fits_value, "not evaluated"),
    "lowest_terms": Form(
        _fits_lowest,
        "not in lowest terms",
        _words(rf"\b(?:{_TERMS})\b|\bcommon fraction|\bReduce (?:the fraction|\$|\d)|{_SIMPLIFY}"),
    ),
    "fraction": Form(_fits_fraction, "not a fraction", _words(_FRACTION)),
    "improper": Form(
        _fits_improper,
        "not an improper fraction",
        _words(rf"\b{_KIND}(?:(?<=improper )|(?<=common ))fraction\b{_NO_CHOICE}"),
    ),
    "mixed_number": Form(
        _fits_mixed, "not a mixed number", _words(rf"\b{_KIND}mixed (?:number|numeral|fraction)\b{_NO_CHOICE}")
    ),
    "decimal": Form(_fits_decimal, "not a decimal", _words(_DECIMAL)),
    "percent": Form(_fits_percent, "not a percentage", _words(rf"\b{_KIND}percent(?:age)?\b{_NO_CHOICE}")),
    "scientific": Form(_fits_scientific, "not in scientific notation", _words(r"\bscientific notation\b")),
    "factored": Form(_fits_factored, "not factored", _words(_FACTOR)),
    "expanded": Form(_fits_expanded, "not expanded", _words(_EXPAND)),
    "simplified": Form(_fits_simplified, "not simplified", _words(_SIMPLIFY)),
    "radical": Form(
        _fits_radical,
        "not in simplest radical form",
        _words(rf"\bsimpl(?:est|ified) radical form\b|\bsimplest (?:possible )?form\b|{_SIMPLIFY}"),
    ),
    "rationalized": Form(
        _fits_rationalized,
        "has a root in a denominator",
        _words(r"\bsimpl(?:est|ified) radical form\b|\b[Rr]ationaliz(?:e|ed|ing)\b"),
    ),
    "pi": Form(_fits_pi, r"not in terms of \pi", _words(r"\bin terms of \$?(?:\\pi|pi|π)(?![A-Za-z])")),
    "radians": Form(_fits_radians, "not in radians", _words(r"\b(?:in|to|into) radians\b")),
    "degrees": Form(_fits_degrees, "not in degrees", _words(r"\b(?:in|to|into) degrees\b")),
    "interval": Form(_fits_interval, "not in interval notation", whole=True),
}
NAMES = ("auto", "any", *FORMS)
