"""The benchmarks of a run: each result that `h1r eval` left in eval/benchmarks/MODEL/NAME.json, as tables, as numbers,
and as the difference between two runs on the same problems."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pydantic import ValidationError
from rich import box
from rich.table import Table

from h1r.common.files import read_json
from h1r.common.html import NONE, count, details, duration, esc, percent, percent_interval, points, table
from h1r.common.prose import listing
from h1r.config import EndpointSection
from h1r.evals.cost import Cost, cost_of, money, name_at_api
from h1r.evals.summary import overlapping, room_text, tokens_text
from h1r.report.paired import Difference, ProblemOutcome, between, change
from h1r.report.shapes import Interval, Shape, validated
from h1r.report.stored import Overlap, Votes, VoteScore, method_label
from h1r.run.names import BASE, model_name

STAGES = ("base", "sft", "rl")
FEW_VOTES = 8
"""Lines of votes that are shown unfolded."""
FEW = 4
"""Scores of repeats that are all shown; of more, the lowest and the highest."""


class BenchmarkResult(Shape):
    """See `h1r.evals.benchmark.EvalResult`; older runs lack some of it."""

    pass_at_1: float
    interval: Interval | None = None
    pass_at_k: dict[str, float] = {}
    per_repeat: list[float] = []
    cons_at_n: float | None = None
    budgets: Votes | None = None
    calibration_error: float | None = None
    mean_tokens: float | None = None
    usage: dict[str, int] | None = None
    room: dict[str, int] | None = None
    truncated: float | None = None
    no_answer: float | None = None
    unscored: float | None = None
    error: float | None = None
    samples_per_problem: int = 1
    problems: int = 0
    confidence_level: float = 0.95
    seconds: float | None = None
    unusable: list[dict[str, str]] = []
    ungradable: int = 0
    outcomes: list[ProblemOutcome] = []
    samples: str | None = None
    of: dict[str, Any] = {}


@dataclass(frozen=True)
class Benchmark:
    """A result: the benchmark's `name`, the `stage` of the run's model ("base", "sft", "rl"), and where its answers
    lie. `model`: its name at an API, or that of the checkpoint, else the stage. `overlap`: what curation dropped for
    it of each training set, None where curation knew no benchmark of that name."""

    name: str
    stage: str
    model: str
    result: BenchmarkResult
    cost: Cost | None
    answers: Path | None
    overlap: dict[str, Overlap] | None = None


def read_benchmarks(
    run: Path, recipe: dict[str, Any], contamination: Mapping[str, Mapping[str, Overlap]] | None = None
) -> list[Benchmark]:
    """In order of stage and of the recipe, then by name. contamination: that of curation's summary, {training set:
    {benchmark: overlap}}. `UserError` for a file that does not read."""
    order = [one.get("name") for one in recipe.get("eval", {}).get("benchmarks", [])]
    try:
        prices = EndpointSection.model_validate(recipe.get("engine", {}).get("endpoint", {}))
    except ValidationError:  # of another version
        prices = EndpointSection()
    checkpoint = recipe.get("model", {}).get("checkpoint")
    found = []
    for path in (run / "eval" / "benchmarks").glob("*/*.json"):
        raw = read_json(path)
        result = validated(BenchmarkResult, raw, path)
        stage, answers = path.parent.name, path.parent / (result.samples or "none")
        named = Benchmark(
            path.stem,
            stage,
            name_at_api(raw) or model_name(stage, checkpoint),
            result,
            cost_of(raw, prices),
            answers if answers.is_file() else None,
            {use: known[path.stem] for use, known in (contamination or {}).items() if path.stem in known} or None,
        )
        found.append(named)
    return sorted(
        found,
        key=lambda one: (
            STAGES.index(one.stage) if one.stage in STAGES else len(STAGES),
            order.index(one.name) if one.name in order else len(order),
            one.name,
        ),
    )


def benchmarks_html(found: Sequence[Benchmark], browser: str | None) -> str:
    """Scores, and what they took; `browser` is the address of the page of answers."""
    if not found:
        return ""
    level = found[0].result.confidence_level
    known = any(one.overlap is not None for one in found)
    scores = table(
        ["benchmark", "model", "pass@1", f"{100 * level:g}% interval", "each repeat", "cons@n", "pass@k", "answers",
         *(["training problems dropped for it"] if known else [])],
        [
            [
                esc(one.name), esc(one.model), f"<b>{percent(one.result.pass_at_1)}</b>",
                percent_interval(one.result.interval), _repeats(one.result.per_repeat), percent(one.result.cons_at_n),
                _most(one.result.pass_at_k), f"{one.result.problems:,} x {one.result.samples_per_problem}",
                *([_overlap(one.overlap)] if known else []),
            ]
            for one in found
        ],
        range(2, 9 if known else 8),
    )  # fmt: skip
    took = table(
        ["benchmark", "model", "no answer found", "cut off", "not scored", "unusable", "tokens an answer", "tokens",
         "reasoning", "cost", "time"],
        [
            [
                esc(one.name), esc(one.model), percent(one.result.no_answer), percent(one.result.truncated),
                percent(_unscored(one.result)), _left_out(one.result),
                count(one.result.mean_tokens), count(_tokens(one.result)), _reasoning(one.result),
                esc(money(one.cost)) or NONE, duration(one.result.seconds),
            ]
            for one in found
        ],
        range(2, 11),
    )  # fmt: skip
    link = f'<p><a href="{quote(browser)}">Read the answers</a>, right and wrong ones.</p>' if browser else ""
    return (
        f"{scores}{_calibration(found)}{_room(found)}{link}{_models_html(found)}{_votes_html(found)}"
        f"<h3>What the scores do not say, and what they took</h3>{took}"
        '<p class="small soft">cons@n: the most frequent of a problem\'s answers is right. No answer found, cut off '
        "and not scored are shares of all answers; what was not scored is in no accuracy. Time is that of the last "
        "start.</p>"
    )


def _votes_html(found: Sequence[Benchmark]) -> str:
    """Accuracy and tokens of votes at each budget, where there are several answers to a problem that can vote."""
    votes = [(one, one.result.budgets) for one in found if one.result.budgets is not None and one.result.budgets.rows]
    if not votes:
        return ""
    methods = list(dict.fromkeys(method_label(of.method) for _, of in votes if of.method != "majority"))
    priced = any(row.deepconf for _, of in votes for row in of.rows)
    head = ["benchmark", "model", "pass@1", "traces", "majority right", "tokens"]
    if priced:
        head += [f"{' or '.join(methods)} right", "tokens", "saved"]
    rows = [
        [
            esc(one.name), esc(one.model), percent(one.result.pass_at_1), str(row.budget), *_vote(row.majority),
            *([*_vote(row.deepconf), percent(_saved(row.majority, row.deepconf))] if priced else []),
        ]
        for one, of in votes
        for row in of.rows
    ]  # fmt: skip
    without = [
        f"{esc(one.name)}, {esc(one.model)} ({esc(listing(of.lacks))})"
        for one, of in votes
        if of.lacks and of.method != "majority"
    ]
    told = (
        f" Majority alone where the answers do not carry what {esc(' or '.join(methods))} needs: {'; '.join(without)}."
        if without
        else ""
    )
    numbers = table(head, rows, range(2, len(head)))
    if len(rows) > FEW_VOTES:
        numbers = details("Every budget of every model", numbers)
    return (
        f"<h3>Votes at budgets</h3>{numbers}"
        '<p class="small soft">Traces: answers to a problem, of which the most frequent one counts (majority). The '
        "kept answers are replayed, in as many blocks of a budget as there are, with the recipe's [scaling]; tokens "
        "are those of all problems, those of traces that were stopped included. A dash: the budget is below the "
        f"warm-up of the method, or it is not priced.{told}</p>"
    )


def _vote(score: VoteScore | None) -> tuple[str, str]:
    if score is None:
        return NONE, NONE
    inside = f' <span class="soft">({percent_interval(score.interval)})</span>' if score.interval else ""
    return percent(score.accuracy) + inside, tokens_text(score.tokens) or NONE


def _saved(majority: VoteScore, other: VoteScore | None) -> float | None:
    return 1 - other.tokens / majority.tokens if other and other.tokens is not None and majority.tokens else None


def _calibration(found: Sequence[Benchmark]) -> str:
    """How far the confidence that answers state is from their accuracy, where any benchmark asks for it."""
    stated = [one for one in found if one.result.calibration_error is not None]
    said = "; ".join(f"{esc(one.name)}, {esc(one.model)}: {percent(one.result.calibration_error)}" for one in stated)
    return said and f"<p>Calibration error of the confidence that answers state: {said}.</p>"


def _room(found: Sequence[Benchmark]) -> str:
    """Prompts that left too little of the model's context, where there are any."""
    texts = [(one, room_text({"room": one.result.room, "problems": one.result.problems})) for one in found]
    said = [f"{esc(one.name)}, {esc(one.model)}, {text}" for one, text in texts if text]
    return f"<p>Room in the model's context: {'. '.join(said)}.</p>" if said else ""


