"""Training problems that overlap the held-out ones (arXiv 2601.02346, section 4, which reports exact matches only).

A training question q overlaps a held-out question h when one of these holds, the strongest first:

    exact      they have one normal form (`normal_form.py`)
    contained  h stands in q token for token, and where h is shorter than `run` tokens both hold the same numbers; or
               nearly all of h (`WHOLE`) is covered by q
    ngram      at least `coverage` of h is covered by q, one run of it is `run` tokens long or longer, and q has
               `NUMBERS` of the numbers of h

The coverage of h by q is the share of h's tokens that stand in runs of `GRAM` tokens which q has too, in h's order. A
run that `HABIT` different held-out questions have is a stock phrase and covers nothing: "where m and n are relatively
prime positive integers" (`boilerplate_share = 1` calls nothing a stock phrase). Code of drawings is left out. Two
questions with other numbers are two problems. When one generator wrote both questions it used one template on purpose,
and only `exact` counts, strictly read; the rule of `dedup.py` looks for near duplicates among them. A benchmark is a
family of the held-out set. A look-up takes time linear in q and in its matches.

What covers `NEAR` of h or more and is no overlap by one of these conditions is near: it stays, and is listed with the
condition that kept it, so that a person can look.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from h1r.data.curate.rules.dedup import number_signature
from h1r.data.curate.rules.normal_form import joined, normal_form, tokens, without_drawings
from h1r.records import Problem
from h1r.verify import is_generated

Evidence = Literal["exact", "contained", "ngram"]
Kept = Literal["less than the coverage", "no run as long", "other numbers"]
STRENGTH: tuple[Evidence, ...] = ("exact", "contained", "ngram")

MIN_CONTAINED = 5
"""Tokens a held-out question must have before finding it inside another means anything. Our choice."""
GRAM = 5
"""Tokens of the runs that coverage is counted in. Our choice."""
HABIT = 3
"""Different held-out questions that make a run of `GRAM` tokens a stock phrase. Our choice, from MATH against its own
test set: with ten, as GPT-3's filter had for 13 words, its templates count as copies."""
WHOLE = 0.85
"""Coverage from which a held-out question counts as contained. Our choice."""
NUMBERS = 0.75
"""Share of the numbers of a held-out question that its copy must have. Our choice."""
NEAR = 0.3
"""Coverage from which a question that stays is listed as near. Our choice."""


@dataclass(frozen=True, slots=True)
class Overlap:
    """What a training question has of a held-out one: evidence, share of it covered, and the longest run of it."""

    evidence: Evidence
    coverage: float
    run: str


@dataclass(frozen=True, slots=True)
class Near:
    """The same of a question that is no overlap, and the condition that it misses."""

    why: Kept
    coverage: float
    run: str


@dataclass(slots=True)
class Found:
    """What a training question has of the held-out ones, by their index."""

    overlaps: dict[int, Overlap]
    near: dict[int, Near]


def benchmark(problem: Problem) -> str:
    """The name under which a held-out problem is reported: its family, or its source when it has no family."""
    return problem.source if problem.family == "default" and problem.source else problem.family


def _numbers(found: Iterable[str]) -> Counter[str]:
    return Counter(token for token in found if token[0].isdigit())


