"""Several runs on one page and in one table of the terminal: their numbers side by side, how each differs from the
first problem by problem, their learning curves laid over one another, and the settings in which they differ.

A mean over runs is given only where they are repeats: the same recipe with other seeds. Over different recipes it would
be the mean of no experiment.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import Any

from rich.table import Column, Table

from h1r.common.html import NONE, duration, esc, page, percent, plural, points, section, size, table
from h1r.report import plots
from h1r.report.benchmarks import comparison_html
from h1r.report.benchmarks import comparison_table as benchmark_comparison
from h1r.report.collect import EVAL_STAGES, STAGE_TITLES, RunReport, series
from h1r.report.curves import SMOOTHING, Curve, Panel, look
from h1r.report.page import code_text
from h1r.report.paired import Difference, between, change
from h1r.report.results import confidence_level
from h1r.report.svg import to_svg

_COLUMNS: tuple[tuple[str, Callable[[RunReport], float | None], Callable[[float | None], str]], ...] = (
    ("base", lambda report: _pass(report, "base"), percent),
    ("SFT", lambda report: _pass(report, "sft"), percent),
    ("RL", lambda report: _pass(report, "rl"), percent),
    ("RL gain", lambda report: _gain(report), points),
    ("majority", lambda report: report.scaling.majority.accuracy if report.scaling else None, percent),
    ("DeepConf", lambda report: report.scaling.deepconf.accuracy if report.scaling else None, percent),
    ("tokens saved", lambda report: report.scaling.token_saving if report.scaling else None, percent),
    ("wall time", lambda report: report.wall_seconds, duration),
    ("peak memory", lambda report: report.peak_rss_bytes, size),
)


_TABLE = "there"
"""In place of a table of a list, which has settings of its own."""
_OF_A_REPEAT = frozenset({"name", "seed"})
"""Settings in which repeats of one experiment may differ."""


def comparison_page(reports: Sequence[RunReport]) -> str:
    """The comparison of two or more runs as HTML; runs keep the order given, labels are made unique by number."""
    names = labels(reports)
    title = f"{plural(len(reports), 'run')} compared"
    told = (
        "The last two rows are the mean over these runs and the standard deviation between them."
        if are_repeats(reports)
        else "There is no mean over them, since they differ in more than their seeds."
    )
    header = (
        f'<p class="eyebrow">Open-H1R report</p><h1>{title}</h1>'
        "<p>pass@1 is the share of held-out problems solved by one answer; majority and DeepConf vote over several. "
        f"{told}</p>"
    )
    body = (
        section("benchmarks", "Benchmarks", comparison_html(names, [report.benchmarks for report in reports]))
        + section("numbers", "Numbers", _numbers(names, reports), _accuracy(names, reports))
        + section("paired", "Problem by problem", _paired(names, reports))
        + section("learning", "How they learnt", _learning(names, reports))
        + section("settings", "What differs", _differences(names, reports))
    )
    return page(title, header + body)


def comparison_tables(reports: Sequence[RunReport]) -> list[Table]:
    """The same numbers for a terminal: those of the runs, and of their benchmarks, where there are any."""
    benchmarks = benchmark_comparison(labels(reports), [report.benchmarks for report in reports])
    return [table for table in (comparison_table(reports), benchmarks) if table is not None and table.row_count]


def comparison_table(reports: Sequence[RunReport]) -> Table:
    """One column a run, a line for each number that any run has."""
    names = labels(reports)
    repeats = are_repeats(reports)
    found = Table("", *(_folding(name) for name in names), *(["mean"] if repeats else []))
    for title, get, show in _COLUMNS:
        values = [get(report) for report in reports]
        there = [value for value in values if value is not None]
        if there:
            mean = [show(sum(there) / len(there))] if repeats else []
            found.add_row(title, *map(show, values), *mean)
    for stage in EVAL_STAGES:
        differences = [_difference(reports[0], report, stage) for report in reports[1:]]
        if any(differences):
            cells = ["" if one is None else f"{points(one.value)} ({between(one.interval)})" for one in differences]
            found.add_row(f"{STAGE_TITLES[stage]} minus {names[0]}'s", "", *cells, *([""] if repeats else []))
    found.caption = None if repeats else "No mean: these runs differ in more than their seeds."
    return found


def are_repeats(reports: Sequence[RunReport]) -> bool:
    """Whether the runs are one recipe with several seeds."""
    flat = [_flatten(report.recipe) for report in reports]
    keys = {key for one in flat for key in one} - _OF_A_REPEAT
    return all(len({str(one.get(key)) for one in flat}) == 1 for key in keys)


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean, and the sample standard deviation (None for a single value)."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, None
    return mean, math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))


def _numbers(names: Sequence[str], reports: Sequence[RunReport]) -> str:
    rows = [
        [
            esc(name),
            str(NONE if report.seed is None else report.seed),
            *(show(get(report)) for _, get, show in _COLUMNS),
        ]
        for name, report in zip(names, reports, strict=True)
    ]
    if are_repeats(reports):
        means, spreads = ["<b>mean</b>", ""], ["standard deviation", ""]
        for _, get, show in _COLUMNS:
            values = [value for report in reports if (value := get(report)) is not None]
            mean, deviation = mean_and_deviation(values) if values else (None, None)
            means.append(f"<b>{show(mean)}</b>")
            spreads.append(show(deviation).removeprefix("+"))
        rows += [means, spreads]
    return table(["run", "seed", *(title for title, _, _ in _COLUMNS)], rows, range(1, 11))


def _difference(first: RunReport, second: RunReport, stage: str) -> Difference | None:
    """The second run's accuracy after a stage minus the first one's, on the held-out problems that both have."""
    one, other = first.evals.get(stage), second.evals.get(stage)
    return None if one is None or other is None else change(one.outcomes, other.outcomes, confidence_level(first))


def _paired(names: Sequence[str], reports: Sequence[RunReport]) -> str:
    rows = [
        [
            esc(name),
            STAGE_TITLES[stage],
            points(found.value),
            between(found.interval),
            *(str(number) for number in (found.better, found.worse, found.equal)),
        ]
        for name, report in zip(names[1:], reports[1:], strict=True)
        for stage in EVAL_STAGES
        if (found := _difference(reports[0], report, stage))
    ]
    if not rows:
        return ""
    level = f"{100 * confidence_level(reports[0]):g}% interval"
    head = ["run", "after", f"minus {esc(names[0])}", level, "better", "worse", "equal"]
    return table(head, rows, range(2, 7)) + (
        '<p class="small soft">Over the held-out problems that both runs have answers to, resampled together: much '
        "finer than two intervals side by side. An interval without 0 tells two runs apart. The last columns count "
        "problems.</p>"
    )


def _accuracy(names: Sequence[str], reports: Sequence[RunReport]) -> str:
    if not any(report.evals for report in reports):
        return ""
    level = confidence_level(reports[0])
    figure = plots.comparison_plot(names, [report.evals for report in reports], level)
    return f'<figure class="narrow">{to_svg(figure, "pass@1 of each run after each stage, with intervals")}</figure>'


def _learning(names: Sequence[str], reports: Sequence[RunReport]) -> str:
    """Each metric's curves of all runs in one panel."""
    each: dict[str, list[Curve]] = {"loss": [], "reward": [], "accuracy": []}
    for place, (name, report) in enumerate(zip(names, reports, strict=True)):
        colour, dash = look(place)
        for metrics, key in ((report.sft, "loss"), (report.rl, "reward"), (report.rl, "accuracy")):
            steps, values = series(metrics, key)
            if values:
                each[key].append(Curve(name, colour, steps, values, dash))
    panels = [
        Panel("SFT loss", "nats per token", each["loss"], log=True),
        Panel("RL reward", "mean reward", each["reward"]),
        Panel("RL: right answers", "share of rollouts", each["accuracy"], share=True),
    ]
    drawn = [panel for panel in panels if any(curve.varies for curve in panel.curves)]
    svgs = "".join(
        f"<div>{to_svg(panel.plot(1 / 40 if panel.log else SMOOTHING), f'{panel.title} by step, all runs')}</div>"
        for panel in drawn
    )
    if not svgs:
        return ""
    return (
        f'<figure><div class="pair">{svgs}</div><figcaption><p>Strong: running mean. Faint, of few runs: each step. '
        "Point at a step for its numbers.</p></figcaption></figure>"
    )


