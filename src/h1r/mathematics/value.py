"""Whether two expression trees have the same value, decided by evaluation in bounded time.

    constants    exactly, as fractions of at most MAX_BITS bits; otherwise to DIGITS decimal digits
    unknowns     at POINTS real points, else at integers, at larger ones, or in complex values; equal when every point
                 at which both sides are defined (and real, unless `i` occurs) agrees, and at least MIN_POINTS do

Equality at random points is Schwartz-Zippel's test: a false "equal" needs a difference that vanishes at all of them.
Points are functions of the names, so that a verdict does not depend on what was graded before.

Values that agree at DIGITS are evaluated once more at CONFIRM_DIGITS. So a constant below the first precision
(e^{-180}, or what tells 1 + (1/2)^{300} from 1) is not taken for zero, and what only rounding left (e^{i pi} + 1) is.

An unknown inside a floor or a ceiling that bears the name of an integer (n, k, m) is one: formulas with such are
compared at INTEGER_POINTS whole numbers, most of them consecutive.

A decimal stands for a rounded value: it equals what lies within DECIMAL_SLACK of it (six decimals, as in `math-verify`)
and within DECIMAL_RELATIVE, so that two small numbers do not become equal by rounding to nothing.

Left out: values beyond MAX_MAGNITUDE bits and anything that would need more work than BUDGET; these are `None`.
"""

from __future__ import annotations

import math
import threading
import zlib
from fractions import Fraction
from functools import lru_cache
from typing import Any

import mpmath  # type: ignore[import-untyped]

from h1r.mathematics.parse import Node, mentions, variables

DIGITS = 60
CONFIRM_DIGITS = 1_000
CONFIRM_DIGITS_OF_GAMMA = 200
"""Factorials of what is no whole number take long at many digits."""
MAX_BITS = 1 << 16
MAX_MAGNITUDE = 200_000
BUDGET = 1 << 22
POINTS = 8
MIN_POINTS = 3
INTEGER_POINTS = 56
INTEGER_NAMES = frozenset("jklmnpqKLMN")
DECIMAL_SLACK = Fraction(1, 2_000_000)
DECIMAL_RELATIVE = Fraction(1, 100_000)
_TOLERANCE = mpmath.mpf(10) ** -45
_MAX_UNKNOWNS = 40
_MAX_FACTORIAL = 3_000
_MAX_ARGUMENT_BITS = 30


class UndefinedError(ArithmeticError):
    """The value does not exist or is out of bounds."""


@lru_cache(maxsize=4096)
def same_value(left: Node, right: Node, slack: Fraction = Fraction(0), relative: Fraction = Fraction(0)) -> bool | None:
    """Whether two trees are equal; None when neither can be shown. Symmetric.

    A difference of up to `slack`, and of up to `relative` times the larger value, is allowed: a side is a decimal.
    """
    unknowns = variables(left) | variables(right)
    if len(unknowns) > _MAX_UNKNOWNS:
        return None
    if not unknowns:
        return _same_constant(left, right, slack, relative)
    if any(not variables(side) and _value_or_none(side, {}, True) is None for side in (left, right)):
        return None  # a constant that has no value, or none within bounds, has none at any point
    if integers := _rounded_integers(left) | _rounded_integers(right):
        return _same_at_integers(left, right, unknowns, integers, slack, relative)
    is_complex = mentions(left, "i") or mentions(right, "i")
    for scale, wide_open in ((1, is_complex), (0, is_complex), (16, is_complex), (1, True)):
        agreed = 0
        for index in range(POINTS):
            point = {name: _coordinate(name, index, scale) for name in unknowns}
            values = [_value_or_none(side, point, wide_open) for side in (left, right)]
            if values[0] is None or values[1] is None:
                continue
            if not _close(values[0], values[1], slack, relative):
                return False
            if _needs_confirmation(values, slack, relative, agreed == 0) and not _confirmed(left, right, point):
                return False
            agreed += 1
        if agreed >= MIN_POINTS:
            if scale and (_rounds(left) or _rounds(right)):  # at no random point anything jumps
                return _same_at_integers(left, right, unknowns, unknowns, slack, relative) is not False
            return True
    return None


