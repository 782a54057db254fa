"""Families in natural language: leg_counting, aiw (Alice in Wonderland siblings and friends), family_relationships."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import random
import re
from collections.abc import Iterator

from h1r.data.solvers.base import Worked, add_lines, sum_lines
from h1r.records import Problem

_LEGS = {
    0: "snake, sea slug, jellyfish, flatworm, leech",
    2: "chicken, bird, human, duck",
    4: "dog, cat, cow, horse, lion, elephant, giraffe, tiger, deer, sheep",
    5: "starfish",
    6: "insect, ant, butterfly, beetle, bee, wasp, grasshopper, cricket, cockroach, praying mantis, firefly",
    8: "spider, scorpion",
    10: "crab, lobster, shrimp",
    14: "woodlouse",
}
LEGS = {animal: legs for legs, animals in _LEGS.items() for animal in animals.split(", ")}


def leg_counting(problem: Problem, rng: random.Random) -> Iterator[Worked]:
    """Legs of each kind, then their sum; with a running total; in other orders."""
    found = re.match(r"(?>(?s:.*?)if you have )(.*)\?", problem.question)
    if found is None:
        return
    herd = []
    for part in found.group(1).split(", "):
        count, _, named = part.partition(" ")
        animal = named.removesuffix("s") if int(count) > 1 else named
        if animal not in LEGS:
            return
        herd.append((int(count), named, LEGS[animal]))
    answer = str(sum(count * legs for count, _, legs in herd))
    yield Worked(_legs_then_sum(herd), answer)
    yield Worked(_legs_running(herd), answer)
    for _ in range(2 * len(herd)):
        order = rng.sample(herd, len(herd))
        yield Worked(_legs_then_sum(order), answer)
        yield Worked(_legs_running(order), answer)


def _legs_then_sum(herd: list[tuple[int, str, int]]) -> list[str]:
    lines = [f"{count} {named}: {count} * {legs} = {count * legs}" for count, named, legs in herd]
    return lines + sum_lines([count * legs for count, _, legs in herd])


def _legs_running(herd: list[tuple[int, str, int]]) -> list[str]:
    lines: list[str] = []
    total = 0
    for number, (count, named, legs) in enumerate(herd):
        lines.append(f"{count} {named}: {count} * {legs} = {count * legs}")
        if number:
            lines += add_lines(total, count * legs)
        total += count * legs
    return lines


def aiw(problem: Problem, rng: random.Random) -> Iterator[Worked]:
    """The woman of the story is herself a sister, or friend, of the men asked about: one more than she has.

    The question about colleagues is left unsolved: its text supports more than one count.
    """
    about = re.match(r"(\w+) has (\d+) .*", problem.question)
    siblings = re.search(r"(?<!\d)(\d++) sisters", problem.question)
    friends = re.search(r"(?<!\d)(\d++) female friends", problem.question)
    if about is None or "colleague" in problem.question or not (siblings or friends):
        return
    name = about.group(1)
    count = int((siblings or friends).group(1))  # type: ignore[union-attr]
    noun, others = ("sisters", "brothers") if siblings else ("female friends", "male friends")
    answer = str(count + 1)
    yield Worked([f"{count} {noun} + {name}", f"{count} + 1 = {answer}"], answer)
    yield Worked([f"{name} + {count} {noun}", f"1 + {count} = {answer}"], answer)
    yield Worked([f"{name} has {count} {noun}", f"{others} also have {name}: {count} + 1 = {answer}"], answer)


@dataclasses.dataclass
class _Family:
    spouse: dict[str, str]
    parents: dict[str, list[str]]

    def generations(self) -> dict[str, int]:
        """1 for those whose parents are not told of; a spouse who has none is of the other's."""
        found: dict[str, int] = {}
        names = [*self.spouse, *self.parents]
        for name in names:  # parents are told of before their children
            if name in self.parents:
                found[name] = found.get(self.parents[name][0], 1) + 1
            elif self.spouse.get(name) not in self.parents:
                found[name] = 1
        return found | {name: found[self.spouse[name]] for name in names if name not in found}

    def by_generation(self, born: dict[str, int]) -> list[str]:
        """`2 Logan + Susan, Ann`: a line for each generation, couples together."""
        lines: dict[int, list[str]] = {}
        for name in sorted(born, key=born.__getitem__):  # stable: in the order of the story
            spouse = self.spouse.get(name, "")
            told = lines.setdefault(born[name], [])
            if f"{spouse} + {name}" not in told:
                told.append(f"{name} + {spouse}" if spouse else name)
        return [f"{generation} {', '.join(told)}" for generation, told in lines.items()]


