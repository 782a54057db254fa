"""Training problems that overlap the held-out ones (arXiv 2601.02346, section 4, which reports exact matches only).

A training question q overlaps a held-out question h when one of these holds, the strongest first:

    exact      they are the same but for case, layout, punctuation and LaTeX dress; operators count
    contained  h, shorter than n words, stands in q token for token, and both hold the same numbers
    ngram      they share n = 13 words in a row that are not boilerplate

N-grams are taken twice, without LaTeX's dress (`\\left`) and without any of its commands, since one formula has many
typesettings. An n-gram is boilerplate when it stands in more than `boilerplate_share` of the held-out questions of h's
benchmark (and in at least `dedup.TEMPLATE_MIN`), or in `HABIT` different ones of all benchmarks (a share of 1 calls
nothing boilerplate): "where m and n are relatively prime positive integers" is a habit, no leak. When one generator
wrote both questions it used one template on purpose, and only `exact` counts, strictly read; the rule of `dedup.py`
looks for near duplicates among them. A benchmark is a family of the held-out set.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any, Literal

from h1r.data.curate.rules.dedup import DRESS, bare_text, number_signature, template, tokens, words
from h1r.records import Problem, normalise_text
from h1r.verify import is_generated

Evidence = Literal["exact", "contained", "ngram"]
STRENGTH: tuple[Evidence, ...] = ("exact", "contained", "ngram")

MIN_CONTAINED = 5
"""Tokens a held-out question must have before finding it inside another means anything. Our choice."""


def benchmark(problem: Problem) -> str:
    """The name under which a held-out problem is reported: its family, or its source when it has no family."""
    return problem.source if problem.family == "default" and problem.source else problem.family


HABIT = 10
"""Different held-out questions that make an n-gram a habit of the trade. Our choice; GPT-3's filter had ten, too."""

_COMMAND = re.compile(r"\\[A-Za-z]+")


class HeldOutIndex:
    """Held-out questions, ready to be looked up. Memory grows with them only, training questions are streamed."""

    def __init__(self, held_out: Sequence[Problem], ngram: int = 13, boilerplate_share: float = 0.05) -> None:
        self.held_out = list(held_out)
        self.ngram = ngram
        self._signatures = [number_signature(problem.question) for problem in self.held_out]
        self._same: dict[str, list[int]] = defaultdict(list)
        self._bare: dict[str, list[int]] = defaultdict(list)
        self._short: dict[tuple[str, str], list[tuple[int, list[str]]]] = defaultdict(list)
        self._grams: dict[str, list[int]] = defaultdict(list)
        members: dict[str, list[int]] = defaultdict(list)
        for index, problem in enumerate(self.held_out):
            members[benchmark(problem)].append(index)
            self._same[normalise_text(problem.question)].append(index)
            self._bare[bare_text(problem.question)].append(index)
            found = tokens(problem.question)
            if len(words(problem.question)) < ngram and len(found) >= MIN_CONTAINED:
                self._short[found[0], found[1]].append((index, found))
        for indices in members.values():
            boilerplate = template((set(self._ngrams(self.held_out[i])) for i in indices), boilerplate_share)
            for index in indices:
                for gram in set(self._ngrams(self.held_out[index])) - boilerplate:
                    self._grams[gram].append(index)
        habits = [gram for gram, indices in self._grams.items() if len(indices) >= HABIT and boilerplate_share < 1]
        for gram in habits:
            if len({bare_text(self.held_out[index].question) for index in self._grams[gram]}) >= HABIT:
                del self._grams[gram]

    def overlaps(self, problem: Problem) -> dict[int, Evidence]:
        """Which held-out problems (by index) a training problem overlaps, each with its strongest evidence."""
        found: dict[int, Evidence] = {}
        found.update(dict.fromkeys(self._same.get(normalise_text(problem.question), ()), "exact"))
        if not is_generated(problem):
            found.update(dict.fromkeys(self._bare.get(bare_text(problem.question), ()), "exact"))
        for index in self._contained(problem.question):
            if not self._one_generator(problem, index):
                found.setdefault(index, "contained")
        for gram in set(self._ngrams(problem)):
            for index in self._grams.get(gram, ()):
                if not self._one_generator(problem, index):
                    found.setdefault(index, "ngram")
        return found

    def _ngrams(self, problem: Problem) -> Iterator[str]:
        plain = DRESS.sub(" ", problem.question)
        texts = [plain]
        if "\\" in plain:
            texts.append(_COMMAND.sub(" ", plain))
        for text in texts:
            found = words(text)
            for start in range(len(found) - self.ngram + 1):
                yield " ".join(found[start : start + self.ngram])

    def _contained(self, question: str) -> Iterator[int]:
        found = tokens(question)
        signature = number_signature(question)
        for start, pair in enumerate(pairwise(found)):
            for index, short in self._short.get(pair, ()):
                if found[start : start + len(short)] == short and signature == self._signatures[index]:
                    yield index

    def _one_generator(self, problem: Problem, index: int) -> bool:
        held = self.held_out[index]
        same = problem.verifier == held.verifier and problem.family == held.family
        return same and is_generated(problem)


class Overlaps:
    """Which training problems overlapped which benchmark, added up; `names` are the benchmarks of held-out problems."""

    def __init__(self, index: HeldOutIndex) -> None:
        self._index = index
        self._hits: dict[str, Counter[Evidence]] = {benchmark(problem): Counter() for problem in index.held_out}
        self._hit: set[int] = set()
        self.seen = 0

    def check(self, problem: Problem) -> tuple[Evidence, Problem] | None:
        """Counts a training problem; its strongest evidence of an overlap and the held-out problem, or None."""
        self.seen += 1
        found = self._index.overlaps(problem)
        if not found:
            return None
        self._hit.update(found)
        strongest: dict[str, Evidence] = {}
        for held, evidence in found.items():
            name = benchmark(self._index.held_out[held])
            strongest[name] = min(strongest.get(name, evidence), evidence, key=STRENGTH.index)
        for name, evidence in strongest.items():
            self._hits[name][evidence] += 1
        twin, evidence = min(found.items(), key=lambda pair: (STRENGTH.index(pair[1]), pair[0]))
        return evidence, self._index.held_out[twin]

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