class HeldOutIndex:
    """Held-out questions, ready to be looked up. Memory grows with them only, training questions are streamed."""

    def __init__(
        self, held_out: Sequence[Problem], run: int = 10, boilerplate_share: float = 0.05, coverage: float = 0.5
    ) -> None:
        self.held_out = list(held_out)
        self.run = run
        self.coverage = coverage
        self._same: dict[str, list[int]] = defaultdict(list)
        self._forms: dict[str, list[int]] = defaultdict(list)
        self._short: dict[tuple[str, str], list[tuple[int, list[str]]]] = defaultdict(list)
        self._places: dict[str, list[tuple[int, int]]] = defaultdict(list)
        self._begins: dict[str, list[int]] = defaultdict(list)
        self._tokens: list[list[str]] = []
        forms = [normal_form(problem.question) for problem in self.held_out]
        for index, problem in enumerate(self.held_out):
            found = tokens(without_drawings(problem.question))
            self._tokens.append(found)
            self._same[_verbatim(problem.question)].append(index)
            self._forms[forms[index]].append(index)
            if MIN_CONTAINED <= len(found) < run:
                self._short[found[0], found[1]].append((index, found))
            for place, gram in enumerate(_grams(found)):
                self._places[gram].append((index, place))
                if not place and len(found) >= run:
                    self._begins[gram].append(index)
        self._numbers = [_numbers(found) for found in self._tokens]
        if boilerplate_share < 1:
            common = [gram for gram, places in self._places.items() if len(places) >= HABIT]
            for gram in common:
                if len({forms[index] for index, _ in self._places[gram]}) >= HABIT:
                    del self._places[gram]

    def overlaps(self, problem: Problem) -> dict[int, Overlap]:
        """Which held-out problems (by index) a training problem overlaps, each with its strongest evidence."""
        return self.look_up(problem).overlaps

    def look_up(self, problem: Problem) -> Found:
        """The overlaps of a training problem, and what it is near without overlapping it."""
        found = Found(
            {index: Overlap("exact", 1.0, "") for index in self._same.get(_verbatim(problem.question), ())}, {}
        )
        asked = tokens(problem.question)
        if not is_generated(problem):
            for index in self._forms.get(joined(asked), ()):
                found.overlaps[index] = Overlap("exact", 1.0, "")
        if (text := without_drawings(problem.question)) != problem.question:
            asked = tokens(text)
        for index in (*self._whole(asked), *self._contained(problem.question, asked)):
            if not self._one_generator(problem, index):
                found.overlaps.setdefault(index, Overlap("contained", 1.0, " ".join(self._tokens[index])))
        self._add_covered(found, problem, asked)
        return found

    def _add_covered(self, found: Found, problem: Problem, asked: list[str]) -> None:
        numbers = _numbers(asked)
        for index, (coverage, start, length) in self._covered(asked).items():
            if coverage < min(NEAR, self.coverage) or index in found.overlaps or self._one_generator(problem, index):
                continue
            run = " ".join(self._tokens[index][start : start + length])
            theirs = self._numbers[index]
            why: Kept | None = None
            if coverage < self.coverage:
                why = "less than the coverage"
            elif length < self.run:
                why = "no run as long"
            elif (numbers & theirs).total() < NUMBERS * theirs.total():
                why = "other numbers"
            if why:
                found.near[index] = Near(why, coverage, run)
            else:
                found.overlaps[index] = Overlap("contained" if coverage >= WHOLE else "ngram", coverage, run)

    def _whole(self, asked: list[str]) -> Iterator[int]:
        """The held-out questions of `run` tokens or more that stand in a question, stock phrases and all."""
        for start, gram in enumerate(_grams(asked)):
            for index in self._begins.get(gram, ()):
                held = self._tokens[index]
                if asked[start : start + len(held)] == held:
                    yield index

    def _covered(self, asked: list[str]) -> dict[int, tuple[float, int, int]]:
        """Held-out index -> (coverage, first token and length of its longest run) for those that share a run."""
        covered: dict[int, set[int]] = defaultdict(set)
        runs: dict[tuple[int, int], int] = {}
        longest: dict[int, tuple[int, int]] = {}
        for gram in _grams(asked):
            now: dict[tuple[int, int], int] = {}
            for index, place in self._places.get(gram, ()):
                length = runs.get((index, place - 1), GRAM - 1) + 1
                now[index, place] = length
                covered[index].update(range(place, place + GRAM))
                if length > longest.get(index, (0, 0))[1]:
                    longest[index] = place + GRAM - length, length
            runs = now
        return {index: (len(spots) / len(self._tokens[index]), *longest[index]) for index, spots in covered.items()}

    def _contained(self, question: str, asked: list[str]) -> Iterator[int]:
        found = {
            index
            for start, pair in enumerate(pairwise(asked))
            for index, short in self._short.get(pair, ())
            if asked[start : start + len(short)] == short
        }
        signature = number_signature(question) if found else ()
        return (index for index in sorted(found) if signature == number_signature(self.held_out[index].question))

    def _one_generator(self, problem: Problem, index: int) -> bool:
        held = self.held_out[index]
        same = problem.verifier == held.verifier and problem.family == held.family
        return same and is_generated(problem)


def _verbatim(question: str) -> str:
    return " ".join(question.split())


def _grams(found: Sequence[str]) -> Iterator[str]:
    return (" ".join(found[start : start + GRAM]) for start in range(len(found) - GRAM + 1))


class Overlaps:
    """Which training problems overlapped which benchmark, added up; `names` are the benchmarks of held-out problems."""

    def __init__(self, index: HeldOutIndex) -> None:
        self._index = index
        self._hits: dict[str, Counter[Evidence]] = {benchmark(problem): Counter() for problem in index.held_out}
        self._hit: set[int] = set()
        self.seen = 0

    def check(self, problem: Problem) -> tuple[Overlap | Near, Problem] | None:
        """Counts a training problem; its strongest overlap and the held-out problem, else what it is nearest to."""
        self.seen += 1
        found = self._index.look_up(problem)
        if not found.overlaps:
            if not found.near:
                return None
            twin, near = max(found.near.items(), key=lambda pair: (pair[1].coverage, -pair[0]))
            return near, self._index.held_out[twin]
        self._hit.update(found.overlaps)
        strongest: dict[str, Evidence] = {}
        for held, overlap in found.overlaps.items():
            name, evidence = benchmark(self._index.held_out[held]), overlap.evidence
            strongest[name] = min(strongest.get(name, evidence), evidence, key=STRENGTH.index)
        for name, evidence in strongest.items():
            self._hits[name][evidence] += 1
        pairs = ((STRENGTH.index(one.evidence), -one.coverage, held) for held, one in found.overlaps.items())
        twin = min(pairs)[2]
        best = found.overlaps[twin]
        return best, self._index.held_out[twin]

    def counts(self) -> dict[str, Any]:
        """What has been counted as JSON, for `report`: {seen, hits: {benchmark: {evidence: n}}, hit: [index]}."""
        return {
            "seen": self.seen,
            "hits": {name: dict(sorted(hits.items())) for name, hits in sorted(self._hits.items()) if hits},
            "hit": sorted(self._hit),
        }


def report(held_out: Sequence[Problem], counts: Iterable[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Per benchmark, from one or several `Overlaps.counts`:

    `held_out` its problems, `held_out_hit` those of them that some training problem overlaps, `exact`, `contained`,
    `ngram` and `total` the training problems that do (by their strongest evidence for this benchmark), `percent` = 100
    `total` / all training problems seen, as the paper reports it.
    """
    sizes = Counter(map(benchmark, held_out))
    hits: dict[str, Counter[str]] = {name: Counter() for name in sizes}
    hit: set[int] = set()
    seen = 0
    for part in counts:
        seen += part["seen"]
        hit.update(part["hit"])
        for name, found in part["hits"].items():
            hits[name].update(found)
    hit_by_name = Counter(benchmark(held_out[held]) for held in hit)
    return {
        name: {
            "held_out": sizes[name],
            "held_out_hit": hit_by_name[name],
            **{evidence: hits[name][evidence] for evidence in STRENGTH},
            "total": hits[name].total(),
            "percent": round(100 * hits[name].total() / seen, 4) if seen else 0.0,
        }
        for name in sorted(sizes)
    }
