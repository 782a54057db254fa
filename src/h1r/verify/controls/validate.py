"""Which problems are refused, from the verdicts on their controls; and what a family's controls say together.

Graded in batches, by whatever grades answers. A problem is refused when

    its reference does not score 1                          (asked here with `references=True`)
    a control earns that is not its reference               another item's answer, which may be right by chance, only
                                                            where the answers of further items earn too
A family (verifier and `Problem.family`) is refused as a whole when

    one answer is right for more than `constant_share` of its items, be it their reference or not
    one control earns for more than `share` of the items whose reference it is not, and the scorer is the family's own

Shares are taken at the lower end of their 95 % interval and for `min_items` items or more, so that a few items condemn
no family: 14 of 20 items with the answer "yes" are no reason against a family of questions answered by yes or no.

An item gets `per_item` of its controls, by its id. One with tests, instructions or options of its own gets all of them,
and so does each of a batch of 64 or fewer. A control that earns anywhere is then asked of all of its family there.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from h1r.config.verify import ControlsSection
from h1r.mathematics.options import Options
from h1r.records import Problem, Verdict
from h1r.verify.code.problem_tests import StdinTests, TestsError, parse_tests
from h1r.verify.controls.answers import (
    ANOTHER,
    CONSTANTS,
    LETTER,
    Control,
    chosen,
    controls_of,
    reference_text,
    stated,
)
from h1r.verify.controls.plain import plain, same_answer
from h1r.verify.registry import require

Ask = Callable[[Sequence[Problem], Sequence[str]], list[Verdict]]
SMALL = 64
"""Items of a batch that is so small that each gets all of its controls."""
FURTHER = 3
"""Answers of further items that are asked where another item's answer earned."""
LOOK_AHEAD = 32
"""Items that are looked at for a reference that is not the same."""
MAX_ANSWERS = 16
"""Reference answers of a family that are counted, the most frequent ones."""
OPTIONS = frozenset(Options.__dataclass_fields__)
MAX_ANSWER_CHARS = 80


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a problem is refused: `reason` is one of few phrases, `detail` the particulars."""

    reason: str
    detail: str


@dataclass(slots=True)
class FamilyTally:
    """Counts of one family: items, refused ones, reference answers, and for each control [asked, earned, reference].

    Of the items where a control is the reference, or may be right, it is counted in the third place alone.
    """

    items: int = 0
    refused: int = 0
    controls: dict[str, list[int]] = field(default_factory=dict)
    answers: Counter[str] = field(default_factory=Counter)

    def best_constant(self) -> tuple[str, int, int]:
        """(answer, items it is right for, items it was held against) of the one constant that wins most."""
        found = [
            (name, earned + equal, asked + equal)
            for name, (asked, earned, equal) in self.controls.items()
            if name in CONSTANTS or name.startswith(LETTER)
        ]
        found += [(text, count, self.items) for text, count in self.answers.items()]
        return max(found, key=_share, default=("", 0, 0))

    def worst_control(self) -> tuple[str, int, int]:
        """(control, times it earned, times it was asked) of the one that earns most where it is not the reference."""
        found = [(name, earned, asked) for name, (asked, earned, _) in self.controls.items()]
        return max(found, key=_share, default=("", 0, 0))


def _share(found: tuple[str, int, int]) -> tuple[float, int, str]:
    name, count, of = found
    return count / max(of, 1), of, name


class Tally(dict[str, FamilyTally]):
    """Family key -> counts. Adding up the tallies of parts gives that of the whole but for rare reference answers."""

    def add(self, other: Tally) -> None:
        """Adds the counts of another part."""
        for key, theirs in other.items():
            ours = self.setdefault(key, FamilyTally())
            ours.items += theirs.items
            ours.refused += theirs.refused
            ours.answers.update(theirs.answers)
            for name, counts in theirs.controls.items():
                mine = ours.controls.setdefault(name, [0, 0, 0])
                for place, count in enumerate(counts):
                    mine[place] += count

    def to_json(self) -> dict[str, Any]:
        """JSON with sorted keys; of the reference answers the most frequent ones."""
        return {
            key: {
                "items": found.items,
                "refused": found.refused,
                "controls": dict(sorted(found.controls.items())),
                "answers": dict(sorted(found.answers.items(), key=lambda pair: (-pair[1], pair[0]))[:MAX_ANSWERS]),
            }
            for key, found in sorted(self.items())
        }

    @classmethod
    def from_json(cls, tree: dict[str, Any]) -> Self:
        """The inverse of `to_json`."""
        return cls({key: FamilyTally(**{**found, "answers": Counter(found["answers"])}) for key, found in tree.items()})

    def refused_families(self, section: ControlsSection) -> dict[str, Refusal]:
        """Family key -> why the family is refused, for those that are."""
        return {key: why for key, found in sorted(self.items()) if (why := _family_refusal(key, found, section))}


@dataclass(frozen=True, slots=True)
class Examination:
    """What `examine` found: a refusal or None for each problem, in order, and the counts of the families."""

    refusals: list[Refusal | None]
    tally: Tally


def family_key(problem: Problem) -> str:
    """Verifier and family; a procedural item whose problem names no family brings its own."""
    family = problem.family
    entry = problem.metadata.get("entry")
    if family == "default" and isinstance(entry, dict) and isinstance(entry.get("metadata"), dict):
        family = str(entry["metadata"].get("source_dataset", family))
    return f"{problem.verifier}|{family}"


def examine(
    problems: Sequence[Problem],
    ask: Ask,
    section: ControlsSection,
    references: bool = False,
    families: bool = True,
) -> Examination:
    """Grades the controls of `problems` through `ask`, in two or three batches, and decides.

    `references`: grade the reference answers too, where there are any; where `section.enabled` is false, they are all
    that is graded. `families`: refuse the items of refused families too; without it the caller adds up tallies and
    decides. Problems without a verifier are accepted, and so are those without a reference that theirs could compare
    with (traces whose rewards are trusted): nothing of them is asked. `UserError` for unknown verifiers, and whatever
    else `ask` raises.
    """
    return _Examiner(problems, ask, section).run(references, families)


class _Examiner:
    def __init__(self, problems: Sequence[Problem], ask: Ask, section: ControlsSection) -> None:
        self.problems = [_in_any_language(problem) for problem in problems]
        self.given = problems
        self.ask = ask
        self.section = section
        self.refusals: list[Refusal | None] = [None] * len(problems)
        self.keys = [family_key(problem) for problem in problems]
        self.groups: dict[str, list[int]] = defaultdict(list)
        for number, key in enumerate(self.keys):
            self.groups[key].append(number)
        self.places = {number: place for found in self.groups.values() for place, number in enumerate(found)}
        self.tally = Tally({key: FamilyTally(items=len(found)) for key, found in self.groups.items() if key[0] != "|"})

    def run(self, references: bool, families: bool) -> Examination:
        checked = [number for number, problem in enumerate(self.problems) if problem.verifier]
        if references:
            self._references(checked)
        if not self.section.enabled:
            return Examination(self.refusals, self.tally)
        checked = [n for n in checked if self.refusals[n] is None and not _has_no_answer(self.problems[n])]
        controls = {number: self._controls(number) for number in checked}
        first = {n: chosen(found, self.problems[n].id, self._per_item(n)) for n, found in controls.items()}
        earned = self._ask((n, control) for n, found in first.items() for control in found)
        suspicious = {(self.keys[n], control.name) for n, control in earned}
        earned += self._ask(
            (n, control)
            for n, found in controls.items()
            for control in found
            if (self.keys[n], control.name) in suspicious and control not in first[n]
        )
        by_chance = self._by_chance([n for n, control in earned if control.name == ANOTHER])
        for number, control in earned:
            if control.name != ANOTHER or number not in by_chance:
                self._refuse(number, control)
        for number in checked:
            tally = self.tally[self.keys[number]]
            if answer := plain(self.problems[number].answer)[:MAX_ANSWER_CHARS]:
                tally.answers[answer] += 1
        for number, why in enumerate(self.refusals):
            if why and self.problems[number].verifier:
                self.tally[self.keys[number]].refused += 1
        if families:
            refused = self.tally.refused_families(self.section)
            for number, key in enumerate(self.keys):
                self.refusals[number] = self.refusals[number] or refused.get(key)
        return Examination(self.refusals, self.tally)

    def _references(self, checked: Sequence[int]) -> None:
        """Refuses what has a reference that does not score, or cannot be checked at all."""
        texts = {number: reference_text(self.given[number]) for number in checked}
        asked = [number for number, text in texts.items() if text]
        verdicts = dict(zip(asked, self.ask([self.given[n] for n in asked], [texts[n] for n in asked]), strict=True))
        unread = [n for n in checked if require(self.problems[n].verifier).answer_form is None]
        tried = self.ask([self.given[n] for n in unread], ["An answer."] * len(unread)) if unread else []
        for number, verdict in verdicts.items():
            if verdict.reward < 1:
                why = f"{verdict.error}: " if verdict.error else ""
                self.refusals[number] = Refusal("reference answer does not verify", why + self.given[number].answer)
        for number, verdict in zip(unread, tried, strict=True):
            if require(self.problems[number].verifier).usable_part not in verdict.parts:
                self.refusals[number] = Refusal("the problem cannot be checked", verdict.error or "")
        for number in checked:
            if (
                self.refusals[number] is None
                and _has_tests(self.given[number])
                and (why := _unread(self.given[number]))
            ):
                self.refusals[number] = Refusal("the tests cannot be used", why)

    def _controls(self, number: int) -> list[Control]:
        return controls_of(self.problems[number], self._others(number, 1), self.section.judge)

    def _others(self, number: int, count: int) -> list[str]:
        """References of the items that follow in the family, each unlike this item's and unlike the others."""
        group, found = self.groups[self.keys[number]], [self.problems[number].answer]
        start = self.places[number] + 1
        for place in range(start, start + min(len(group) - 1, LOOK_AHEAD)):
            answer = self.problems[group[place % len(group)]].answer
            if answer.strip() and not any(same_answer(answer, one) for one in found):
                found.append(answer)
                if len(found) > count:
                    break
        return found[1:]

    def _per_item(self, number: int) -> int:
        """What tests or options of an item let through shows at that item only, so it gets all controls (0)."""
        problem = self.problems[number]
        verifier = require(problem.verifier)
        has_options = verifier.answer_kind == "value" and not OPTIONS.isdisjoint(problem.metadata)
        is_own = has_options or verifier.answer_kind in ("program", "response")
        return 0 if is_own or len(self.problems) <= SMALL else self.section.per_item

    def _ask(self, pairs: Iterable[tuple[int, Control]]) -> list[tuple[int, Control]]:
        """Grades controls, counts them, and returns those that earned."""
        asked: list[tuple[int, Control]] = []
        for number, control in pairs:
            if control.is_reference:
                self._counts(number, control)[2] += 1
            else:
                asked.append((number, control))
        if not asked:
            return []
        verdicts = self.ask([self.problems[n] for n, _ in asked], [control.response for _, control in asked])
        earned = []
        for (number, control), verdict in zip(asked, verdicts, strict=True):
            counts = self._counts(number, control)
            if verdict.reward >= 1 and control.may_earn:
                counts[2] += 1
                continue
            counts[0] += 1
            if verdict.reward >= 1:
                counts[1] += 1
                earned.append((number, control))
        return earned

    def _counts(self, number: int, control: Control) -> list[int]:
        return self.tally[self.keys[number]].controls.setdefault(control.name, [0, 0, 0])

    def _by_chance(self, numbers: Sequence[int]) -> set[int]:
        """Of the items that another one's answer solves, those that no further one's does."""
        further = {n: self._others(n, 1 + FURTHER)[1:] for n in numbers}
        pairs = [(n, stated(require(self.problems[n].verifier), self.problems[n], ANOTHER, answer))
                 for n, answers in further.items() for answer in answers]  # fmt: skip
        verdicts = self.ask([self.problems[n] for n, _ in pairs], [one.response for _, one in pairs]) if pairs else []
        solved = {n for (n, _), verdict in zip(pairs, verdicts, strict=True) if verdict.reward >= 1}
        return {n for n, answers in further.items() if answers and n not in solved}

    def _refuse(self, number: int, control: Control) -> None:
        if self.refusals[number] is None:
            shown = " ".join(control.answer.split())[:100]
            detail = f"{shown!r} earns 1; the reference is {self.problems[number].answer[:100]!r}"
            self.refusals[number] = Refusal(f"a control earns: {control.name}", detail)


