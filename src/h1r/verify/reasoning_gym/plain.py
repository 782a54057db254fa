"""Answers whose score needs no scorer of the library: a comparison of two texts, which ends in linear time anywhere.

    the library's default   1 for the reference itself, and the share of an answer that is the reference in it
    chain_sum               the same, and 1 for the same number written otherwise: +01,000.00 for 1000
    spell_backward          1 but for capitals, and the share of letters that stand in their place

A process for each answer costs ten milliseconds; a comparison costs some microseconds. The scores are the library's to
the bit (the tests compare them). What is not decided here goes to a process of its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal

from h1r.records import Problem, Verdict
from h1r.response.extract import stated_box
from h1r.verify.reasoning_gym.grade import MAX_CHARS, best_of, candidates, family_of

BY_DEFAULT = frozenset(
    (
        *("aiw", "arc_1d", "base_conversion", "basic_arithmetic", "bf", "binary_alternation", "caesar_cipher"),
        *("count_bits", "count_primes", "course_schedule", "gcd", "isomorphic_strings", "largest_island", "lcm"),
        *("leg_counting", "letter_counting", "maze", "modulo_grid", "number_filtering", "number_sequence"),
        *("ransom_note", "rotate_matrix", "rotten_oranges", "simple_equations", "simple_geometry"),
        *("string_manipulation", "string_splitting", "string_synthesis", "syllogism", "word_sequence_reversal"),
    )
)
"""Families with the library's default scorer."""
_NUMBER = re.compile(r"[+-]?[0-9]{1,40}(?:\.[0-9]{0,40})?")


def quick(problem: Problem, answer: str) -> Verdict | None:
    """The verdict of `grade`, where a comparison of texts gives it; None for what wants the family's scorer."""
    entry = problem.metadata.get("entry")
    if not isinstance(entry, dict) or not isinstance(entry.get("answer"), str):
        return None
    family = family_of(problem, entry)
    compare = _by_default if family in BY_DEFAULT else _COMPARE.get(family)
    boxed = stated_box(answer) if compare else None
    if compare is None or boxed is None or max(len(boxed), len(entry["answer"])) > MAX_CHARS:
        return None
    scores = [compare(one, entry["answer"]) for one in candidates(boxed)]
    decided = [value for value in scores if value is not None]
    return best_of(decided, boxed) if len(decided) == len(scores) else None


def _by_default(answer: str, reference: str) -> float:
    if answer == reference:
        return 1.0 if answer else 0.0
    return len(reference) / len(answer) if answer and reference in answer else 0.0


def _decimal(answer: str, reference: str) -> float | None:
    bare, wanted = answer.replace(",", ""), reference.replace(",", "")
    if not _NUMBER.fullmatch(bare) or not _NUMBER.fullmatch(wanted):
        return None
    if Decimal(bare) == Decimal(wanted):
        return 1.0
    return len(wanted) / len(bare) if wanted in bare else 0.0


def _backward(answer: str, reference: str) -> float:
    wanted, given = reference.lower(), answer.lower()
    if wanted == given:
        return 1.0
    score = 0.0
    for one, other in zip(wanted, given, strict=False):
        if one == other:
            score += 1 / len(wanted)
    return score - 0.2 if score == 1.0 else score


_COMPARE: dict[str, Callable[[str, str], float | None]] = {"chain_sum": _decimal, "spell_backward": _backward}
