"""What is known of each of very many answers, in arrays: some 70 bytes each once it is known, and no object.

Arrays begin as zeros, which take no memory before they are written, so a column that no answer has costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

import numpy as np

from h1r.evals.metrics import USAGE, Answer
from h1r.records import REASONS, FinishReason

_FINISHES: tuple[FinishReason, ...] = get_args(FinishReason)
_KNOWN, _ANSWERED, _UNANSWERABLE, _GRADED, _USAGE, _SURE, _ROOM = (1 << bit for bit in range(7))


class AnswerColumns:
    """Answers by number, 0 to count - 1; `offset` and `verdict_offset`: where its line of a file begins, and that of
    its verdict, -1 before there is one."""

    def __init__(self, count: int) -> None:
        self._flags = np.zeros(count, np.uint8)
        self._finish = np.zeros(count, np.uint8)
        self._reason = np.zeros(count, np.uint8)
        self._tokens = np.zeros(count, np.int64)
        self._room = np.zeros(count, np.int64)
        self._reward = np.zeros(count, np.float64)
        self._sure = np.zeros(count, np.float64)
        self._usage = np.zeros((count, len(USAGE)), np.int64)
        self._places = np.zeros((count, 2), np.int64)
        self._lacks = np.zeros(count, np.uint8)

    def put(self, number: int, answer: Answer, lacks: int | None = None) -> None:
        """Takes an answer in place of what was there. lacks: 8 bits of the caller's own, None: as they were.
        `ValueError` for an end or a reason that is none."""
        flags = _KNOWN | (_ANSWERED if answer.answered else 0) | (_UNANSWERABLE if answer.unanswerable else 0)
        self._finish[number] = _FINISHES.index(answer.finish_reason)
        self._reason[number] = 0 if answer.reason is None else REASONS.index(answer.reason) + 1
        self._tokens[number] = answer.tokens
        if answer.reward is not None:
            flags, self._reward[number] = flags | _GRADED, answer.reward
        if answer.confidence is not None:
            flags, self._sure[number] = flags | _SURE, answer.confidence
        if answer.room is not None:
            flags, self._room[number] = flags | _ROOM, answer.room
        if answer.usage is not None:
            flags, self._usage[number] = flags | _USAGE, answer.usage
        if lacks is not None:
            self._lacks[number] = lacks
        self._flags[number] = flags

    def lacking(self) -> int:
        """The bits that any answer has."""
        return int(np.bitwise_or.reduce(self._lacks))

    def get(self, number: int) -> Answer | None:
        """The answer, None where it is not known."""
        flags = int(self._flags[number])
        if not flags & _KNOWN:
            return None
        reason = int(self._reason[number])
        return Answer(
            tokens=int(self._tokens[number]),
            finish_reason=_FINISHES[self._finish[number]],
            answered=bool(flags & _ANSWERED),
            reward=float(self._reward[number]) if flags & _GRADED else None,
            reason=REASONS[reason - 1] if reason else None,
            unanswerable=bool(flags & _UNANSWERABLE),
            usage=tuple(self._usage[number].tolist()) if flags & _USAGE else None,
            confidence=float(self._sure[number]) if flags & _SURE else None,
            room=int(self._room[number]) if flags & _ROOM else None,
        )

    def known(self) -> Iterator[int]:
        """The numbers of what is known, in order."""
        return map(int, np.flatnonzero(self._flags & _KNOWN))

    def offset(self, number: int) -> int:
        return int(self._places[number, 0]) - 1

    def verdict_offset(self, number: int) -> int:
        return int(self._places[number, 1]) - 1

    def set_offset(self, number: int, offset: int) -> None:
        self._places[number, 0] = offset + 1

    def set_verdict_offset(self, number: int, offset: int) -> None:
        """-1: there is none any more."""
        self._places[number, 1] = offset + 1