def _folding(name: str) -> Column:
    """A column that shows all of a name."""
    return Column(name, overflow="fold")


def _differences(names: Sequence[str], reports: Sequence[RunReport]) -> str:
    flat = [_flatten(report.recipe) | {"code version": code_text(report)} for report in reports]
    every = {key for one in flat for key in one}
    over = {key[:dot] for key in every for dot, letter in enumerate(key) if letter == "."}
    keys = sorted(every - over - {"name"} | {key for key in every if any(one.get(key) is _TABLE for one in flat)})
    lacking = tuple(f"{key}." for one in flat for key in one if one[key] is _TABLE and any(key not in o for o in flat))
    rows = [
        [
            f"<code>{esc(key).replace('.', '.<wbr>')}</code>",
            *(_setting(one[key]) if key in one else NONE for one in flat),
        ]
        for key in keys
        if len({str(one.get(key, NONE)) for one in flat}) > 1 and not key.startswith(lacking)
    ]
    if not rows:
        return "<p>The recipes and the code version are the same.</p>"
    return table(["setting", *(esc(name) for name in names)], rows)


def _flatten(value: Any, place: str = "") -> dict[str, Any]:
    """Settings by their place, as in `eval.benchmarks.aime.samples`: a table of a list goes by its name or family, or
    by its number where that is not its alone."""
    if isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
        names = [str(one.get("name") or one.get("family") or "") for one in value]
        value = {
            name if name and names.count(name) == 1 else str(number): one
            for number, (name, one) in enumerate(zip(names, value, strict=True), 1)
        }
        return {f"{place}.{name}": _TABLE for name in value} | _flatten(value, place)
    if isinstance(value, dict) and value:
        return {
            k: v for key, item in value.items() for k, v in _flatten(item, f"{place}.{key}" if place else key).items()
        }
    return {place: value}


def _setting(value: Any) -> str:
    """A value as TOML has it, nearly; a setting that is not set is none."""
    return esc("none" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def labels(reports: Sequence[RunReport]) -> list[str]:
    plain = [report.path.resolve().name for report in reports]
    return [f"{name} ({place})" if plain.count(name) > 1 else name for place, name in enumerate(plain, 1)]


def _pass(report: RunReport, stage: str) -> float | None:
    return report.evals[stage].pass_at_1 if stage in report.evals else None


def _gain(report: RunReport) -> float | None:
    before, after = _pass(report, "sft"), _pass(report, "rl")
    return None if before is None or after is None else after - before
