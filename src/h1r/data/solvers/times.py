"""time_intervals: clock times, dates, and dates with times and offsets from UTC."""

from __future__ import annotations

import calendar
import random
import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta

from h1r.data.solvers.base import Worked
from h1r.records import Problem


def time_intervals(problem: Problem, rng: random.Random) -> Iterator[Worked]:
    """How long from start to end, in the form that the question asks for. An end before the start is left unsolved."""
    form = re.search(r"in ((?:D days(?:, )?)?(?:HH:MM(?::SS(?:\.mmm)?)?)?)\.$", problem.question)
    if form is None:
        return
    if "D days" in form.group(1):
        yield from _with_dates(problem, form.group(1))
        return
    clocks = re.findall(r"(\d\d:\d\d(?::\d\d(?:\.\d{3})?)?)", problem.question)
    if len(clocks) == 2 and clocks[0] <= clocks[1]:
        yield from _clock(*clocks)


_UNITS = (("ms", 1000), ("s", 60), ("min", 60), ("h", 24))


def _fields(clock: str) -> list[int]:
    """Milliseconds, seconds, minutes, hours of `HH:MM[:SS[.mmm]]`, smallest first, as many as are given."""
    return [int(part) for part in re.split(r"[:.]", clock)][::-1]


def _form(fields: list[int]) -> str:
    """The way back: 3, 22, 3 -> `03:22:03`."""
    text = ":".join(f"{value:02d}" for value in fields[::-1][:3])
    return f"{text}.{fields[0]:03d}" if len(fields) == 4 else text


def _clock(start: str, end: str) -> Iterator[Worked]:
    first, last = _fields(start), _fields(end)
    units = _UNITS[4 - len(first) :] if len(first) != 2 else _UNITS[2:]
    lines, result = _borrowing(first, last, units)
    yield Worked(lines, _form(result))
    yield Worked(_in_small_units(start, end, first, last, units, result), _form(result))
    yield Worked([f"{_form(last)} - {_form(first)}", *lines], _form(result))


def _borrowing(first: list[int], last: list[int], units: tuple[tuple[str, int], ...]) -> tuple[list[str], list[int]]:
    """Unit by unit from the smallest; a negative difference borrows one of the next unit."""
    lines, result, borrow = [], [], 0
    for (name, size), a, b in zip(units, first, last, strict=True):
        value = b - a - borrow
        line = f"{name}: {b} - {a}{' - 1' if borrow else ''} = {value}"
        borrow = int(value < 0)
        if borrow:
            value += size
            line += f" + {size} = {value}"
        lines.append(line)
        result.append(value)
    return lines, result


def _in_small_units(
    start: str, end: str, first: list[int], last: list[int], units: tuple[tuple[str, int], ...], result: list[int]
) -> list[str]:
    """Both clocks in the smallest unit, their difference, and back."""
    weights = [1]
    for _, size in units[:-1]:
        weights.append(weights[-1] * size)
    a, b = (sum(value * weight for value, weight in zip(clock, weights, strict=True)) for clock in (first, last))
    back = " + ".join(f"{value} * {weight}" for value, weight in zip(result[::-1], weights[::-1], strict=True))
    return [f"{start} = {a} {units[0][0]}", f"{end} = {b} {units[0][0]}", f"{b} - {a} = {b - a}", f"{b - a} = {back}"]


def _with_dates(problem: Problem, form: str) -> Iterator[Worked]:
    entry = problem.metadata.get("entry", {}).get("metadata", {})
    if "start_time" not in entry or "end_time" not in entry:
        return
    start, end = (datetime.fromisoformat(entry[key]) for key in ("start_time", "end_time"))
    head: list[str] = []
    if start.tzinfo is not None and end.tzinfo is not None:
        for moment in (start, end):
            offset = moment.strftime("%z")
            head.append(f"{_moment(moment)} {offset} = {_moment(_utc(moment))} UTC")
        start, end = _utc(start), _utc(end)
    if end < start:
        return
    gap = end - start
    if form == "D days":
        answer = f"{gap.days} days"
        for steps in (_by_months, _by_day_of_year):
            yield Worked(steps(start.date(), end.date()), answer)
        return
    size = 3 if form.endswith("SS") else 2
    seconds = size == 3 or bool(start.second or end.second)
    first, last = ([t.second, t.minute, t.hour][0 if seconds else 1 :] for t in (start, end))
    lines, result = _borrowing(first, last, _UNITS[1:] if seconds else _UNITS[2:])
    days = (end.date() - start.date()).days
    tail = [f"{days} - 1 = {gap.days}"] if gap.days < days else []
    clock = _form(result if size == len(result) else result[1:])
    for steps in (_by_months, _by_day_of_year):
        yield Worked([*head, *steps(start.date(), end.date()), *lines, *tail], f"{gap.days} days, {clock}")


def _utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(tzinfo=None)


def _moment(moment: datetime) -> str:
    return f"{moment:%m-%d %H:%M}"


def _by_months(start: date, end: date) -> list[str]:
    """Whole years and months from the first of the start's month, then the days of the month."""
    lines, at, total = [], start.replace(day=1), 0
    while (at.year, at.month) != (end.year, end.month):
        if at.month == 1 and at.year < end.year:
            days, name, at = 365 + calendar.isleap(at.year), str(at.year), at.replace(year=at.year + 1)
        else:
            days, name = calendar.monthrange(at.year, at.month)[1], f"{at:%b}"
            at = (at + timedelta(days=31)).replace(day=1)
        total += days
        lines.append(f"{name} {days}: {total}")
    here = total + end.day - start.day
    sign = f"{total} + {end.day} - {start.day}" if total else f"{end.day} - {start.day}"
    return [*lines, f"{sign} = {here}"]


def _by_day_of_year(start: date, end: date) -> list[str]:
    """Both as days of their year, with the years between."""
    lines, total = [], 0
    for year in range(start.year, end.year):
        total += 365 + calendar.isleap(year)
        lines.append(f"{year} {365 + calendar.isleap(year)}: {total}")
    first, last = start.timetuple().tm_yday, end.timetuple().tm_yday
    lines += [f"{start:%b} {start.day} = {first}", f"{end:%b} {end.day} = {last}"]
    sum_of = f"{total} + {last} - {first}" if total else f"{last} - {first}"
    return [*lines, f"{sum_of} = {total + last - first}"]
