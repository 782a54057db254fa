"""Where a trace begins to repeat itself, told from its token ids while it is generated.

    a loop of n tokens    the last max(repeats p, shortest) of them, for a period p <= `period`, each equal to the one p
                          before it, but for the first p of these

`response.repetition` reads whole texts instead. Definition and limits are our choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from h1r.common.bounds import bounded, out_of_bounds

LONGEST_PERIOD = 4096
"""Tokens of the longest loop that is looked for: each token of a trace is compared with as many; our choice."""
_MOST = 1 << 20


@dataclass(frozen=True, slots=True)
class Loop:
    """What counts as a loop: at least `repeats` copies of at most `period` tokens, `shortest` tokens in all. Raises
    `ValueError` for less than 2 copies or one token, for a period beyond `LONGEST_PERIOD`, and for more of the others
    than any trace has."""

    repeats: int = bounded(4, minimum=2, maximum=_MOST)
    period: int = bounded(128, minimum=1, maximum=LONGEST_PERIOD)
    shortest: int = bounded(64, minimum=1, maximum=_MOST)

    def __post_init__(self) -> None:
        if out_of_bounds(self):
            raise ValueError(
                f"{self} is no loop; repeats are at least 2, shortest at least 1, period 1 to {LONGEST_PERIOD}"
            )


class LoopWatch:
    """Tells of each token whether a trace is in a loop with it. O(period) a token, and as much memory."""

    def __init__(self, loop: Loop) -> None:
        sizes = np.arange(1, loop.period + 1)
        self._needed = np.maximum((loop.repeats - 1) * sizes, loop.shortest - sizes)
        self._same = np.zeros(loop.period, dtype=np.int64)
        """Of each period, for how many tokens each has equalled the one that much before it."""
        self._last = np.full(loop.period, -1, dtype=np.int64)
        """The last tokens, the latest first."""

    def add(self, token: int) -> bool:
        self._same = (self._same + 1) * (self._last == token)
        self._last[1:] = self._last[:-1]
        self._last[0] = token
        return bool((self._same >= self._needed).any())


def loop_end(token_ids: Sequence[int], loop: Loop) -> int | None:
    """How many tokens there are when a trace first is in a loop; None if it never is. O(tokens x period)."""
    ids = np.asarray(token_ids)
    first: int | None = None
    for size in range(1, min(loop.period, len(ids) // loop.repeats) + 1):
        needed = max((loop.repeats - 1) * size, loop.shortest - size)
        same = np.concatenate(([0], np.cumsum(ids[size:] == ids[:-size])))
        hits = np.flatnonzero(same[needed:] - same[:-needed] == needed)
        if hits.size:
            end = size + needed + int(hits[0])
            first = end if first is None else min(first, end)
    return first
