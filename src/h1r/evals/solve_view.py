"""What `h1r solve` shows while it runs: every trace as it lives, on a terminal; plain lines elsewhere.

    trace  state    tokens  confidence   vote  answer
       17  running      34       5.210                      the mean of its current window
       12  done         41       6.037  6.037  100          its lowest window, which is what it votes with
        3  stopped      22       4.891

The frame is drawn from a `ScalingRun` between two steps of its engine, some times a second, and changes nothing in it.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from h1r.common.progress import PlainBar, is_quiet
from h1r.common.prose import counted
from h1r.engine.protocol import Engine, Running, TellsTokens
from h1r.records import Problem
from h1r.scaling.ballot import Ballot, Entry, State
from h1r.scaling.confidence import summarise
from h1r.scaling.parameters import DeepConf
from h1r.scaling.run import ScalingRun

PERIOD = 0.25
"""Seconds between two frames."""
_TAIL = 80
"""Tokens of a running trace that are read for its end."""

LABELS: dict[State | None, str] = {
    None: "done",
    "voted": "done",
    "below_threshold": "below",
    "no_answer": "no answer",
    "stopped": "stopped",
    "cancelled": "cancelled",
    "error": "error",
}
_STYLES = {"running": "cyan", "done": "green", "below": "yellow", "stopped": "yellow", "error": "red"}


@dataclass(slots=True)
class Totals:
    """Over the problems that are finished: how many of how many, tokens spent, and an estimate without stopping."""

    problems: int
    finished: int = 0
    tokens: int = 0
    full: float = 0.0


class View:
    """Shows nothing; what the others have in common."""

    def read(self, engine: Engine, tokenizer: Any) -> None:
        """What the traces of this engine say may be shown, too. It is the one that draws the tokens."""

    def begin(self, run: ScalingRun, problems: Sequence[Problem], totals: Totals) -> None:
        """From now on this run on these problems is shown."""

    def tick(self) -> None:
        """Called as often as anyone likes, between steps and at every trace that ends."""

    def print(self, text: str) -> None:
        """Text on standard output, for a person: a display on the same terminal is not broken by it."""
        print(text, flush=True)

    def close(self) -> None:
        """Leaves the last state on the screen."""


class PlainView(View):
    """A line now and then on a stream that is no terminal."""

    def __init__(self) -> None:
        self._bar = PlainBar("Solve", None, "trace")
        self._run: ScalingRun | None = None
        self._totals = Totals(0)
        self._before = 0
        self._ended = 0

    def begin(self, run: ScalingRun, problems: Sequence[Problem], totals: Totals) -> None:
        self._before += self._ended
        self._run, self._totals, self._ended = run, totals, 0

    def tick(self) -> None:
        if self._run is None:
            return
        ended = sum(len(ballot.entries) for ballot in self._run.ballots)
        if ended > self._ended:
            tokens = self._totals.tokens + sum(ballot.tokens for ballot in self._run.ballots)
            finished = f"{self._totals.finished}/{self._totals.problems}"
            self._bar.advance(ended - self._ended, tokens=tokens, problems=finished)
            self._ended = ended

    def close(self) -> None:
        self._bar.close()


class LiveView(View):
    """A frame on a terminal."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._clock = console, clock
        self._writing: Callable[[], str] | None = None
        self._live = Live(console=console, auto_refresh=False, vertical_overflow="crop")
        self._live.start()
        self._drawn = -PERIOD
        self._begun = clock()
        self._shown: tuple[ScalingRun, Sequence[Problem], Totals] | None = None

    def read(self, engine: Engine, tokenizer: Any) -> None:
        if isinstance(engine, TellsTokens):
            self._writing = lambda: newest_text(engine, tokenizer)

    def begin(self, run: ScalingRun, problems: Sequence[Problem], totals: Totals) -> None:
        self._shown = run, problems, totals

    def tick(self) -> None:
        if self._clock() - self._drawn >= PERIOD:
            self._draw()

    def print(self, text: str) -> None:
        """Above the frame."""
        self._console.print(Text(text), soft_wrap=True)

    def close(self) -> None:
        self._draw()
        self._live.stop()

    def _draw(self) -> None:
        if self._shown is None:
            return
        size = self._console.size
        writing = "" if self._writing is None else self._writing()
        seconds = self._clock() - self._begun
        self._live.update(frame(*self._shown, size.width, size.height, seconds, writing), refresh=True)
        self._drawn = self._clock()


def open_view() -> View:
    """The view that suits standard error, or none when progress is quiet."""
    if is_quiet():
        return View()
    console = Console(file=sys.stderr)
    return LiveView(console) if console.is_terminal else PlainView()


