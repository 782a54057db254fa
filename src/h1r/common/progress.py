"""How far a long stage is: count, rate and estimate, always on standard error.

    with progress("SFT", total=300, unit="step") as bar:
        bar.advance(loss=1.23)

On a terminal it is a live bar. Elsewhere (a log file, CI) it is a plain line first, then at most one every
`PLAIN_PERIOD` seconds, and one last, so that a log stays readable. `quiet()` turns it off for machine-readable output.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from h1r.common.prose import figures, plural_of

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Task
    from rich.text import Text

PLAIN_PERIOD = 10.0
"""Seconds between plain lines."""
FIRST_ESTIMATE = 10
"""Units, or seconds, before a time that is left is named: what starts a stage would count as work."""

_quiet = False
_said: set[str] | None = None
"""Inside of `saying_once`: what need not be said again."""


def note(text: str, repeat: bool = True) -> None:
    """One line on standard error, unless progress is quiet. repeat: also where `saying_once` has had the same line."""
    if _quiet:
        return
    if not repeat and _said is not None:
        if text in _said:
            return
        _said.add(text)
    print(text, file=sys.stderr)


@contextmanager
def saying_once() -> Iterator[None]:
    """In the block, lines that would be the same in every stage (`note` with repeat False) are said once."""
    global _said
    _said = set()
    try:
        yield
    finally:
        _said = None


def quiet(on: bool = True) -> None:
    """Turns every later progress display off (or on again)."""
    global _quiet
    _quiet = on


def is_quiet() -> bool:
    """Whether progress displays are off."""
    return _quiet


class Bar:
    """A running count. `done` units of `total` (None: unknown) after `elapsed` seconds."""

    def __init__(self, name: str, total: int | None, unit: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.name = name
        self.total = total
        self.unit = unit
        self.done = 0
        self.values: dict[str, float | int | str] = {}
        self._clock = clock
        self._start = clock()
        self._first = 0

    def start_at(self, done: int) -> None:
        """A resumed stage starts here: `done` units belong to an earlier attempt and do not enter the rate."""
        self.done = self._first = done
        self._show()

    def advance(self, count: int = 1, **values: float | int | str) -> None:
        """`count` more units are done; `values` are the latest measurements to show beside them."""
        self.done += count
        self.values.update(values)
        self._show()

    @property
    def elapsed(self) -> float:
        return self._clock() - self._start

    @property
    def done_now(self) -> int:
        """Units of this attempt."""
        return self.done - self._first

    @property
    def rate(self) -> float:
        """Units per second since the start of this attempt; 0 while nothing is done."""
        return self.done_now / self.elapsed if self.elapsed > 0 else 0.0

    @property
    def remaining(self) -> float | None:
        """Estimated seconds to the end; None while it cannot be known: by the first unit alone it never is."""
        early = self.done_now < FIRST_ESTIMATE and (self.done_now < 2 or self.elapsed < FIRST_ESTIMATE)
        if self.total is None or self.rate == 0 or early:
            return None
        return max(self.total - self.done, 0) / self.rate

    def status(self) -> str:
        """`rate, elapsed, estimate, values` as one phrase; without a rate while nothing is done."""
        took = format_seconds(self.elapsed)
        if self.remaining is not None and self.total is not None and self.done < self.total:
            took += f" (about {format_seconds(self.remaining)} left)"
        parts = [_format_rate(self.rate, self.unit), took] if self.rate else [took]
        parts += [f"{key} {_format_value(value)}" for key, value in self.values.items()]
        return ", ".join(parts)

    def line(self) -> str:
        """The plain form: `SFT: 12/300 steps, 1.3 step/s, 0:09 (about 3:41 left), loss 1.23`."""
        return f"{self.name}: {self.count()}, {self.status()}"

    def count(self) -> str:
        """`12/300 steps`, `5 lines`."""
        of, number = ("", self.done) if self.total is None else (f"/{self.total}", self.total)
        return f"{self.done}{of} {self.unit if number == 1 else plural_of(self.unit)}"

    def print(self, text: str, file: TextIO | None = None) -> None:
        """Text on standard output, or `file`, for a person: a display on the same terminal is not broken by it."""
        print(text, file=file, flush=True)

    def close(self) -> None:
        """Shows the last state."""

    def _show(self) -> None:
        """Brings the display up to date; a quiet bar has none."""


class PlainBar(Bar):
    """Lines on a stream that is no terminal."""

    def __init__(
        self,
        name: str,
        total: int | None,
        unit: str,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(name, total, unit, clock)
        self._stream = stream or sys.stderr
        self._printed_at: float | None = None
        self._printed: object = None

    def _show(self) -> None:
        now = self._clock()
        if self._printed_at is None or now - self._printed_at >= PLAIN_PERIOD:
            self._print(now)

    def close(self) -> None:
        if (self.done, self.values) != self._printed:
            self._print(self._clock())

    def _print(self, now: float) -> None:
        self._printed_at, self._printed = now, (self.done, dict(self.values))
        print(self.line(), file=self._stream, flush=True)


class RichBar(Bar):
    """A live bar on a terminal."""

    def __init__(self, name: str, total: int | None, unit: str, console: Console) -> None:
        from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn
        from rich.text import Text

        bar = self

        class Status(ProgressColumn):
            def render(self, task: Task) -> Text:
                return Text(bar.status(), style="dim")

        super().__init__(name, total, unit)
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(24), TextColumn("{task.fields[count]}"), Status(),
            console=console, refresh_per_second=4,
        )  # fmt: skip
        self._task = self._progress.add_task(name, total=total, count=self.count())
        self._progress.start()

    def _show(self) -> None:
        self._progress.update(self._task, completed=self.done, count=self.count())

    def print(self, text: str, file: TextIO | None = None) -> None:
        """Above the bar, on its terminal, whatever the `file`."""
        from rich.text import Text

        self._progress.console.print(Text(text), soft_wrap=True)

    def close(self) -> None:
        self._progress.stop()


@contextmanager
def progress(name: str, total: int | None = None, unit: str = "it") -> Iterator[Bar]:
    """A progress display for the block, of the kind that suits standard error."""
    from rich.console import Console  # which --help, and whoever shows no progress, does without

    console = Console(stderr=True)
    if _quiet:
        bar = Bar(name, total, unit)
    elif console.is_terminal:
        bar = RichBar(name, total, unit, console)
    else:
        bar = PlainBar(name, total, unit)
    try:
        yield bar
    finally:
        bar.close()


def _format_rate(rate: float, unit: str) -> str:
    if 0 < rate < 1:
        return f"{figures(1 / rate)} s/{unit}"
    return f"{rate:,.0f} {unit}/s" if rate >= 100 else f"{rate:.3g} {unit}/s"


def format_seconds(seconds: float) -> str:
    """`0:09`, `3:41`, `1:02:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _format_value(value: float | int | str) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
