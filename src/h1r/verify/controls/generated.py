"""Of problems that the program generated, a sample of each family stands for the others.

The reference of a generated problem comes out of the program that made the question, and the scorer is the family's:
either is right for all of a family or wrong in a way that a sample shows. So `ControlsSection.generated` problems of a
family are examined, drawn by their ids, and where one of them is refused, all are. Problems of files always are: their
references were written one by one.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import defaultdict
from collections.abc import Iterable, Sequence

from h1r.config.corpus import GENERATED
from h1r.config.verify import ControlsSection
from h1r.records import Problem
from h1r.verify.controls.validate import Ask, Examination, Refusal, Tally, examine, family_key


def from_generator(problem: Problem) -> bool:
    """Whether a problem, and its reference, was made by a generator of this program."""
    return problem.source.startswith(GENERATED)


def sample_of_families(problems: Iterable[Problem], size: int) -> list[Problem]:
    """At most `size` generated problems of each family, those whose ids have the smallest hashes, in their order."""
    families: dict[str, list[tuple[bytes, int, Problem]]] = defaultdict(list)
    for number, problem in enumerate(problems):
        if from_generator(problem):
            digest = hashlib.sha256(f"controls {problem.id}".encode()).digest()
            families[family_key(problem)].append((digest, number, problem))
    chosen = [one for found in families.values() for one in heapq.nsmallest(size, found, key=lambda one: one[:2])]
    return [problem for _, _, problem in sorted(chosen, key=lambda one: one[1])]


def examine_sampled(
    problems: Sequence[Problem], ask: Ask, section: ControlsSection, references: bool = False
) -> Examination:
    """As `examine`, but of generated families only a sample, unless a problem of the sample is refused."""
    sample = {one.id for one in sample_of_families(problems, section.generated or len(problems))}
    chosen = [not from_generator(problem) or problem.id in sample for problem in problems]
    first = examine([one for one, taken in zip(problems, chosen, strict=True) if taken], ask, section, references)
    found = iter(first.refusals)
    refusals: list[Refusal | None] = [next(found) if taken else None for taken in chosen]
    failed = {family_key(one) for one, why in zip(problems, refusals, strict=True) if why and from_generator(one)}
    whole = [number for number, one in enumerate(problems) if family_key(one) in failed and not chosen[number]]
    if not whole:
        return Examination(refusals, first.tally)
    again = [number for number, one in enumerate(problems) if family_key(one) in failed]
    second = examine([problems[number] for number in again], ask, section, references)
    for number, why in zip(again, second.refusals, strict=True):
        refusals[number] = why
    return Examination(refusals, Tally({**first.tally, **second.tally}))
