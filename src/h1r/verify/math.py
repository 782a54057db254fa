r"""Mathematical equality of the boxed answer and the reference, in two tiers (arXiv 2601.02346, section 3.3).

    tier 1: equal as normalised LaTeX, or as exact rationals, element by element for lists; linear time, no `eval`
    tier 2: `math-verify`, only for what tier 1 leaves open; runs where it can be killed

Tier 1 also decides "wrong" where that is certain (two plain numbers that differ), which spares tier 2 most of the wrong
answers. Around tier 2 stand the cases in which it accepts what is not equal: words read as products of letters, lists
that lose their order or their repetitions, relations without unknowns. It accepts a statement `7 = 8` for neither side.
"""

from __future__ import annotations

import re
from collections import Counter
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from h1r.records import Problem, Verdict
from h1r.verify.extract import last_boxed

if TYPE_CHECKING:
    import sympy  # type: ignore[import-untyped]

MAX_TIER_ONE_CHARS = 2_000
MAX_LIST_ITEMS = 64
DECIMAL_TOLERANCE = Fraction(1, 1000)
"""Two numbers of which one is written as a decimal go to tier 2 (six decimals) when they are relatively this close."""

_NOTHING = re.compile(r"\\(?:left|right|displaystyle|textstyle|limits|[bB]igg?[lr]?)(?![A-Za-z])|\\[,;:!]|\\\$|\$|\{\}")
_STYLED = re.compile(r"\\(?:text|textbf|textrm|mathrm|mathbf|mbox)\s*\{([^{}]*)\}")
_SPACE = re.compile(r"\\ |\\q?quad(?![A-Za-z])|~|\s")
_CONJUNCTION = re.compile(r",? (?:or|and) ")
_SHORT_FRACTION = re.compile(r"\\frac\s*(\d)\s*(\d)(?!\d)")
_INTEGER = r"(?:\d+|[1-9]\d{0,2}(?:,\d{3})+)"
_DECIMAL = re.compile(rf"([-+]?)({_INTEGER}?)\.(\d+)|([-+]?)({_INTEGER})\.?")
_RATIO = re.compile(r"([-+]?)(?:(\d+)/(\d+)|\\frac\{([-+]?\d+)\}\{([-+]?\d+)\})")
_BLANK_BESIDE_SIGN = re.compile(r"(?<![A-Za-z0-9]) | (?![A-Za-z0-9])")
_WORD = re.compile(r"[A-Za-z]{2,}")
_BRACKET = re.compile(r"\\[{}]|\\.|[\[\](){},]", re.DOTALL)
_OPENING = frozenset(("(", "[", r"\{", "{"))
_CLOSING = frozenset((")", "]", r"\}", "}"))
_ORDERED = frozenset(("(", "["))


def quick(problem: Problem, answer: str) -> Verdict | None:
    """Tier 1 alone, for any process: a verdict, or None when only tier 2 can tell."""
    boxed = last_boxed(answer)
    if boxed is None:
        return Verdict(0.0, error=r"no readable \boxed{} answer")
    equal = tier_one(normalise(_reference(problem)), normalise(boxed))
    return None if equal is None else Verdict(float(equal), extracted=boxed)


def grade(problem: Problem, answer: str) -> Verdict:
    """Both tiers. Tier 2 may hang or raise on hostile input: call it where it can be killed."""
    verdict = quick(problem, answer)
    if verdict is not None:
        return verdict
    boxed = last_boxed(answer)
    assert boxed is not None
    return Verdict(float(equivalent(_reference(problem), boxed)), extracted=boxed)


def warm() -> None:
    """Imports `math-verify` and parses once, so that neither is charged to an answer."""
    import logging

    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    _symbolic("x+1", "1+x")


def _reference(problem: Problem) -> str:
    """The reference without the box it may stand in; of several boxes none is more the answer than the others."""
    boxed = last_boxed(problem.answer) if problem.answer.count(r"\boxed") == 1 else None
    return boxed or problem.answer.replace(r"\boxed", "")


