"""Which answers of one problem vote together.

Equivalence of answers is symmetric and not transitive: 0.333 equals 1/3 to its decimals and so does 0.333333, which
differ; the bare list 1,2 equals (1,2) and, unordered, 2,1. So a group is a star: its centre, and answers equivalent to
that centre. Distinct answers are taken from the most frequent to the rarest, earlier ones first where they are equally
frequent; each joins the first centre that it is equivalent to, or becomes a centre. The result is a function of the
answers and their order in the vote, not of the order in which traces happened to end.

Cost: each pair of distinct answers is compared at most once, and no more than `MAX_PAIRS` pairs of a problem are. A
model that gives hundreds of different answers has no majority to find; what comes after the limit stands alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

Equivalent = Callable[[str, str], bool]
"""Whether two answers mean the same. Called with the shorter one first, once a pair."""

MAX_PAIRS = 100_000


class AnswerGroups:
    """Groups the answers of one problem, and remembers every pair that it has compared."""

    def __init__(self, equivalent: Equivalent, max_pairs: int = MAX_PAIRS) -> None:
        self._equivalent = equivalent
        self._max_pairs = max_pairs
        self._known: dict[tuple[str, str], bool] = {}

    def __call__(self, answers: Sequence[str | None]) -> list[str | None]:
        """The centre of each answer's group, which is itself one of the answers; None where there is no answer."""
        counts: dict[str, int] = {}
        for answer in answers:
            if answer is not None:
                counts[answer] = counts.get(answer, 0) + 1
        centres: list[str] = []
        centre_of: dict[str, str] = {}
        for answer in sorted(counts, key=lambda one: -counts[one]):  # stable: first come, first served
            found = next((centre for centre in centres if self._same(centre, answer)), None)
            if found is None:
                centres.append(answer)
            centre_of[answer] = answer if found is None else found
        return [None if answer is None else centre_of[answer] for answer in answers]

    def _same(self, one: str, other: str) -> bool:
        pair = (one, other) if (len(one), one) <= (len(other), other) else (other, one)
        if pair not in self._known:
            if len(self._known) >= self._max_pairs:
                return False
            self._known[pair] = self._equivalent(*pair)
        return self._known[pair]