def _has_no_answer(problem: Problem) -> bool:
    verifier = require(problem.verifier)
    return verifier.answer_kind != "program" and verifier.answer_form is not None and not problem.answer.strip()


def _has_tests(problem: Problem) -> bool:
    return bool(problem.verifier) and require(problem.verifier).answer_kind == "program"


def _unread(problem: Problem) -> str:
    try:
        parse_tests(problem.metadata.get("tests"), problem.metadata)
    except TestsError as error:
        return str(error)
    return ""


def _in_any_language(problem: Problem) -> Problem:
    """The problem as controls see it: programs that read and write may be in Python, whatever it asks for."""
    if not _has_tests(problem) or "language" not in problem.metadata:
        return problem
    try:
        if not isinstance(parse_tests(problem.metadata.get("tests"), problem.metadata), StdinTests):
            return problem
    except TestsError:
        return problem
    metadata = {key: value for key, value in problem.metadata.items() if key != "language"}
    return dataclasses.replace(problem, metadata=metadata)


def _family_refusal(key: str, found: FamilyTally, section: ControlsSection) -> Refusal | None:
    verifier = require(key.partition("|")[0])
    name, right, held = found.best_constant()
    if (
        verifier.answer_kind != "program"
        and held >= section.min_items
        and _lower_bound(right, held) > section.constant_share
    ):
        return Refusal(f"its family is refused: one constant wins ({name})", f"{right} of {held} items")
    name, earned, asked = found.worst_control()
    if not verifier.compares and asked >= section.min_items and _lower_bound(earned, asked) > section.share:
        return Refusal(f"its family is refused: a control earns ({name})", f"{earned} of {asked} items")
    return None


def _lower_bound(count: int, of: int) -> float:
    """The lower end of Wilson's 95 % interval of a share."""
    share, z = count / of, 1.959964
    half = z * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of))
    return (share + z * z / (2 * of) - half) / (1 + z * z / of)
