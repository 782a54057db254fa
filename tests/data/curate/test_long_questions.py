"""A question of any length and shape costs time linear in it."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from h1r.common.reading import clean
from h1r.data.curate.joins.keys import exact_keys
from h1r.data.curate.rules.decontaminate import HeldOutIndex
from h1r.data.curate.rules.dedup import shingles
from h1r.records import Problem

HELD_OUT = HeldOutIndex([Problem("h", "How many of the 12 hens lay 3 eggs on each of the 7 days of a week?", "1")])
RULES: dict[str, Callable[[str], object]] = {
    "clean": clean,
    "exact keys": lambda text: exact_keys(Problem("q", text, "1")),
    "shingles": shingles,
    "overlaps": lambda text: HELD_OUT.overlaps(Problem("q", text, "1")),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("unit", ["x", "{", "2 ", "word 7, ", "12 hens lay 3 eggs ", "1,000", "\r\n", "鸡"])
def test_eight_times_the_question_is_about_eight_times_the_work(rule: str, unit: str) -> None:
    def seconds(size: int) -> float:
        text = unit * (size // len(unit))
        began = time.process_time()
        RULES[rule](text)
        return time.process_time() - began

    small = min(seconds(20_000) for _ in range(3))
    large = min(seconds(160_000) for _ in range(2))
    assert large < 4 * 8 * max(small, 0.002)
