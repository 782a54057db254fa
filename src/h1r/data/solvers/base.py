"""What a solver is, and the arithmetic lines that several of them share.

A solver reads a problem and yields worked solutions of it, the plainest first, further ones in other orders or
decompositions drawn from `rng`. It computes from the question, never from the reference answer, so a wrong reference
shows up as a disagreement instead of being explained away. What it cannot read or does not trust it leaves unsolved by
yielding nothing.

Lines are short and regular, one small step each, without words that carry nothing: a model of a million parameters has
to learn the form from scratch.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from h1r.records import Problem

PLACE_FROM = 10
"""From this size on, both operands, an addition is written place by place."""


class Worked(NamedTuple):
    """The steps, one per line, and the final answer as text for a `\\boxed{}`."""

    lines: list[str]
    answer: str


Solver = Callable[[Problem, random.Random], Iterator[Worked]]


def places(number: int) -> list[int]:
    """The non-zero decimal places of a number, largest first, with its sign: -205 -> [-200, -5]; 0 -> [0]."""
    sign = -1 if number < 0 else 1
    digits = str(abs(number))
    parts = [sign * int(digit) * 10 ** (len(digits) - 1 - at) for at, digit in enumerate(digits) if digit != "0"]
    return parts or [0]


def _parts(total: int, term: int) -> list[int]:
    return places(term) if min(abs(total), abs(term)) >= PLACE_FROM else [term]


def _signed(number: int) -> str:
    """`+ 7` or `- 7`, as it follows another number."""
    return f"{'-' if number < 0 else '+'} {abs(number)}"


def add_lines(total: int, term: int) -> list[str]:
    """`total + term` as lines `a + b = c` or `a - b = c`, place by place when both are large."""
    lines = []
    for part in _parts(total, term):
        lines.append(f"{total} {_signed(part)} = {total + part}")
        total += part
    return lines


def sum_lines(terms: Sequence[int]) -> list[str]:
    """A running sum of signed terms; no line for a single term."""
    lines: list[str] = []
    total = terms[0]
    for term in terms[1:]:
        lines += add_lines(total, term)
        total += term
    return lines


def told_sum_lines(terms: Sequence[int]) -> list[str]:
    """A running sum of signed terms, each line with what is still to be added: `12 + 30 = 42, then + 4 - 7`, and in the
    last `then nothing`. Without it a small model loses count where numbers have different lengths: it adds one twice,
    or not at all, or goes on as an equation would."""
    lines: list[str] = []
    total, *left = terms
    while left:
        part, *more = _parts(total, left[0])
        left[:1] = [sum(more)] if more else []
        then = "".join(f" {_signed(term)}" for term in left)
        lines.append(f"{total} {_signed(part)} = {total + part}, then{then or ' nothing'}")
        total += part
    return lines


def product_lines(a: int, b: int, ascending: bool = False) -> list[str]:
    """`a * b`: one line for a single digit times a single digit or a round number, else by the places of one factor.

    The places are those of `b` when it has several, else those of `a`; `ascending` starts with the units.
    """
    by_second = len(places(b)) > 1
    parts = places(b if by_second else a)
    if len(parts) == 1:
        return [f"{a} * {b} = {a * b}"]
    if ascending:
        parts.reverse()
    if by_second:
        lines = [f"{a} * {part} = {a * part}" for part in parts]
        return lines + sum_lines([a * part for part in parts])
    lines = [f"{part} * {b} = {part * b}" for part in parts]
    return lines + sum_lines([part * b for part in parts])


def shuffled(items: Sequence[int], rng: random.Random) -> list[int]:
    """A shuffled copy."""
    copy = list(items)
    rng.shuffle(copy)
    return copy
