"""Data of several kinds, mixed so that every batch has its share of each (`[[sft.mixture]]`; arXiv 2601.02346,
section 2).

    documents of each part --Passes.orders(n)--> what pass n shows of each part, in order
        --pack--> rows of one part each --interleaved--> rows of all, in which every stretch has the shares

A pass is as many tokens as the parts have together. Of each part it shows as many documents as its share of these
tokens is, taken from an endless series of shuffled copies of the part: pass n begins where pass n - 1 stopped. So the
position is the number of the step, as without a mixture, and no document of a part is shown more than once more than
another.
"""

from __future__ import annotations

import random
import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeVar, overload

from h1r.common.progress import note
from h1r.common.prose import counted
from h1r.config import MixedDataSection
from h1r.errors import UserError
from h1r.train.documents import Document, Documents, StoredDocument

Row = TypeVar("Row")


class Joined(Sequence[Any]):
    """The documents of several sequences, one after the other."""

    def __init__(self, parts: Sequence[Documents]) -> None:
        self._parts = parts
        self._ends = list(accumulate(map(len, parts)))

    def __len__(self) -> int:
        return self._ends[-1]

    @overload
    def __getitem__(self, place: int) -> Document | StoredDocument: ...
    @overload
    def __getitem__(self, place: slice) -> list[Document | StoredDocument]: ...
    def __getitem__(self, place: int | slice) -> Document | StoredDocument | list[Document | StoredDocument]:
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(len(self)))]
        place = range(len(self))[place]
        part = bisect_right(self._ends, place)
        return self._parts[part][place - self._ends[part]]  # counted from the end of the part


class Passes:
    """What each pass over a mixture shows of its parts. A function of (lengths, sources, shares, seed).

    lengths: tokens of each document. sources: the part that each belongs to. Raises `UserError` for a part without
    documents.
    """

    def __init__(self, lengths: Sequence[int], sources: Sequence[int], mixture: Sequence[MixedDataSection], seed: int):
        self._seed = seed
        self._copies: dict[int, tuple[int, list[int]]] = {}
        self._members: list[list[int]] = [[] for _ in mixture]
        for place, source in enumerate(sources):
            self._members[source].append(place)
        total, shares = sum(lengths), sum(part.share for part in mixture)
        self.counts: list[int] = []
        """Documents of each part in a pass."""
        for part, members in zip(mixture, self._members, strict=True):
            if not members:
                raise UserError(f"nothing of {part.data} is left to train on; leave it out of sft.mixture")
            mean = sum(lengths[place] for place in members) / len(members)
            self.counts.append(max(1, round(part.share / shares * total / mean)))

    def orders(self, number: int) -> list[list[int]]:
        """The documents of each part that pass `number` shows, in order, from 0 on."""
        return [[self._at(part, number * count + at) for at in range(count)] for part, count in enumerate(self.counts)]

    def told(self, mixture: Sequence[MixedDataSection]) -> None:
        """Prints what a pass shows of each part."""
        shares = sum(part.share for part in mixture)
        for part, count, members in zip(mixture, self.counts, self._members, strict=True):
            documents, times = counted(len(members), "document"), count / len(members)
            note(f"{part.data}: {part.share / shares:.1%} of the tokens; {documents}, each {times:.3g} times in a pass")

    def _at(self, part: int, position: int) -> int:
        """The document at a position of the endless series of shuffled copies of a part."""
        members = self._members[part]
        copy, at = divmod(position, len(members))
        if self._copies.get(part, (-1, []))[0] != copy:
            order = list(members)
            random.Random(f"sft {self._seed} part {part} copy {copy}").shuffle(order)
            self._copies[part] = (copy, order)
        return self._copies[part][1][at]


def labels_of(mixture: Sequence[MixedDataSection]) -> list[str]:
    """A name for each part, by which its loss is logged: that of its file, or of the run that it was curated in, or of
    its directory; equal ones are numbered. Letters that a tracker may refuse are underscores."""
    paths = [Path(part.data) for part in mixture]
    each = [path.parent.name if path.name == "curate" and path.parent.name else path.name for path in paths]
    names = [re.sub(r"[^\w.-]", "_", name, flags=re.ASCII) for name in each]
    return [name if names.count(name) == 1 else f"{name} {at}" for at, name in enumerate(names, start=1)]


def interleaved(parts: Sequence[Sequence[Row]]) -> list[Row]:
    """All rows of all parts, each part in its order, such that every stretch has nearly the share of each part that the
    whole has: row i of the n of a part stands at (i + 1/2) / n of the way."""
    placed: Iterable[tuple[float, int, int]] = (
        ((at + 0.5) / len(rows), part, at) for part, rows in enumerate(parts) for at in range(len(rows))
    )
    return [parts[part][at] for _, part, at in sorted(placed)]
