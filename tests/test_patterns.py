"""Every regular expression of the package takes time linear in the text, whatever the text, and little of it.

Each is tried on texts made from its own structure (`pumped`), by the methods that the code uses (`pattern_uses`). It is
given 50 ms for a megabyte, or for the longest text that it meets, where that is shorter. What a text costs is processor
time, the least of three, so that a busy machine changes little; a slow one may take as much longer as it does for a
scan that is known to be linear, measured in between.

An analyser of ambiguous quantifiers (regexploit 1.0) does not read possessive ones and atomic groups, which is what
makes most of these linear.
"""

from __future__ import annotations

import re
import time
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from h1r.mathematics.read import _ALTERNATIVE, _JOIN, _SIGN
from h1r.mathematics.text import _BRACKET
from machine import slowness
from pattern_uses import calls, hidden_engines, live, names_of_modules
from pumped import TooSlowError, attacks, limited

SCREENED_CHARS = 300
"""As many find out each of `slow_patterns.txt`."""
GROWN_CHARS = 100_000
FULL_CHARS = 1_000_000
LIMIT_S = 0.05
"""For a megabyte, on a machine of slowness 1."""
PER_MATCH_S = 5e-7
"""What an object for a match costs, with the loop around it."""
KEPT = 6
SURELY_TOO_SLOW_S = 3.0
"""For 100,000 characters; a linear one takes thousandths."""

FROM_FUNCTIONS: dict[tuple[str, str], tuple[str, ...]] = {
    ("data.control_tokens", "f'({markers})'"): (r"(<\|im_start\|>|<\|im_end\|>|</s>|<s>)",),
    ("data.control_tokens", "f'{markers}|{_ESCAPE}'"): (r"<\|im_start\|>|<\|im_end\|>|</s>|<s>|\U0010fffd",),
    ("data.curate.io.read", "self._pattern"): (),
    ("data.dedup", "_WORD"): (),
    ("data.solvers.stories", "pattern"): (
        r"\b(\w++) is married to (\w++)\.(?: They have (?:a child|children) called ([^.]+)\.)?",
    ),
    ("sandbox.pytest_names", "pattern"): (),
    ("sandbox.pytest_names", "self._match"): (),
    ("verify.code.extract", "pattern"): (),
    (
        "verify.code.sources",
        "f'^(?:(?:async\\\\s+)?def|class)\\\\s+{re.escape(name)}\\\\b|^{re.escape(name)}\\\\s*[:=]'",
    ): (r"^(?:(?:async\s+)?def|class)\s+solve\b|^solve\s*[:=]",),
    ("verify.controls.answers", "f'(?<![\\\\d.]){value.numerator}(?![\\\\d]|\\\\.\\\\d)'"): (
        r"(?<![\d.])12(?![\d]|\.\d)",
    ),
    ("verify.judge.forms", "line"): (),
    ("verify.judge.forms", "anywhere"): (),
    ("verify.judge.forms", "bare"): (),
    ("verify.instructions.corrections", "f'(?<!\\\\w){re.escape(keyword)}(?!\\\\w)'"): (r"(?<!\w)word(?!\w)",),
    ("mathematics.forms", "pattern"): (),
    ("mathematics.text", "f'({separator})|{_BRACKET.pattern}'"): tuple(
        f"({separator})|{_BRACKET.pattern}"
        for separator in (_ALTERNATIVE, _JOIN, _SIGN, "[,;]", "[+-]", r"\\(?:cup|in)(?![A-Za-z])")
    ),
}
"""Expressions made when a function is called: examples of them. None for a part of another expression, for one that is
compiled where the module is imported, for the operator's own in a configuration, and for what tested code gives to a
stand-in for `pytest` inside of its sandbox."""

METHODS = (
    (r"mathematics.qualifiers:_STATEMENTS", "fullmatch"),
    (r"verify.judge.forms:FORMS.*\((?:line|bare)_\)", "fullmatch"),
    (r"verify.judge.forms:FORMS.*\(anywhere_\)", "finditer"),
)
"""How those are used that the sources call by other names; any other is searched for."""