def frame(
    run: ScalingRun,
    problems: Sequence[Problem],
    totals: Totals,
    width: int,
    height: int,
    seconds: float,
    writing: str = "",
) -> RenderableType:
    """The state of a run in `height` lines of `width` columns. writing: the end of a trace that runs."""
    running = run.running()
    of_problem: list[list[Running]] = [[] for _ in problems]
    for one in running:
        of_problem[one.prompt_index].append(one)
    going = [index for index in range(len(problems)) if not run.finished(index)]
    focus = going[0] if going else len(problems) - 1
    several = totals.problems > 1
    listed = min(len(problems), max(3, height // 3)) if len(problems) > 1 else 0
    parts: list[RenderableType] = []
    if listed:
        first = min(max(0, focus - 1), len(problems) - listed)
        parts.append(_problem_table(run, problems, of_problem, range(first, first + listed), focus, width))
    parts.append(Text(" ".join(problems[focus].question.split()), style="bold", no_wrap=True, overflow="ellipsis"))
    said = one_line(writing[-200:])
    if said:
        room = width - len("writes  ")
        tail = said if len(said) <= room else f"…{said[1 - room :]}"
        parts.append(Text(f"writes  {tail}", style="dim", no_wrap=True, overflow="ellipsis"))
    room = height - 10 - bool(said) - (listed + 2 if listed else 0)
    parts.append(_trace_table(run.ballots[focus], of_problem[focus], max(3, room)))
    parts.append(_standing(run, focus))
    parts.append(_spending(run.ballots[focus], of_problem[focus], "tokens"))
    if several:
        parts.append(_all_spending(run, running, totals))
    phase = "warm-up" if run.warming_up(focus) else "until agreed" if run.params.tau is not None else "to the budget"
    finished = totals.finished + len(problems) - len(going)
    method = "DeepConf" if isinstance(run.params, DeepConf) else type(run.params).__name__
    head = f"{method}, {counted(run.params.budget, 'trace')}, {phase}" + (
        f", {finished}/{counted(totals.problems, 'problem')}" * several
    )
    return Group(Text(f"{head}, {seconds:.0f} s", style="dim", no_wrap=True, overflow="ellipsis"), *parts)


def newest_text(engine: Any, tokenizer: Any) -> str:
    """The end of the longest trace that runs: its last tokens as text. engine: one that `TellsTokens`."""
    longest = max(engine.progress(), key=lambda one: one.num_tokens, default=None)
    if longest is None:
        return ""
    first = max(0, longest.num_tokens - _TAIL)
    return str(tokenizer.decode(engine.written(longest.prompt_index, longest.sample_index, first)))


def full_budget(budget: int, ballot: Ballot) -> float | None:
    """What the whole budget would cost at the mean length of the warm-up's traces, which all ran to their end. None
    before they have. Of the later ones the long are stopped more often, so their lengths say less. Without a warm-up,
    of all that have ended, and None where one was cut short, since those that were not are the short ones."""
    first = ballot.params.warmup
    ended = [e.trace for e in ballot.entries.values() if not first or e.trace.sample_index < first]
    whole = [trace.num_tokens for trace in ended if trace.finish_reason in ("stop", "length")]
    cut = any(entry.state in ("stopped", "cancelled") for entry in ballot.entries.values())
    known = len(ended) == first if first else not cut
    return budget * sum(whole) / len(whole) if whole and known else None


def _problem_table(
    run: ScalingRun,
    problems: Sequence[Problem],
    running: Sequence[Sequence[Running]],
    shown: range,
    focus: int,
    width: int,
) -> Table:
    table = Table(box=None, pad_edge=False, expand=True)
    table.add_column("problem", no_wrap=True, overflow="ellipsis", ratio=1)
    for name in ("traces", "running", "tokens"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("answer", no_wrap=True, overflow="ellipsis", max_width=max(10, width // 4))
    table.add_column("share", justify="right", no_wrap=True)
    for index in shown:
        ballot = run.ballots[index]
        vote = ballot.standing()
        spent = ballot.tokens + sum(one.num_tokens for one in running[index])
        table.add_row(
            Text(" ".join(problems[index].question.split())),
            f"{len(ballot.entries)}/{run.params.budget}", str(len(running[index])), f"{spent:,}",
            Text(one_line(vote.answer or "")), f"{vote.share:.0%}",
            style="bold" if index == focus else "dim" if run.finished(index) else "",
        )  # fmt: skip
    return table


def _trace_table(ballot: Ballot, running: Sequence[Running], room: int) -> Table:
    """The running traces, the least confident first, and those that ended last; at most `room` lines of them."""
    table = Table(box=None, pad_edge=False, expand=True)
    table.add_column("trace", justify="right", no_wrap=True, width=5)
    table.add_column("state", no_wrap=True, width=9)
    table.add_column("tokens", justify="right", no_wrap=True, width=7)
    table.add_column("confidence", justify="right", no_wrap=True, width=10)
    table.add_column("vote", justify="right", no_wrap=True, width=7)
    table.add_column("answer", no_wrap=True, overflow="ellipsis", ratio=1)
    ended = list(ballot.entries.values())[::-1]
    alive = sorted(running, key=lambda one: one.group_confidence or 0.0)
    most = max(room // 2, room - len(ended))
    for one in alive[:most]:
        table.add_row(str(one.sample_index), _label("running"), f"{one.num_tokens:,}", _nats(one.group_confidence))
    for entry in ended[: room - min(most, len(alive))]:
        table.add_row(
            str(entry.trace.sample_index),
            _label(LABELS[entry.state]),
            f"{entry.trace.num_tokens:,}",
            _nats(lowest_of(ballot, entry)),
            _nats(weight_of(ballot, entry)),
            Text(one_line(entry.answer or "")),
        )
    hidden = len(alive) + len(ended) - table.row_count
    if hidden > 0:
        table.add_row("", Text(f"+ {hidden:,}", style="dim"))
    return table


def _standing(run: ScalingRun, focus: int) -> Text:
    ballot = run.ballots[focus]
    vote = ballot.standing()
    everything = sum(vote.totals.values())
    leading = sorted(vote.totals.items(), key=lambda item: -item[1])[:4]
    text = Text("votes   ", no_wrap=True, overflow="ellipsis")
    text.append("  ".join(f"{one_line(a)} {w / everything:.0%}" for a, w in leading if everything) or "none yet")
    if run.params.tau is not None:
        sure = "" if ballot.certainty(vote) == vote.share else f", leads by {ballot.certainty(vote):.0%} certainty"
        text.append(f"   (agreed at {run.params.tau:.0%}{sure})", style="dim")
    return text


def _spending(ballot: Ballot, running: Sequence[Running], name: str) -> Text:
    spent = ballot.tokens + sum(one.num_tokens for one in running)
    full = full_budget(ballot.params.budget, ballot)
    text = Text(f"{name}  {spent:,}", no_wrap=True, overflow="ellipsis")
    if full is not None:
        less = f" ({1 - spent / full:.0%} less)" if spent < full else ""
        text.append(f" of about {full:,.0f} without stopping{less}")
    threshold = "none yet" if ballot.threshold is None else f"{ballot.threshold:.3f}"
    counts = Counter(LABELS[entry.state] for entry in ballot.entries.values())
    states = [f"{len(running)} running", *(f"{count} {label}" for label, count in counts.items())]
    text.append("\nstates  " + ", ".join(states) + f"; threshold {threshold}")
    return text


def _all_spending(run: ScalingRun, running: Sequence[Running], totals: Totals) -> Text:
    """Over every problem of the file: what was spent, against the full budget."""
    spent = totals.tokens + sum(ballot.tokens for ballot in run.ballots) + sum(one.num_tokens for one in running)
    known = [full_budget(run.params.budget, ballot) for ballot in run.ballots]
    text = Text(f"in all  {counted(spent, 'token')}", no_wrap=True, overflow="ellipsis")
    if all(full is not None for full in known):
        full = totals.full + sum(full or 0.0 for full in known)
        text.append(f" of about {full:,.0f} without stopping, for the problems begun")
    return text


def weight_of(ballot: Ballot, entry: Entry) -> float | None:
    """What a trace adds to its answer's total; None when it does not vote."""
    return ballot.params.weight(entry) if entry.state == "voted" and entry.confidence is not None else None


def lowest_of(ballot: Ballot, entry: Entry) -> float | None:
    """The lowest group confidence of a trace that has ended, however it did."""
    if entry.confidence is not None:
        return entry.confidence.lowest
    confidences = entry.trace.confidences
    return summarise(confidences, ballot.params.sampling.confidence_window).lowest if confidences else None


def _label(state: str) -> Text:
    return Text(state, style=_STYLES.get(state, "dim"))


def _nats(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def one_line(answer: str) -> str:
    """A hostile answer on one line: no control characters reach the terminal."""
    return " ".join("".join(c if c.isprintable() else " " for c in answer[:200]).split())
