"""The benchmarks of an evaluation while it runs: on a terminal a table that lives, elsewhere plain lines, one benchmark
after the other (`common/progress.py`).

    benchmark, answers (done / all), right so far, tokens/s, time, left

Where a benchmark ended before, or was left by a stopped attempt, its answers are among those done and in no rate.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol

from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from h1r.common.progress import FIRST_ESTIMATE, Bar, format_seconds, is_quiet
from h1r.common.progress import progress as show_progress
from h1r.common.prose import counted

REFRESHES_PER_SECOND = 1
_FRAME = 8
"""Lines of a terminal that are no row of a benchmark: head, sum, what is left out, and a prompt."""


class Display(Protocol):
    """What shows an evaluation."""

    def progress(self, name: str, total: int | None, unit: str) -> AbstractContextManager[Bar]:
        """See `common.progress.progress`; `name` is a benchmark's."""
        ...

    def ended(self, name: str, score: float) -> None:
        """A benchmark has its score, 0 to 1; perhaps it had it before."""
        ...


@dataclass
class _Row:
    total: int
    bar: Bar | None = None
    seconds: float | None = None
    score: float | None = None

    @property
    def done(self) -> int:
        """Answers that are there."""
        return self.total if self.score is not None else self.bar.done if self.bar is not None else 0

    @property
    def now(self) -> int:
        """Answers of this attempt."""
        return 0 if self.bar is None else self.bar.done_now

    @property
    def tokens(self) -> int:
        """Tokens of this attempt."""
        return 0 if self.bar is None else int(self.bar.values.get("tokens", 0))


class Board:
    """The table. totals: how many answers each benchmark is to have, in order."""

    def __init__(self, totals: Mapping[str, int]) -> None:
        self._rows = {name: _Row(total) for name, total in totals.items()}
        self._running: str | None = None

    @contextmanager
    def progress(self, name: str, total: int | None, unit: str) -> Iterator[Bar]:
        """See `Display.progress`."""
        row, self._running = self._rows[name], name
        row.bar = Bar(name, total, unit)
        try:
            yield row.bar
        finally:
            row.seconds = row.bar.elapsed

    def ended(self, name: str, score: float) -> None:
        """See `Display.ended`."""
        self._rows[name].score = score

    def table(self, height: int) -> Table:
        """As it stands, in at most so many lines: rows around the one that runs."""
        names = list(self._rows)
        kept = max(height - _FRAME, 3)
        at = names.index(self._running) if self._running is not None else 0
        start = max(0, min(at - kept // 2, len(names) - kept))
        shown = names[start : start + kept]
        left_out = len(names) - len(shown)
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_footer=len(names) > 1)
        heads = ("benchmark", "answers", "right", "tokens/s", "time", "left")
        for head, foot in zip(heads, self._sum(), strict=True):
            table.add_column(head, foot, justify="left" if head == "benchmark" else "right", no_wrap=True)
        for name in shown:
            cells = map(Text, _cells(name, self._rows[name]))
            table.add_row(*cells, style="bold" if name == self._running else None)
        if left_out:
            table.caption = f"and {counted(left_out, 'benchmark')} more"
        return table

    def _sum(self) -> tuple[str, ...]:
        rows = self._rows.values()
        done, total, now = (sum(values) for values in zip(*((r.done, r.total, r.now) for r in rows), strict=True))
        seconds = sum(_elapsed(row) for row in rows)
        rate = now / seconds if seconds else 0.0
        tokens = sum(row.tokens for row in rows)
        left = format_seconds((total - done) / rate) if rate and now >= FIRST_ESTIMATE and done < total else ""
        return "all", f"{done:,}/{total:,}", "", _per_second(tokens, seconds), format_seconds(seconds), left


class _Lines:
    """Each benchmark by itself."""

    def progress(self, name: str, total: int | None, unit: str) -> AbstractContextManager[Bar]:
        return show_progress(name, total, unit)

    def ended(self, name: str, score: float) -> None:
        pass


@contextmanager
def display(totals: Mapping[str, int], console: Console | None = None) -> Iterator[Display]:
    """The display that suits `console`, standard error as a rule, until the end of the block; totals as for `Board`."""
    console = console or Console(stderr=True)
    if is_quiet() or not console.is_terminal or not totals:
        yield _Lines()
        return
    board = Board(totals)
    with Live(
        get_renderable=lambda: board.table(console.height),
        console=console,
        refresh_per_second=REFRESHES_PER_SECOND,
        transient=len(totals) > 1,  # each has said its row, and the command prints them all
    ):
        yield board


def _cells(name: str, row: _Row) -> tuple[str, ...]:
    bar, right = row.bar, row.score
    if right is None and bar is not None and "right" in bar.values:
        right = float(bar.values["right"])
    seconds = _elapsed(row)
    left = bar.remaining if bar is not None and row.seconds is None else None
    return (
        name,
        f"{row.done:,}/{row.total:,}",
        "" if right is None else f"{100 * right:.1f}%",
        _per_second(row.tokens, seconds),
        format_seconds(seconds) if bar is not None else "",
        "" if left is None or row.done >= row.total else format_seconds(left),
    )


def _elapsed(row: _Row) -> float:
    """Seconds of this attempt."""
    return row.seconds if row.seconds is not None else 0.0 if row.bar is None else row.bar.elapsed


def _per_second(tokens: int, seconds: float) -> str:
    return f"{tokens / seconds:,.0f}" if tokens and seconds else ""
