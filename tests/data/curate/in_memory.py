"""The joins and rules of curation, for lists in memory: slow and obvious, to compare with."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

from datasketch import MinHash, MinHashLSH

from h1r.data.curate.joins.keys import question_form
from h1r.data.curate.rules.decontaminate import HeldOutIndex, Near, Overlaps, report
from h1r.data.curate.rules.dedup import (
    MIN_CONTENT,
    NUM_PERM,
    bands,
    jaccard,
    number_signature,
    shingles,
    template,
)
from h1r.data.curate.rules.filters import Dropped, excerpt
from h1r.data.curate.rules.normal_form import normal_form
from h1r.records import DifficultyClass, Problem


def drop_exact_duplicates(problems: Iterable[Problem]) -> tuple[list[Problem], list[Dropped]]:
    """Drops problems whose normalised question came before.

    So do those whose question and answer are an earlier one's in another typesetting, unless a generator wrote them.
    """
    first: dict[str, Problem] = {}
    kept: list[Problem] = []
    dropped: list[Dropped] = []
    for problem in problems:
        keys = [question_form(problem)]
        twin = next((first[key] for key in keys if key in first), None)
        # A copy hands its keys on, so that the copy of a copy is one too, whichever key it shares.
        for key in keys:
            first.setdefault(key, twin or problem)
        if twin is None:
            kept.append(problem)
        else:
            reason = "same question" if twin.answer == problem.answer else "same question, answer written otherwise"
            dropped.append(_dropped(problem, twin, "exact duplicates", reason))
    return kept, dropped


def drop_near_duplicates(
    candidates: Sequence[Problem],
    threshold: float,
    boilerplate_share: float,
    held_out: Sequence[Problem] = (),
    content_threshold: float | None = None,
) -> tuple[list[Problem], list[Dropped]]:
    """Drops problems that are near duplicates of a held-out one, or of one kept before them.

    `threshold` is a Jaccard similarity in [0, 1], and `content_threshold` the one of what is no template (None: the
    same); `boilerplate_share` the share of a family's questions above which a
    shingle is its template.
    """
    problems = [*held_out, *candidates]
    signatures = [number_signature(problem.question) for problem in problems]
    shared = {signature for signature, count in Counter(signatures).items() if count > 1}
    suspects = [index for index, signature in enumerate(signatures) if signature in shared]
    templates = _templates(problems, {problems[index].family for index in suspects}, boilerplate_share)

    whole: dict[int, frozenset[str]] = {}
    content: dict[int, frozenset[str]] = {}
    for index in suspects:
        found = shingles(problems[index].question)
        rest = found - templates[problems[index].family]
        # A short question without a template is content as a whole, so the floor is for the template's sake only.
        if len(rest) >= min(MIN_CONTENT, len(found)):
            whole[index], content[index] = found, rest

    first = len(held_out)
    least = threshold if content_threshold is None else content_threshold
    twins = _twins(problems, signatures, whole, content, (threshold, least), first)
    kept = [problem for index, problem in enumerate(candidates, first) if index not in twins]
    dropped = []
    for index, twin in sorted(twins.items()):
        reason = "nearly a held-out question" if twin < first else "nearly the same question"
        dropped.append(_dropped(problems[index], problems[twin], "near duplicates", reason))
    return kept, dropped


def _templates(problems: Sequence[Problem], families: set[str], share: float) -> dict[str, frozenset[Hashable]]:
    questions: dict[str, list[str]] = defaultdict(list)
    for problem in problems:
        if problem.family in families:
            questions[problem.family].append(problem.question)
    return {family: template(map(shingles, found), share) for family, found in questions.items()}


def _twins(
    problems: Sequence[Problem],
    signatures: Sequence[tuple[str, ...]],
    whole: dict[int, frozenset[str]],
    content: dict[int, frozenset[str]],
    thresholds: tuple[float, float],
    held_out: int,
) -> dict[int, int]:
    """Which index is a near duplicate of which kept earlier one. The first `held_out` are all kept."""
    lsh = MinHashLSH(num_perm=NUM_PERM, params=bands(thresholds[1]))
    hashes = MinHash.generator(
        ([shingle.encode() for shingle in found] for found in content.values()), num_perm=NUM_PERM, seed=1
    )
    twins: dict[int, int] = {}
    for index, hashed in zip(content, hashes, strict=True):
        if index < held_out:
            lsh.insert(index, hashed)
            continue
        for other in sorted(lsh.query(hashed)):
            if (
                signatures[index] == signatures[other]
                and normal_form(problems[index].answer) == normal_form(problems[other].answer)
                and jaccard(whole[index], whole[other]) >= thresholds[0]
                and jaccard(content[index], content[other]) >= thresholds[1]
            ):
                twins[index] = other
                break
        else:
            lsh.insert(index, hashed)
    return twins


def _dropped(problem: Problem, twin: Problem, step: str, reason: str) -> Dropped:
    return Dropped(problem.id, step, reason, excerpt(f"as {twin.id}: {problem.question}"))


def decontaminate(
    problems: Iterable[Problem], index: HeldOutIndex
) -> tuple[list[Problem], list[Dropped], dict[str, dict[str, Any]]]:
    """Drops every problem that overlaps a held-out one: (kept, dropped, `report`)."""
    overlaps = Overlaps(index)
    kept: list[Problem] = []
    dropped: list[Dropped] = []
    for problem in problems:
        found = overlaps.check(problem)
        if found is None or isinstance(found[0], Near):
            kept.append(problem)
            continue
        overlap, twin = found
        text = excerpt(f"as {twin.id}: {problem.question}")
        dropped.append(Dropped(problem.id, "decontamination", f"{overlap.evidence} overlap with held-out", text))
    return kept, dropped, report(index.held_out, [overlaps.counts()])


def length_class(length: float, family: Sequence[float], easy_share: float, hard_share: float) -> DifficultyClass:
    """The class of a trace length (characters) among its family's lengths, given in ascending order.

    Hard: no more than `hard_share` of the family is as long; easy: no more than `easy_share` is as short. Equal lengths
    get equal classes, so a family of one length is medium throughout.
    """
    if len(family) - bisect_left(family, length) <= hard_share * len(family):
        return "hard"
    return "easy" if bisect_right(family, length) <= easy_share * len(family) else "medium"