def _models_html(found: Sequence[Benchmark]) -> str:
    """How the later models of a run differ from its first one: each as if it were a run, by benchmark alone."""
    stages = dict.fromkeys(one.stage for one in found)
    runs = [[replace(one, stage=BASE) for one in found if one.stage == stage] for stage in stages]
    names = [of_model[0].model for of_model in runs]
    return f"<h3>The models of this run</h3>{comparison_html(names, runs)}" if len(runs) > 1 else ""


def _left_out(result: BenchmarkResult) -> str:
    """How many problems are asked by nobody, and their share."""
    asked = {outcome.problem_id for outcome in result.outcomes}
    count = len([one for one in result.unusable if one.get("id") not in asked]) + result.ungradable
    return f"{count:,} ({percent(count / (result.problems + count))})" if count else "0"


def benchmark_numbers(found: Sequence[Benchmark]) -> list[dict[str, Any]]:
    """The rows of report.json."""
    return [
        {
            "name": one.name,
            "model": one.model,
            "stage": one.stage,
            **one.result.model_dump(exclude={"outcomes", "of", "samples", "unusable"}),
            "unusable": len(one.result.unusable),
            "overlap": one.overlap and {use: known.model_dump() for use, known in one.overlap.items()},
            "cost": None if one.cost is None else {"amount": one.cost.amount, "currency": one.cost.currency},
        }
        for one in found
    ]


