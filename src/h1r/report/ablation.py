"""The pages and the table of an ablation: what each variant earns against the recipe as it is, and what it costs.

Accuracies are pooled over seeds, problem by problem, and a variant is compared with the base on the problems and seeds
that both have: the interval resamples problems. It does not say how much another seed would change; the spread over
seeds, beside it, does.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from h1r.common.files import write_json, write_text
from h1r.common.html import NONE, count, duration, esc, page, percent, plural, points, section, table
from h1r.common.prose import listing, markdown_table
from h1r.report.collect import RunReport
from h1r.report.paired import Difference, ProblemOutcome, between, change
from h1r.report.timeline import sampled_tokens

__all__ = ["Row", "Run", "ablation_table", "markdown_page", "rows_of", "write_ablation"]
_LEVEL = 0.95
_HEAD = (
    "variant",
    "seeds",
    "pass@1",
    "spread",
    "against base",
    "95% interval",
    "RL gain",
    "tokens",
    "per point",
    "time",
)
_WHAT = (
    "A variant shares with the base of its seed all that comes before its first change. pass@1 is the share of "
    "held-out problems solved by one answer, over all seeds; the spread is the standard deviation between seeds."
)
_TOLD = (
    "Against the base: problem by problem, on the seeds that both have. An interval without 0 tells the two apart on "
    "these seeds. Tokens are those that RL sampled, dropped groups included; per point: for each percentage point that "
    "RL gained over SFT. Time is that of RL."
)


@dataclass(frozen=True)
class Run:
    """A finished run of an ablation. after: the model that is compared, "sft" or "rl"."""

    variant: str
    seed: int
    changes: Mapping[str, Any]
    report: RunReport
    after: str


@dataclass(frozen=True)
class Row:
    """A variant over its seeds. pass_at_1: of the compared model. spread: standard deviation over seeds, None of one.
    against: minus the base, on what both have; None of the base. gain: of RL over SFT. tokens: sampled in RL, a run.
    seconds: of training by RL, a run."""

    variant: str
    changes: dict[str, Any]
    seeds: list[int]
    pass_at_1: float
    spread: float | None
    against: Difference | None
    gain: Difference | None
    tokens: float | None
    seconds: float | None

    @property
    def tokens_per_point(self) -> float | None:
        """Tokens sampled for each percentage point that RL gained; None where it gained nothing."""
        if self.tokens is None or self.gain is None or self.gain.value <= 0:
            return None
        return self.tokens / (100 * self.gain.value)


def rows_of(runs: Sequence[Run], base: str) -> list[Row]:
    """One for each variant, in the order of `runs`. A run without the result that is compared is left out."""
    by_variant: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        if run.after in run.report.evals:
            by_variant[run.variant].append(run)
    return [_row(found, by_variant.get(base, []), base) for found in by_variant.values()]


def _row(runs: list[Run], bases: list[Run], base: str) -> Row:
    scores = [run.report.evals[run.after].pass_at_1 for run in runs]
    mean = sum(scores) / len(scores)
    spread = None
    if len(scores) > 1:
        spread = (sum((score - mean) ** 2 for score in scores) / (len(scores) - 1)) ** 0.5
    seeds = [run.seed for run in runs]
    beside = [run for run in bases if run.seed in seeds]
    against = None
    if beside and runs[0].variant != base:
        same = [run for run in runs if run.seed in {one.seed for one in beside}]
        against = change(_pooled(beside, beside[0].after), _pooled(same, runs[0].after), _LEVEL)
    gain = None
    if runs[0].after == "rl" and all("sft" in run.report.evals for run in runs):
        gain = change(_pooled(runs, "sft"), _pooled(runs, "rl"), _LEVEL)
    tokens = [sampled for run in runs if (sampled := sampled_tokens(run.report)) is not None]
    seconds = [run.report.stages["rl"].wall_seconds for run in runs if "rl" in run.report.stages]
    return Row(
        variant=runs[0].variant,
        changes=dict(runs[0].changes),
        seeds=seeds,
        pass_at_1=mean,
        spread=spread,
        against=against,
        gain=gain,
        tokens=sum(tokens) / len(tokens) if tokens else None,
        seconds=sum(seconds) / len(seconds) if seconds else None,
    )


def _pooled(runs: Sequence[Run], stage: str) -> list[ProblemOutcome]:
    """Answers of all runs to each problem."""
    right: dict[str, int] = defaultdict(int)
    asked: dict[str, int] = defaultdict(int)
    for run in runs:
        for one in run.report.evals[stage].outcomes:
            right[one.problem_id] += one.correct
            asked[one.problem_id] += one.samples
    return [ProblemOutcome(problem_id=name, correct=right[name], samples=n) for name, n in asked.items()]


def _cells(row: Row) -> list[str]:
    return [
        ", ".join(map(str, row.seeds)),
        percent(row.pass_at_1),
        NONE if row.spread is None else f"{100 * row.spread:.1f} points",
        NONE if row.against is None else points(row.against.value),
        NONE if row.against is None else between(row.against.interval),
        NONE if row.gain is None else points(row.gain.value),
        count(row.tokens),
        count(row.tokens_per_point),
        duration(row.seconds),
    ]


def ablation_table(rows: Sequence[Row]) -> Table:
    """For a terminal, without the columns that none has."""
    cells = [[row.variant, *_cells(row)] for row in rows]
    used = [i for i in range(len(_HEAD)) if any(line[i] != NONE for line in cells)]
    found = Table(*(_HEAD[i] for i in used))
    for line in cells:
        found.add_row(*(line[i] for i in used))
    return found


def write_ablation(name: str, runs: Sequence[Run], base: str, path: Path) -> list[Row]:
    """Writes the page to `path`, and its numbers as JSON beside it."""
    rows = rows_of(runs, base)
    write_text(path, _page(name, runs, rows, path.parent))
    numbers = [{**asdict(row), "tokens_per_point": row.tokens_per_point} for row in rows]
    write_json(path.with_suffix(".json"), {"name": name, "base": base, "variants": numbers})
    return rows


def _page(name: str, runs: Sequence[Run], rows: Sequence[Row], directory: Path) -> str:
    header = (
        f'<p class="eyebrow">Open-H1R ablation</p><h1>{esc(name)}</h1>'
        f"<p>{plural(len(rows), 'variant')} of one recipe, {plural(len(runs), 'run')}. {_WHAT}</p>"
    )
    numbers = table(_HEAD, [[esc(row.variant), *map(esc, _cells(row))] for row in rows], range(2, len(_HEAD)))
    told = f'<p class="small soft">{_TOLD}</p>'
    changes = [
        [esc(row.variant), f"<code>{esc(key)}</code>", esc(value)] for row in rows for key, value in row.changes.items()
    ]
    links = [[esc(run.variant), str(run.seed), _link(run, directory)] for run in runs]
    return page(
        f"{name}: ablation",
        header
        + section("numbers", "Numbers", numbers, told)
        + section("changes", "What each variant changes", table(["variant", "key", "value"], changes))
        + section("runs", "Runs", table(["variant", "seed", "report"], links)),
    )


def _link(run: Run, directory: Path) -> str:
    place = (run.report.path / "report.html").resolve().relative_to(directory.resolve()).as_posix()
    return f'<a href="{esc(place)}">{esc(place)}</a>'


def markdown_page(name: str, runs: Sequence[Run], base: str, command: str, others: Sequence[str]) -> str:
    """The same numbers as a page of documentation, without links to the runs: they may lie in several directories.
    command: what repeats it. others: runs that are in no row, and why."""
    rows = rows_of(runs, base)
    numbers = markdown_table(_HEAD, [[row.variant, *_cells(row)] for row in rows])
    changes = [[row.variant, f"`{key} = {value}`"] for row in rows for key, value in row.changes.items()]
    attempts = [attempt for run in runs for attempt in run.report.attempts]
    machines = dict.fromkeys(
        f"{one.processor}, {plural(one.cores or 0, 'core')}" for a in attempts if (one := a.machine)
    )
    codes = dict.fromkeys(attempt.commit[:12] for attempt in attempts if attempt.commit)
    made = [f"on {listing(list(machines))}"] * bool(machines) + [f"by the code of {listing(list(codes))}"] * bool(codes)
    parts = [
        f"# Ablation: {name}",
        f"{plural(len(rows), 'variant')} of the recipe `{name}`, {plural(len(runs), 'run')}"
        f"{', made ' if made else ''}{', '.join(made)}. {_WHAT} How many seeds a row has, its second column says.",
        numbers,
        _TOLD,
        *([f"In no row: {listing(list(others))}."] if others else []),
        "## What each variant changes",
        markdown_table(["variant", "key"], changes) if changes else "Nothing: there is the base alone.",
        f"Written by `{command}`.",
    ]
    return "\n\n".join(parts) + "\n"
