"""Held-out, training and RL problems, disjoint by content.

The three sets are drawn in that order from each source's one stream, so enlarging the training sets never changes the
held-out one. Two questions are the same content when `records.normalise_text` makes them equal; a content that was
drawn once is skipped for ever after, across sources and sets.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from h1r.common.progress import Bar
from h1r.config import FileSource, GeneratedSource, ProblemsSection
from h1r.data.curate.io.generated import Source, derive_seed, open_source
from h1r.errors import UserError
from h1r.records import BadLine, Problem, normalise_text

MAX_REPEATS = 1000
"""Already drawn questions in a row after which a source counts as exhausted."""


@dataclass(frozen=True, slots=True)
class Splits:
    """Three lists of problems, no question in two of them."""

    held_out: list[Problem]
    train: list[Problem]
    rl: list[Problem]


def split_problems(section: ProblemsSection, bad: list[BadLine], bar: Bar | None = None) -> Splits:
    """Draws `held_out`, then `train`, then `rl` problems, each divided among the sources by their shares.

    Deterministic in `section`. Each set comes out shuffled, so that a prefix of it is a fair sample. Unreadable lines
    of files are appended to `bad`; `bar` advances by one per problem. Raises `UserError` when there is no source, when
    one cannot give enough different questions, or when two different questions carry the same id.
    """
    if not section.sources:
        raise UserError("problems.sources is empty; add at least one [[problems.sources]] table")
    streams = [
        _Stream(source, open_source(source, derive_seed(section.seed, "source", number), bad))
        for number, source in enumerate(section.sources)
    ]
    seen: set[str] = set()
    ids: set[str] = set()
    shares = [source.share for source in section.sources]
    sets: dict[str, list[Problem]] = {}
    for name, size in (("held_out", section.held_out), ("train", section.train), ("rl", section.rl)):
        drawn: list[Problem] = []
        for stream, count in zip(streams, apportion(size, shares), strict=True):
            for problem in stream.draw(count, seen):
                if problem.id in ids:
                    raise UserError(
                        f"{problem.source}: two different questions have the id `{problem.id}`; "
                        f"remove `id` from `columns` to have ids made from the content"
                    )
                ids.add(problem.id)
                drawn.append(problem)
                if bar is not None:
                    bar.advance()
        random.Random(derive_seed(section.seed, "order", name)).shuffle(drawn)
        sets[name] = drawn
    splits = Splits(**sets)
    check_disjoint(splits.held_out, splits.train)
    check_disjoint(splits.held_out, splits.rl)
    check_disjoint(splits.train, splits.rl)
    return splits


def apportion(total: int, shares: Sequence[float]) -> list[int]:
    """`total` divided in proportion to positive `shares` by largest remainder; the counts sum to `total`.

    Equal remainders go to the earlier share.
    """
    exact = [total * share / sum(shares) for share in shares]
    counts = [int(value) for value in exact]
    by_remainder = sorted(range(len(shares)), key=lambda place: counts[place] - exact[place])
    for place in by_remainder[: total - sum(counts)]:
        counts[place] += 1
    return counts


def check_disjoint(a: Iterable[Problem], b: Iterable[Problem]) -> None:
    """Raises `ValueError` naming the first question of `b` whose normalised text is also in `a`."""
    known = {normalise_text(problem.question): problem for problem in a}
    for problem in b:
        twin = known.get(normalise_text(problem.question))
        if twin is not None:
            raise ValueError(f"problems {twin.id} and {problem.id} are the same question: {problem.question[:200]!r}")


class _Stream:
    """A source that has been opened once and is read on from where the last set ended."""

    def __init__(self, section: GeneratedSource | FileSource, source: Source) -> None:
        self._section = section
        self._name = source.name
        self._problems = source.problems()
        self._given = 0

    def draw(self, count: int, seen: set[str]) -> Iterator[Problem]:
        """The next `count` problems whose content is not in `seen`; adds them to it."""
        wanted = self._given + count
        repeats = 0
        while self._given < wanted:
            problem = next(self._problems, None)
            if problem is None or repeats == MAX_REPEATS:
                raise self._dry(wanted)
            content = normalise_text(problem.question)
            if content in seen:
                repeats += 1
                continue
            seen.add(content)
            repeats = 0
            self._given += 1
            yield problem

    def _dry(self, wanted: int) -> UserError:
        if isinstance(self._section, FileSource):
            mend = "lower problems.held_out, train or rl, or its `share`"
        else:
            mend = f"widen its knobs (now {self._section.knobs or 'the defaults'}) or lower its `share`"
        return UserError(
            f"problems.sources: `{self._name}` gave {self._given} different questions and {wanted} are needed; {mend}"
        )