def _rounds(node: Node) -> bool:
    return node[0] in ("floor", "ceil") or any(_rounds(part) for part in node[1:] if isinstance(part, tuple))


def _rounded_integers(node: Node, inside: bool = False) -> frozenset[str]:
    """The unknowns with the name of an integer that a floor or a ceiling rounds."""
    if node[0] == "var":
        return frozenset((node[1],)) if inside and node[1].partition("_")[0] in INTEGER_NAMES else frozenset()
    inside = inside or node[0] in ("floor", "ceil")
    return frozenset().union(*(_rounded_integers(part, inside) for part in node[1:] if isinstance(part, tuple)))


def _same_at_integers(
    left: Node, right: Node, unknowns: frozenset[str], integers: frozenset[str], slack: Fraction, relative: Fraction
) -> bool | None:
    """Whether two trees agree wherever both are defined: `integers` at 1, 2, 3, ..., the other unknowns at reals."""
    agreed = 0
    for index in range(INTEGER_POINTS):
        point = {}
        for place, name in enumerate(sorted(unknowns)):
            whole = 1 + (index if place == 0 else index * (2 * place + 5) % (INTEGER_POINTS - 3))
            whole += 9_972 if index % 7 == 6 else 0
            point[name] = _context().mpf(whole) if name in integers else _coordinate(name, index % POINTS, 1)
        values = [_value_or_none(side, point, False) for side in (left, right)]
        if values[0] is None or values[1] is None:
            continue
        if not _close(values[0], values[1], slack, relative):
            return False
        agreed += 1
    return True if agreed >= INTEGER_POINTS // 2 else None


def constant_ratio(left: Node, right: Node) -> Fraction | float | None:
    """The constant c with left = c * right at every point, nonzero; 0.0 when there is none, None when unknown."""
    unknowns = variables(left) | variables(right)
    if len(unknowns) > _MAX_UNKNOWNS or not unknowns:
        return None
    is_complex = mentions(left, "i") or mentions(right, "i")
    ratios = []
    for index in range(POINTS):
        point = {name: _coordinate(name, index, 1) for name in unknowns}
        values = [_value_or_none(side, point, is_complex) for side in (left, right)]
        if values[0] is None or values[1] is None:
            continue
        if abs(values[1]) < _TOLERANCE or abs(values[0]) < _TOLERANCE:
            return 0.0
        ratios.append(values[0] / values[1])
    if len(ratios) < MIN_POINTS:
        return None
    if all(_close(ratio, ratios[0]) for ratio in ratios):
        return float(_context().re(ratios[0]))
    return 0.0


def approximate(node: Node) -> float | None:
    """A real constant as a float (infinite for an infinity), for sorting; None when it is not one."""
    sign, inner = (-1, node[1]) if node[0] == "neg" else (1, node)
    if inner == ("const", "infty"):
        return sign * math.inf
    value = None if variables(node) else _value_or_none(node, {}, False)
    return None if value is None else float(_context().re(value))


def exact(node: Node) -> Fraction | None:
    """The value of a tree of rationals, roots of none; None when it is not one or is out of bounds."""
    try:
        return _exact(node, [BUDGET])
    except (ArithmeticError, ValueError):
        return None


def _same_constant(left: Node, right: Node, slack: Fraction, relative: Fraction) -> bool | None:
    infinities = [approximate(side) for side in (left, right) if mentions(side, "infty")]
    if infinities:
        return len(infinities) == 2 and None not in infinities and infinities[0] == infinities[1]
    known, found = exact(left), exact(right)
    if known is not None and found is not None:
        return known == found or abs(known - found) <= min(slack, relative * max(abs(known), abs(found)))
    try:
        values = [_evaluate(left, {}), _evaluate(right, {})]
        if not _close(values[0], values[1], slack, relative):
            return False
        return not _needs_confirmation(values, slack, relative, True) or _confirmed(left, right, {})
    except (ArithmeticError, ValueError, TypeError):
        return None