MOST_CHARS = (
    (r"verify.judge.forms:FORMS.*\((?:line|bare)_\)", 400, "a line of a judge's reply"),
    ("verify.controls.plain:", 4_000, "a control or a reference (MAX_PLAIN_CHARS)"),
    ("verify.judge.forms:", 100_000, "a judge's reply (_MAX_REPLY_CHARS)"),
    ("mathematics.(?:extract|sentences|cues):", 3_000, "the end of an answer (extract.TAIL)"),
    ("verify.choice.statements:_(?!LABEL|SENTENCE|STOP)", 16, "the classes of the words beside a letter"),
    ("verify.choice.", 40_002, "the beginning and the end of an answer (text.WINDOW)"),
    ("verify.code.extract:_SHOWS", 100_400, "the first lines of a program, each cut"),
    ("verify.code.", 400_000, "a program (grade.MAX_CODE_CHARS)"),
    ("verify.judge.", 200_000, "what fits a judge's context, and its reply"),
    ("mathematics.qualifiers:_STATEMENTS", 200, "the end of an answer (MAX_QUALIFIER_CHARS)"),
    ("mathematics.clean:_ANGLED ", 2_000, "an answer (text.MAX_CHARS)"),
    (
        "mathematics.",
        22_000,
        "an answer (text.MAX_CHARS), each character of which may become eleven, or the end of one",
    ),
    ("verify.reasoning_gym.formula:", 2_000, "an answer in a process that is killed (formula.MAX_CHARS)"),
    ("verify.reasoning_gym.grade:_EVALUATION", 800, "a module's source, never an answer"),
    ("verify.instructions.", 400_000, "an answer in a process of its own, which is killed"),
    ("data.solvers.", 100_000, "an equation of a problem"),
    ("response.extract:_BOX match", 10_000, "a box without braces, which ends after 60 characters"),
    ("response.extract:_PART", 160_000, "what stands before the last boxes"),
    ("response.extract:_LISTS", 10_000, "what stands between two boxes (MAX_BOXED_CHARS)"),
    ("response.withdrawn:", 120, "what stands beside a box"),
    ("response.language:_NO_PROSE", 400_001, "the beginning and the end of a response (MAX_CHARS)"),
    ("response.repetition:_PIECE", 180_000, "the end of a response"),
    ("verify.gradable:", 20_000, "the beginning of a question or a reference (MAX_CHARS)"),
    ("models.checkpoint:model.*", 255, "the name of a file"),
)
"""The longest text that expressions meet: the first entry that their name begins with. Others may meet anything."""
CURATED = (
    "data.",
    "verify.gradable:",
    "verify.controls.",
    "report.",
    "model.",
    "records:",
    "recipe_text:",
    "config.",
    "engine.",
)
"""These meet data sets and files of the user's own choice, no model's text: linear, and five times as long at most."""


def run(pattern: re.Pattern[str], method: str, text: str) -> int:
    """Uses an expression; the number of objects that were made for its matches."""
    if method in ("match", "search", "fullmatch"):
        getattr(pattern, method)(text)
        return 1
    return sum(1 for _ in pattern.finditer(text))


def measured(pattern: re.Pattern[str], method: str, text: str, clock: Any = time.process_time) -> float:
    """Seconds, without what the matches themselves cost."""
    began = clock()
    matches = run(pattern, method, text)
    return clock() - began - matches * PER_MATCH_S


def _methods(place: str) -> set[str]:
    return {method for known, method in METHODS if re.match(known, place)}


@cache
def everything() -> dict[str, tuple[re.Pattern[str], str]]:
    """(expression, method) by name; methods that find all matches count as one."""
    found = {place: (used.pattern, _methods(place) or used.methods) for place, used in live().items()}
    known = {(pattern.pattern, pattern.flags) for pattern, _ in found.values()}
    for call in calls():
        texts = FROM_FUNCTIONS.get((call.place, call.source), ()) if call.literal is None else (call.literal,)
        for text in texts:
            pattern = re.compile(text, call.flags)
            if (pattern.pattern, pattern.flags) not in known:
                methods = {"search"} if call.method == "compile" else {call.method}
                found[f"{call.place}:{text[:40]}"] = pattern, methods
    one = {"match", "search", "fullmatch"}
    return {
        f"{place} {method}": (pattern, method)
        for place, (pattern, methods) in found.items()
        for method in sorted({method if method in one else "finditer" for method in methods})
    }