def normalise(latex: str) -> str:
    """Removes what only typesets: sizes, thin spaces, dollars, text styles, and blanks except between two words.

    "and" and "or" become the comma that they mean between alternatives.
    """
    text = latex.replace("{,}", ",").replace(r"\dfrac", r"\frac").replace(r"\tfrac", r"\frac").replace("−", "-")
    text = _NOTHING.sub("", text)
    text = _STYLED.sub(r"\1", text)
    text = " ".join(_SPACE.sub(" ", text).split())
    text = _BLANK_BESIDE_SIGN.sub("", _CONJUNCTION.sub(",", text))
    return _SHORT_FRACTION.sub(r"\\frac{\1}{\2}", text).removesuffix(".")


def tier_one(gold: str, answer: str) -> bool | None:
    """Whether two normalised answers are equal, or None when this tier cannot tell. Nothing equals an empty text."""
    if not gold or not answer:
        return False
    if gold == answer:
        return True
    if max(len(gold), len(answer)) > MAX_TIER_ONE_CHARS:
        return None
    if _WORD.fullmatch(gold) and _WORD.fullmatch(answer):
        return gold.casefold() == answer.casefold()
    known, found = parse_number(gold), parse_number(answer)
    if known and found:
        if known[0] == found[0]:
            return True
        rounded = known[1] or found[1]
        if rounded and abs(known[0] - found[0]) <= DECIMAL_TOLERANCE * max(Fraction(1), abs(known[0])):
            return None
        if not ("," in gold and "," in answer):
            return False
    lists = split_list(gold), split_list(answer)
    if lists[0] and lists[1]:
        return _compare_lists(lists[0], lists[1])
    return None


def _compare_lists(gold: BracketedList, answer: BracketedList) -> bool | None:
    if not _same_shape(gold, answer):
        return False
    pairs = list(zip(gold[1], answer[1], strict=True))
    if _is_ordered(gold, answer):
        equal = [tier_one(left, right) for left, right in pairs]
        return False if False in equal else (None if None in equal else True)
    numbers = [(parse_number(left), parse_number(right)) for left, right in pairs]
    if any(left is None or right is None or left[1] != right[1] for left, right in numbers):
        return None
    return Counter(left[0] for left, _ in numbers if left) == Counter(right[0] for _, right in numbers if right)


def _same_shape(gold: BracketedList, answer: BracketedList) -> bool:
    """Lists of different length never match; sets match no tuples, and an open interval matches no closed one."""
    if len(gold[1]) != len(answer[1]) or len(gold[1]) > MAX_LIST_ITEMS:
        return False
    if "" in (gold[0], answer[0]):
        return True
    if (gold[0] in _ORDERED) != (answer[0] in _ORDERED):
        return False
    return gold[0] not in _ORDERED or len(gold[1]) != 2 or (gold[0], gold[2]) == (answer[0], answer[2])


def _is_ordered(gold: BracketedList, answer: BracketedList) -> bool:
    return gold[0] in _ORDERED or answer[0] in _ORDERED


def parse_number(text: str) -> tuple[Fraction, bool] | None:
    """(value, written as a decimal) of a normalised integer, decimal or fraction; None for anything else."""
    if match := _DECIMAL.fullmatch(text):
        sign, whole, part = (match[1], match[2], match[3]) if match[3] else (match[4], match[5], "")
        value = Fraction(int(whole.replace(",", "") + part), 10 ** len(part))
        return (-value if sign == "-" else value), bool(part)
    if match := _RATIO.fullmatch(text):
        over, under = int(match[2] or match[4]), int(match[3] or match[5])
        if under != 0:
            return (-1 if match[1] == "-" else 1) * Fraction(over, under), False
    return None


BracketedList = tuple[str, list[str], str]
"""(opening bracket, elements, closing bracket); the brackets of a bare list are empty."""