def difference(first: Benchmark | None, second: Benchmark | None) -> Difference | None:
    """A later run's accuracy minus the first one's; None where one is missing, or the two did not ask the same."""
    if first is None or second is None or first.result.of.get("problems") != second.result.of.get("problems"):
        return None
    return change(first.result.outcomes, second.result.outcomes, first.result.confidence_level)


def by_name(found: Sequence[Benchmark]) -> dict[tuple[str, str], Benchmark]:
    """Results by (benchmark, stage)."""
    return {(one.name, one.stage): one for one in found}


def _compared(
    runs: Sequence[Sequence[Benchmark]],
) -> Iterator[tuple[str, list[tuple[Benchmark | None, Difference | None]]]]:
    """(title, the result of each run and how it differs from the first run's) of each benchmark that any run has."""
    each = [by_name(found) for found in runs]
    stages = {stage for found in each for _, stage in found}
    for key in dict.fromkeys(key for found in each for key in found):
        results = [found.get(key) for found in each]
        title = key[0] if stages == {BASE} else f"{key[0]}, {key[1]}"
        yield title, [(one, difference(results[0], one) if place else None) for place, one in enumerate(results)]


def comparison_table(names: Sequence[str], runs: Sequence[Sequence[Benchmark]]) -> Table | None:
    """The same for a terminal, of more than two runs a row for each, so that all fit; None without benchmarks."""
    if len(names) > 2:
        return _captioned(_table_by_run(names, runs))
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("benchmark", overflow="fold")
    for place, name in enumerate(names):
        table.add_column(name, overflow="fold", justify="right", min_width=6)
        if place:
            table.add_column(f"minus {names[0]}", overflow="fold", justify="right", min_width=20)
    for title, results in _compared(runs):
        cells = [title]
        for place, (one, found) in enumerate(results):
            cells.append("" if one is None else percent(one.result.pass_at_1))
            if place:
                cells.append("" if found is None else f"{points(found.value)}\n{between(found.interval)}")
        table.add_row(*cells)
    return _captioned(table)


