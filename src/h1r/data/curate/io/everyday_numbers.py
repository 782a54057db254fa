"""Numbers of generated problems as people have them, for the families whose numbers the library makes otherwise.

    chain_sum, products    each number has `min_digits` to `max_digits` of its own; all of one problem have the same in
                           reasoning-gym, and a small model that learnt from these reads 42 - 7 as 42 - 70
    number_sorting         whole numbers without `.0`

Each takes an entry of the library, its config and a seed, and returns the entry of another problem of the same form.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable
from typing import Any

Entry = dict[str, Any]


def _chain_sum(entry: Entry, config: Any, seed: int) -> Entry:
    signs = re.findall(r" ([+-]) ", entry["metadata"]["expression"])
    numbers = _numbers(len(signs) + 1, config, seed)
    signed = list(zip(signs, numbers[1:], strict=True))
    expression = " ".join([str(numbers[0]), *(f"{sign} {number}" for sign, number in signed)])
    total = numbers[0] + sum(number if sign == "+" else -number for sign, number in signed)
    return _with_expression(entry, expression, total)


def _products(entry: Entry, config: Any, seed: int) -> Entry:
    factors = _numbers(entry["metadata"]["expression"].count("*") + 1, config, seed)
    return _with_expression(entry, " * ".join(map(str, factors)), math.prod(factors))


def _numbers(count: int, config: Any, seed: int) -> list[int]:
    """seed: not that of the entry, whose first draw decides how many numbers there are, and would decide the length of
    the first one too."""
    rng = random.Random(seed)
    return [_number_of(rng.randint(config.min_digits, config.max_digits), rng) for _ in range(count)]


def _number_of(digits: int, rng: random.Random) -> int:
    return rng.randint(0 if digits == 1 else 10 ** (digits - 1), 10**digits - 1)


def _with_expression(entry: Entry, expression: str, value: int) -> Entry:
    metadata = {key: kept for key, kept in entry["metadata"].items() if key != "num_digits"}
    return {
        "question": entry["question"].replace(entry["metadata"]["expression"], expression),
        "answer": str(value),
        "metadata": {**metadata, "expression": expression},
    }


def _number_sorting(entry: Entry, config: Any, seed: int) -> Entry:
    metadata = entry["metadata"]
    numbers, ordered = ([_whole(number) for number in metadata[key]] for key in ("original_numbers", "sorted_numbers"))
    asked, listed = (", ".join(written) for written in (metadata["original_numbers"], numbers))
    return {
        "question": entry["question"].replace(asked, listed),
        "answer": str(ordered),
        "metadata": {**metadata, "original_numbers": numbers, "sorted_numbers": ordered},
    }


def _whole(number: str) -> str:
    return "0" if number == "-0.0" else number.removesuffix(".0")


EVERYDAY_NUMBERS: dict[str, Callable[[Entry, Any, int], Entry]] = {
    "chain_sum": _chain_sum,
    "products": _products,
    "number_sorting": _number_sorting,
}
"""By family."""