def family_relationships(problem: Problem, rng: random.Random) -> Iterator[Worked]:
    """The family by generations, those of the two, and what that makes them; the chain of facts from the first person
    to the second, read from either end."""
    asked = re.search(r"\n(?:What is|How is|What relation is) (\w+) (?:to|related to) (\w+)\?", problem.question)
    if asked is None:
        return
    first, second = asked.groups()
    family = _read_family(problem.question)
    link = _link(family, first, second)
    if link is None:
        return
    pair, facts = link
    men, women = _names(
        tuple(problem.difficulty.get("male_names", ())), tuple(problem.difficulty.get("female_names", ()))
    )
    if first not in men | women:
        return
    word, sex = (pair[0], "man") if first in men else (pair[1], "woman")
    ending = f"{first} is a {sex}: {word}"
    born = family.generations()
    places = f"{first} {born[first]}, {second} {born[second]}: {_KINDS[pair]}"
    yield Worked([*family.by_generation(born), places, ending], word)
    yield Worked([*facts, ending], word)
    for order in itertools.permutations([*facts, f"{first} is a {sex}"]):
        yield Worked([*order, word], word)


_KINDS = {
    ("father", "mother"): "parent",
    ("son", "daughter"): "child",
    ("husband", "wife"): "married",
    ("brother", "sister"): "same parents",
    ("grandfather", "grandmother"): "grandparent",
    ("uncle", "aunt"): "sibling of a parent",
}


def _read_family(story: str) -> _Family:
    family = _Family({}, {})
    pattern = r"\b(\w++) is married to (\w++)\.(?: They have (?:a child|children) called ([^.]+)\.)?"
    for one, other, children in re.findall(pattern, story):
        family.spouse.update({one: other, other: one})
        for child in re.split(r", | and ", children) if children else []:
            family.parents[child] = [one, other]
    return family


def _link(family: _Family, first: str, second: str) -> tuple[tuple[str, str], list[str]] | None:
    """((word for a man, word for a woman), facts) of what `first` is to `second`; None when no rule applies."""
    parents = family.parents
    if first in parents.get(second, []):
        return ("father", "mother"), [f"{second} is a child of {first}"]
    if second in parents.get(first, []):
        return ("son", "daughter"), [f"{first} is a child of {second}"]
    if family.spouse.get(first) == second:
        return ("husband", "wife"), [f"{first} is married to {second}"]
    shared = [p for p in parents.get(first, []) if p in parents.get(second, [])]
    if shared:
        return ("brother", "sister"), [f"{name} is a child of {shared[0]}" for name in (first, second)]
    for parent in parents.get(second, []):
        if first in parents.get(parent, []):
            return ("grandfather", "grandmother"), [
                f"{second} is a child of {parent}",
                f"{parent} is a child of {first}",
            ]
        common = [p for p in parents.get(parent, []) if p in parents.get(first, [])]
        if common:
            facts = [f"{second} is a child of {parent}"]
            return ("uncle", "aunt"), facts + [f"{name} is a child of {common[0]}" for name in (parent, first)]
    return None


@functools.cache
def _names(male: tuple[str, ...], female: tuple[str, ...]) -> tuple[frozenset[str], frozenset[str]]:
    """The names of men and of women: the recipe's own lists, else the family's."""
    from reasoning_gym.graphs.family_relationships import FamilyRelationshipsConfig

    defaults = FamilyRelationshipsConfig()
    return frozenset(male or defaults.male_names), frozenset(female or defaults.female_names)