def _table_by_run(names: Sequence[str], runs: Sequence[Sequence[Benchmark]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("benchmark", overflow="fold")
    table.add_column("run", overflow="fold")
    table.add_column("pass@1", justify="right", min_width=6)
    table.add_column(f"minus {names[0]}", overflow="fold", justify="right", min_width=20)
    for title, results in _compared(runs):
        for place, (name, (one, found)) in enumerate(zip(names, results, strict=True)):
            score = "" if one is None else percent(one.result.pass_at_1)
            gain = "" if found is None else f"{points(found.value)}\n{between(found.interval)}"
            table.add_row("" if place else title, name, score, gain)
    return table


def _captioned(table: Table) -> Table | None:
    if not table.row_count:
        return None
    table.caption = (
        "Differences are paired: the same problems on both sides, with an interval; none where they are not."
    )
    return table


def comparison_html(names: Sequence[str], runs: Sequence[Sequence[Benchmark]]) -> str:
    """One row a benchmark: the score of each run, and how each later one differs from the first."""
    rows = []
    for title, results in _compared(runs):
        cells = [esc(title)]
        for place, (one, found) in enumerate(results):
            cells.append(NONE if one is None else f"<b>{percent(one.result.pass_at_1)}</b>")
            if place:
                cells.append(_signed(found))
        rows.append(cells)
    if not rows:
        return ""
    head = ["benchmark", esc(names[0])]
    for name in names[1:]:
        head += [esc(name), f"{esc(name)} minus {esc(names[0])}"]
    return table(head, rows, range(1, len(head))) + (
        '<p class="small soft">Differences are paired: the same problems on both sides, resampled together. An '
        "interval without 0 tells two runs apart; no difference is shown where the problems are not the same.</p>"
    )


def _signed(found: Difference | None) -> str:
    if found is None:
        return NONE
    inside = between(found.interval).removesuffix(" points")
    return f'{points(found.value)} <span class="soft">({inside})</span>'


def _repeats(scores: Sequence[float]) -> str:
    if len(scores) < 2:
        return NONE
    if len(scores) <= FEW:
        return ", ".join(percent(score) for score in scores)
    return f"{percent(min(scores))} to {percent(max(scores))}"


def _most(pass_at_k: dict[str, float]) -> str:
    if len(pass_at_k) < 2:
        return NONE
    k = max(pass_at_k, key=int)
    return f"{percent(pass_at_k[k])} <span class='soft'>(k = {esc(k)})</span>"


def _overlap(overlap: Mapping[str, Overlap] | None) -> str:
    return overlapping({use: one.model_dump() for use, one in (overlap or {}).items()}) or NONE


def _unscored(result: BenchmarkResult) -> float | None:
    return None if result.unscored is None else result.unscored + (result.error or 0.0)


def _tokens(result: BenchmarkResult) -> float | None:
    return None if result.mean_tokens is None else result.mean_tokens * result.problems * result.samples_per_problem


def _reasoning(result: BenchmarkResult) -> str:
    usage = result.usage or {}
    done = usage.get("completion_tokens", 0)
    return percent(usage["reasoning_tokens"] / done) if done and usage.get("reasoning_tokens") else NONE