def _close(left: Any, right: Any, slack: Fraction = Fraction(0), relative: Fraction = Fraction(0)) -> bool:
    size, gap = max(abs(left), abs(right)), abs(left - right)
    if gap <= _TOLERANCE * size or size < _TOLERANCE:
        return True
    return bool(gap <= float(slack) and gap <= float(relative) * size)


def _needs_confirmation(values: list[Any], slack: Fraction, relative: Fraction, first: bool) -> bool:
    """Whether a gap that is small at DIGITS has to be looked at with more: the first one, and any between tiny values.

    A gap that a decimal allows needs none.
    """
    size, gap = max(map(abs, values)), abs(values[0] - values[1])
    if slack and gap <= float(slack) and gap <= float(relative) * size:
        return False
    return first or bool(size < _TOLERANCE)


def _confirmed(left: Node, right: Node, point: dict[str, Any]) -> bool:
    """Whether two values that agree at DIGITS agree at CONFIRM_DIGITS; True when these exceed the bounds."""
    context = _context()
    digits = CONFIRM_DIGITS_OF_GAMMA if _has_gamma(left) or _has_gamma(right) else CONFIRM_DIGITS
    try:
        coarse = [_evaluate(side, point) for side in (left, right)]
        context.dps = digits
        fine = [_evaluate(side, point) for side in (left, right)]
        negligible = context.mpf(10) ** (-digits * 9 // 10)
        for index, (rough, value) in enumerate(zip(coarse, fine, strict=True)):
            if abs(value) < negligible and abs(value - rough) > _TOLERANCE * abs(value):
                fine[index] = context.mpf(0)  # nothing of it was known before: it is what rounding left
        return bool(abs(fine[0] - fine[1]) <= negligible * max(map(abs, fine)))
    except (ArithmeticError, ValueError, TypeError):
        return True
    finally:
        context.dps = DIGITS


def _has_gamma(node: Node) -> bool:
    return node[0] in ("factorial", "binom") or any(_has_gamma(part) for part in node[1:] if isinstance(part, tuple))


def _coordinate(name: str, index: int, scale: int) -> Any:
    """A point on one axis: three small positive ones, then both signs up to 3 * scale; integers for a scale of 0."""
    noise = zlib.crc32(f"{name}/{index}/{scale}".encode())
    if scale == 0:
        return _context().mpf(2 + noise % 12)
    size = (Fraction(noise % 9973 + 1, 9973) * (1 if index < 3 else 3) + Fraction(1, 64)) * scale
    sign = -1 if index >= 3 and noise & 0x10000 else 1
    return _context().mpf(sign * size.numerator) / size.denominator


def _value_or_none(node: Node, point: dict[str, Any], may_be_complex: bool) -> Any:
    try:
        value = _evaluate(node, point)
    except (ArithmeticError, ValueError, TypeError):
        return None
    if may_be_complex:
        return value
    context = _context()
    if abs(context.im(value)) > _TOLERANCE * max(abs(value), 1):
        return None
    return context.re(value)


_local = threading.local()


def _context() -> Any:
    """mpmath's working precision is state, so every thread has its own."""
    if not hasattr(_local, "context"):
        _local.context = mpmath.MPContext()
        _local.context.dps = DIGITS
    return _local.context


def _exact(node: Node, budget: list[int]) -> Fraction:
    kind = node[0]
    if kind == "num":
        return _bounded(node[1], budget)
    if kind == "neg":
        return -_exact(node[1], budget)
    if kind in ("add", "mul", "div", "pow", "binom"):
        left, right = _exact(node[1], budget), _exact(node[2], budget)
        if kind == "add":
            return _bounded(left + right, budget)
        if kind == "mul":
            return _bounded(left * right, budget)
        if kind == "div":
            return _bounded(left / right, budget)
        if right.denominator != 1:
            raise UndefinedError("not a rational")
        if kind == "pow":
            if _bits(left) * abs(right) > MAX_BITS or (left == 0 and right <= 0):
                raise UndefinedError("out of bounds")
            return _bounded(left ** int(right), budget)
        if left.denominator != 1 or not 0 <= right <= left <= _MAX_FACTORIAL:
            raise UndefinedError("out of bounds")
        return _bounded(Fraction(math.comb(int(left), int(right))), budget)
    if kind in ("factorial", "abs", "floor", "ceil"):
        value = _exact(node[1], budget)
        if kind == "factorial":
            if value.denominator != 1 or not 0 <= value <= _MAX_FACTORIAL:
                raise UndefinedError("out of bounds")
            return _bounded(Fraction(math.factorial(int(value))), budget)
        return abs(value) if kind == "abs" else Fraction(math.floor(value) if kind == "floor" else math.ceil(value))
    raise UndefinedError("not a rational")


def _bits(value: Fraction) -> int:
    return max(value.numerator.bit_length(), value.denominator.bit_length())


def _bounded(value: Fraction, budget: list[int]) -> Fraction:
    budget[0] -= _bits(value)
    if _bits(value) > MAX_BITS or budget[0] < 0:
        raise UndefinedError("out of bounds")
    return value


def _evaluate(node: Node, point: dict[str, Any]) -> Any:
    """The value at a point, as an mpmath number; `UndefinedError`, `ArithmeticError` or `ValueError` without one."""
    context, kind = _context(), node[0]
    if kind == "num":
        return context.mpf(node[1].numerator) / node[1].denominator
    if kind == "var":
        return point[node[1]]
    if kind == "const":
        if node[1] == "infty":
            raise UndefinedError("infinite")
        return {"pi": context.pi, "e": context.e, "i": context.j}[node[1]] * 1
    operands = [_evaluate(part, point) for part in node[1:]]
    value = _apply(context, kind, operands)
    if not context.isfinite(value) or context.mag(abs(value)) > MAX_MAGNITUDE:
        raise UndefinedError("out of bounds")
    return value


def _apply(context: Any, kind: str, operands: list[Any]) -> Any:
    first, last = operands[0], operands[-1]
    if kind == "add":
        return first + last
    if kind == "neg":
        return -first
    if kind == "mul":
        return first * last
    if kind == "div":
        return first / last
    if kind == "pow":
        return _power(context, first, last)
    if kind == "root":
        return _root(context, first, last)
    if kind == "abs":
        return abs(first)
    if kind in ("floor", "ceil"):
        return getattr(context, kind)(_real(context, first))
    if kind == "log":
        return context.log(last) / context.log(first)
    if kind in ("ln", "log10"):
        return context.log(first) if kind == "ln" else context.log10(first)
    if max(_size(context, operand) for operand in operands) > _MAX_ARGUMENT_BITS:
        raise UndefinedError("out of bounds")
    if kind in ("factorial", "binom"):
        if max(abs(operand) for operand in operands) > _MAX_FACTORIAL:
            raise UndefinedError("out of bounds")
        return context.factorial(first) if kind == "factorial" else context.binomial(first, last)
    return getattr(context, kind)(first)


def _power(context: Any, base: Any, exponent: Any) -> Any:
    if base == 0:
        if context.re(exponent) <= 0:
            raise UndefinedError("zero to a power that is not positive")
        return context.mpf(0)
    if _size(context, exponent) > 18 or abs(exponent) * abs(_size(context, base)) > MAX_MAGNITUDE:
        raise UndefinedError("out of bounds")
    return context.power(base, exponent)


def _root(context: Any, degree: Any, value: Any) -> Any:
    """The principal root; of a negative number and an odd degree the real one."""
    if degree == 0:
        raise UndefinedError("a root of degree zero")
    real = context.im(value) == 0 and context.re(value) < 0
    if real and context.im(degree) == 0 and context.re(degree) % 2 == 1:
        return -_power(context, -context.re(value), 1 / degree)
    return _power(context, value, 1 / degree)


def _size(context: Any, value: Any) -> int:
    """The binary exponent of a number; 0 for zero."""
    return int(context.mag(abs(value))) if value != 0 else 0


def _real(context: Any, value: Any) -> Any:
    if abs(context.im(value)) > _TOLERANCE:
        raise UndefinedError("not real")
    return context.re(value)
