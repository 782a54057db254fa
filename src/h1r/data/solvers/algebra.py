"""simple_equations (one unknown, linear) and simple_geometry (the missing angle of a polygon)."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

from h1r.data.solvers.base import Worked, add_lines, shuffled
from h1r.records import Problem


def simple_equations(problem: Problem, rng: random.Random) -> Iterator[Worked]:
    """`20*h + 65 = 1485`: bare arithmetic; with the unknown written; constant moved by sign; with a check."""
    found = re.search(r"(?:^|: )([^:=]*) = (-?\d+)$", problem.question.strip())
    if found is None:
        return
    parsed = _linear(found.group(1))
    right = int(found.group(2))
    if parsed is None or parsed[0] == 0 or (right - parsed[2]) % parsed[0]:
        return
    slope, name, constant = parsed
    moved = right - constant
    value = moved // slope
    answer = str(value)
    move = add_lines(right, -constant) if constant else []
    divide = [f"{moved} / {slope} = {value}"] if slope != 1 else []
    check = f"{slope} * {value} = {slope * value}"
    yield Worked(move + divide or [f"{name} = {value}"], answer)
    term = _term(slope, name)
    yield Worked([*move, f"{term} = {moved}", f"{name} = {value}"] if constant else [f"{name} = {value}"], answer)
    if slope != 1:
        yield Worked([*move, *divide, check], answer)
    if slope < 0:
        back = add_lines(constant, -right) if constant else [f"{-slope}*{name} = {-moved}"]
        yield Worked([*back, f"{-moved} / {-slope} = {value}"], answer)
    if constant:
        yield Worked(
            [*move, *divide, f"{slope * value} {'-' if constant < 0 else '+'} {abs(constant)} = {right}"], answer
        )


def _linear(side: str) -> tuple[int, str, int] | None:
    """(slope, unknown, constant) of a side like `65 - 20*h`; None when it is something else."""
    slope, constant, name = 0, 0, ""
    compact = side.replace(" ", "")
    if not re.fullmatch(r"[+-]?(?:\d+\*)?(?:\d+|[a-z])(?:[+-](?:\d+\*)?(?:\d+|[a-z]))*", compact):
        return None
    for sign, factor, body in re.findall(r"([+-]?)(?:(\d++)\*)?(\d++|[a-z])", compact):
        size = int(factor or 1) * (-1 if sign == "-" else 1)
        if body.isdigit():
            constant += size * int(body)
        elif name not in ("", body):
            return None
        else:
            name, slope = body, slope + size
    return (slope, name, constant) if name else None


def _term(slope: int, name: str) -> str:
    return {1: name, -1: f"-{name}"}.get(slope, f"{slope}*{name}")


def simple_geometry(problem: Problem, rng: random.Random) -> Iterator[Worked]:
    """The sum (n - 2) * 180 less the known angles: summed first, or taken off one by one, in any order."""
    sides = re.search(r"(?<!\d)(\d++)(?:-gon| sides)", problem.question)
    angles = re.findall(r"(?<!\d)(\d++)\.0°", problem.question)
    if sides is None or len(angles) != int(sides.group(1)) - 1:
        return
    n = int(sides.group(1))
    known = [int(angle) for angle in angles]
    whole = 180 * (n - 2)
    answer = str(whole - sum(known))
    head = f"{n - 2} * 180 = {whole}"
    yield Worked([head, *_plain_sum(known), f"{whole} - {sum(known)} = {answer}"], answer)
    yield Worked([head, *_plain_sum([whole, *(-angle for angle in known)])], answer)
    while True:
        order = shuffled(known, rng)
        yield Worked([head, *_plain_sum(order), f"{whole} - {sum(known)} = {answer}"], answer)
        yield Worked([head, *_plain_sum([whole, *(-angle for angle in order)])], answer)


def _plain_sum(terms: list[int]) -> list[str]:
    """A running sum of angles, one line each: three digits at most, so not by places."""
    lines = []
    total = terms[0]
    for term in terms[1:]:
        lines.append(f"{total} {'-' if term < 0 else '+'} {abs(term)} = {total + term}")
        total += term
    return lines