def of_module(module: str) -> dict[str, tuple[re.Pattern[str], str]]:
    return {name: found for name, found in everything().items() if name.partition(":")[0] == module}


def test_each_expression_belongs_to_a_module_that_is_tried() -> None:
    assert {name.partition(":")[0] for name in everything()} <= set(names_of_modules())
    assert len(everything()) > 500, "expressions are not found any more"


def test_no_expression_is_made_where_this_test_does_not_look() -> None:
    assert not hidden_engines()
    unknown = {
        (call.place, call.source): call
        for call in calls()
        if call.literal is None and call.deferred and (call.place, call.source) not in FROM_FUNCTIONS
    }
    assert not unknown, "give examples of these in FROM_FUNCTIONS"


def longer(attack: tuple[str, str, str], chars: int) -> str:
    prefix, pump, suffix = attack
    return prefix + pump * (chars // len(pump)) + suffix


def worst_attacks(
    pattern: re.Pattern[str], method: str, chars: int, limit_s: float = 10.0
) -> list[tuple[str, str, str]]:
    """Those that take longest on short texts, by a clock that is fine and, on a busy machine, wrong: it only sorts."""
    costs: list[tuple[float, tuple[str, str, str]]] = []
    attack = ("", "", "")
    try:
        with limited(limit_s):
            for attack in attacks(pattern):
                text = longer(attack, chars)
                cost = measured(pattern, method, text, time.perf_counter)
                if len(costs) < KEPT or cost > costs[-1][0]:
                    cost = min(cost, measured(pattern, method, text, time.perf_counter))
                    costs = sorted([*costs, (cost, attack)], key=lambda item: -item[0])[:KEPT]
    except TooSlowError:
        pytest.fail(f"{pattern.pattern[:80]} does not end on {attack}")
    return [attack for _, attack in costs]


def most_chars(name: str) -> int:
    return next((chars for place, chars, _ in MOST_CHARS if re.match(place, name)), FULL_CHARS)


def too_slow(name: str) -> str | None:
    """What an expression takes too long on."""
    pattern, method = everything()[name]
    most = most_chars(name)
    limit = LIMIT_S * (5 if name.startswith(CURATED) else 1)
    costs: dict[tuple[str, str, str], float] = {}
    for attack in worst_attacks(pattern, method, min(SCREENED_CHARS, most)):
        try:
            with limited(SURELY_TOO_SLOW_S):
                costs[attack] = measured(pattern, method, longer(attack, min(GROWN_CHARS, most)))
        except TooSlowError:
            return f"{min(GROWN_CHARS, most)} characters take more than {SURELY_TOO_SLOW_S} s: {attack}"
    worst = max(costs, key=lambda attack: costs[attack])
    if costs[worst] * most / min(GROWN_CHARS, most) < limit / 2:
        return None
    text = longer(worst, most)
    with limited(60.0):
        cost, slower = min((measured(pattern, method, text), slowness()) for _ in range(3))
    return None if cost <= limit * slower else f"{cost * 1000:.0f} ms for {most} characters: {worst}"


@pytest.mark.parametrize("module", names_of_modules())
def test_expressions_are_linear_and_fast_on_what_was_made_against_them(module: str) -> None:
    slow = {name: told for name in of_module(module) if (told := too_slow(name))}
    assert not slow


def slow_ones() -> list[tuple[str, str]]:
    lines = (Path(__file__).parent / "data" / "slow_patterns.txt").read_text(encoding="utf-8").splitlines()
    return [tuple(line.split(" ", 1)) for line in lines if line and not line.startswith("#")]  # type: ignore[misc]


@pytest.mark.parametrize(("method", "text"), slow_ones())
def test_an_expression_that_is_not_linear_is_found_out(method: str, text: str) -> None:
    pattern = re.compile(text)
    try:
        found = worst_attacks(pattern, method, SCREENED_CHARS, limit_s=0.5)
        with limited(KEPT * LIMIT_S):  # then one of them took longer than LIMIT_S
            costs = [measured(pattern, method, longer(attack, 40_000)) for attack in found]
    except (TooSlowError, pytest.fail.Exception):
        return
    assert max(costs) > LIMIT_S
