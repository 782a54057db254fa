"""Held-out, training and RL problems, drawn from the sources that have a share; disjoint by content.

The three sets are drawn in that order from each source's one stream, so enlarging the training sets never changes the
held-out one. A generated stream never ends, a file's rows come shuffled within a window. Two questions are the same
content when `records.normalise_text` makes them equal; a content that was drawn once is skipped for ever after, across
sources and sets. What is drawn is held in memory.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from h1r.common.progress import Bar
from h1r.common.prose import counted
from h1r.config import CorpusSection, CorpusSource, GeneratedSource, ProblemsSection
from h1r.data.curate.io.generated import GeneratedProblems, derive_seed
from h1r.data.curate.io.items import Item
from h1r.data.curate.io.read import Reader, files_of
from h1r.errors import UserError
from h1r.records import BadLine, normalise_text

MAX_REPEATS = 1000
"""Already drawn questions in a row after which a source counts as exhausted."""
SHUFFLE_BUFFER = 4096
"""Rows of a file held for shuffling: a file in order of difficulty must not put all hard problems into one set."""
BadRow = tuple[str, BadLine]
"""Name of the source, and the row that could not be read."""


@dataclass(frozen=True, slots=True)
class Splits:
    """Three lists of items, no question in two of them; `use` says which list an item is in."""

    held_out: list[Item]
    train: list[Item]
    rl: list[Item]


def drawn_sources(corpus: CorpusSection) -> list[GeneratedSource | CorpusSource]:
    """The sources that have a share, in the order of the recipe."""
    return [source for source in corpus.sources if source.share is not None]


def draw_problems(section: ProblemsSection, corpus: CorpusSection, bad: list[BadRow], bar: Bar | None = None) -> Splits:
    """Draws `held_out`, then `train`, then `rl` problems, each divided among the sources by their shares.

    Deterministic in its sections. Each set comes out shuffled, so that a prefix of it is a fair sample. Unreadable rows
    of files are appended to `bad`; `bar` advances by one per problem. Raises `UserError` when no source has a share,
    when one cannot give enough different questions, or when two different questions carry the same id.
    """
    sources = drawn_sources(corpus)
    if not sources:
        raise UserError("corpus.sources has no source to draw from; add at least one [[corpus.sources]] with a share")
    streams = [
        _Stream(source, _items(source, corpus, derive_seed(section.seed, "source", number), bad))
        for number, source in enumerate(sources)
    ]
    seen: set[str] = set()
    ids: set[str] = set()
    shares = [source.share or 0.0 for source in sources]
    sets: dict[str, list[Item]] = {}
    for name, use, size in (
        ("held_out", "held_out", section.held_out), ("train", "sft", section.train), ("rl", "rl", section.rl)
    ):  # fmt: skip
        drawn: list[Item] = []
        for stream, count in zip(streams, apportion(size, shares), strict=True):
            for item in stream.draw(count, seen):
                if item.problem.id in ids:
                    raise UserError(
                        f"{item.source}: two different questions have the id `{item.problem.id}`; "
                        f"remove `id` from `columns` to have ids made from the content"
                    )
                ids.add(item.problem.id)
                item.use = use
                drawn.append(item)
                if bar is not None:
                    bar.advance()
        random.Random(derive_seed(section.seed, "order", name)).shuffle(drawn)
        sets[name] = drawn
    return Splits(**sets)


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


def _items(
    source: GeneratedSource | CorpusSource, corpus: CorpusSection, seed: int, bad: list[BadRow]
) -> Iterator[Item]:
    if isinstance(source, GeneratedSource):
        stream = GeneratedProblems(source, seed)
        return (Item(0, problem, source.name, source.domain, "sft") for problem in stream.problems())
    return _shuffled(_rows(source, corpus, bad), seed)


def _rows(source: CorpusSource, corpus: CorpusSection, bad: list[BadRow]) -> Iterator[Item]:
    """The usable rows of a source's files. `UserError` for a file without any."""
    asked = {"question", "prompt"} & set(source.columns)
    columns = {"answer": "answer", **({} if asked else {"question": "question"}), **source.columns}
    for path in files_of(source, corpus.root):
        reader = Reader(source.model_copy(update={"columns": columns}), path, 0, corpus.max_question_chars)
        usable = 0
        for item in reader.items():
            if item.problem.question.strip() and (item.problem.answer.strip() or "tests" in item.problem.metadata):
                usable += 1
                yield item
            else:
                empty = "answer" if item.problem.question.strip() else "question"
                reader.bad.append(BadLine(path, item.ordinal, f"the {empty} is empty", item.problem.question[:2000]))
        bad.extend((source.name, line) for line in reader.bad)
        if not usable:
            first = f" (row {reader.bad[0].line}: {reader.bad[0].why})" if reader.bad else ""
            raise UserError(f"{path}: no usable row{first}; check the file and `columns`")


def _shuffled(items: Iterator[Item], seed: int) -> Iterator[Item]:
    rng = random.Random(seed)
    window = list(itertools.islice(items, SHUFFLE_BUFFER))
    rng.shuffle(window)
    for item in items:
        place = rng.randrange(len(window))
        window[place], item = item, window[place]
        yield item
    yield from window


class _Stream:
    """A source that has been opened once and is read on from where the last set ended."""

    def __init__(self, section: GeneratedSource | CorpusSource, items: Iterator[Item]) -> None:
        self._section = section
        self._items = items
        self._given = 0

    def draw(self, count: int, seen: set[str]) -> Iterator[Item]:
        """The next `count` items whose content is not in `seen`; adds them to it."""
        wanted = self._given + count
        repeats = 0
        while self._given < wanted:
            item = next(self._items, None)
            if item is None or repeats == MAX_REPEATS:
                raise self._dry(wanted)
            content = normalise_text(item.problem.question)
            if content in seen:
                repeats += 1
                continue
            seen.add(content)
            repeats = 0
            self._given += 1
            yield item

    def _dry(self, wanted: int) -> UserError:
        if isinstance(self._section, CorpusSource):
            mend = "lower problems.held_out, train or rl, or its `share`"
        else:
            mend = f"widen its knobs (now {self._section.knobs or 'the defaults'}) or lower its `share`"
        return UserError(
            f"corpus.sources: `{self._section.name}` gave {counted(self._given, 'different question')} and "
            f"{wanted} are needed; "
            f"{mend}"
        )