def split_list(text: str) -> BracketedList | None:
    """The elements of a normalised list, tuple, set or interval; None for what has no top-level comma."""
    depth, bare, bracketed, group_end, opening, closing = 0, [], [], -1, "", ""
    for match in _BRACKET.finditer(text):
        if match[0] in _OPENING:
            depth += 1
            if match.start() == 0:
                opening = match[0]
        elif match[0] in _CLOSING:
            depth -= 1
            if depth < 0:
                return None
            if depth == 0 and group_end < 0:
                group_end, closing = match.end(), match[0]
        elif match[0] == "," and depth == 0:
            bare.append(match.start())
        elif match[0] == "," and depth == 1:
            bracketed.append(match.start())
    if depth:
        return None
    if bare:
        return "", _cut(text, 0, bare, len(text)), ""
    if opening and bracketed and group_end == len(text):
        return opening, _cut(text, len(opening), bracketed, len(text) - len(closing)), closing
    return None


def _cut(text: str, start: int, commas: list[int], end: int) -> list[str]:
    starts = [start, *(comma + 1 for comma in commas)]
    return [text[left:right].strip() for left, right in zip(starts, [*commas, end], strict=True)]


def equivalent(gold: str, answer: str) -> bool:
    """Whether `answer` equals `gold` by either tier (asymmetric, as `math-verify` is). Both are LaTeX without `$`."""
    known, found = normalise(gold), normalise(answer)
    equal = tier_one(known, found)
    if equal is not None:
        return equal
    lists = split_list(known), split_list(found)
    if not (lists[0] and lists[1]):
        return _symbolic(gold, answer)
    if _is_ordered(lists[0], lists[1]):
        return all(equivalent(left, right) for left, right in zip(lists[0][1], lists[1][1], strict=True))
    rest = list(lists[1][1])
    for element in lists[0][1]:
        match = next((index for index, other in enumerate(rest) if equivalent(element, other)), None)
        if match is None:
            return False
        del rest[match]
    return True


def _symbolic(gold: str, answer: str) -> bool:
    import math_verify
    import sympy

    # Its own time limits are SIGALRM and work in the main thread only; the limit here is that of the caller.
    known = math_verify.parse(rf"\boxed{{{gold}}}", parsing_timeout=None)
    found = math_verify.parse(rf"\boxed{{{answer}}}", parsing_timeout=None)
    expressions = [side[0] for side in (known, found) if side and isinstance(side[0], sympy.Basic)]
    if len(expressions) == 2 and not _says_something(*expressions):
        return False
    if math_verify.verify(known, found, allow_set_relation_comp=True, timeout_seconds=None):
        return True
    if len(expressions) == 2 and all(isinstance(side, sympy.Expr) and side.free_symbols for side in expressions):
        roots = [_spread_even_roots(side) for side in expressions]
        return roots != expressions and bool(math_verify.verify(roots[0], roots[1], timeout_seconds=None))
    return False


def _says_something(gold: sympy.Basic, answer: sympy.Basic) -> bool:
    """Refuses an answer that states a falsehood (`8 = 7`), and two relations that hold whatever their unknowns are."""
    import sympy

    for relation in answer.atoms(sympy.Rel):
        if not relation.free_symbols and relation.doit() != sympy.true:
            return False
    both = isinstance(gold, sympy.Rel) and isinstance(answer, sympy.Rel)
    return not (both and gold.doit() == sympy.true and answer.doit() == sympy.true)


def _spread_even_roots(expression: Any) -> Any:
    r"""\sqrt{1/n} as 1/\sqrt{n}: an even root of odd powers taken factor by factor.

    Sympy keeps the two apart since they differ for n < 0, where neither is real. Even powers stay: \sqrt{x^2} is |x|.
    """
    import sympy

    def odd(factor: Any) -> bool:
        return bool(factor.as_base_exp()[1].is_odd)

    def spread(power: Any) -> Any:
        return sympy.Mul(*(b ** (e * power.exp) for b, e in (f.as_base_exp() for f in sympy.Mul.make_args(power.base))))

    return expression.doit().replace(
        lambda part: (
            part.is_Pow
            and part.exp.is_Rational
            and part.exp.q % 2 == 0
            and all(odd(factor) for factor in sympy.Mul.make_args(part.base))
        ),
        spread,
    )
