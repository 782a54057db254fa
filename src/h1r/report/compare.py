"""Several runs on one page: their numbers side by side, the mean over them, and the settings in which they differ."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from h1r.report import plots
from h1r.report.benchmarks import comparison_html
from h1r.report.collect import RunReport, series
from h1r.report.page import code_text, page
from h1r.report.results import confidence_level
from h1r.report.text import NONE, duration, esc, percent, plural, points, section, size, table

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


def comparison_page(reports: Sequence[RunReport]) -> str:
    """The comparison of two or more runs as HTML; runs keep the order given, labels are made unique by number."""
    names = _labels(reports)
    title = f"{plural(len(reports), 'run')} compared"
    header = (
        f'<p class="eyebrow">Open-H1R report</p><h1>{title}</h1>'
        "<p>pass@1 is the share of held-out problems solved by one answer; majority and DeepConf vote over several. "
        "The last two rows are the mean over these runs and the standard deviation between them.</p>"
    )
    body = (
        section("benchmarks", "Benchmarks", comparison_html(names, [report.benchmarks for report in reports]))
        + section("numbers", "Numbers", _numbers(names, reports), _accuracy(names, reports))
        + section("reward", "RL reward", _reward(names, reports))
        + section("settings", "What differs", _differences(names, reports))
    )
    return page(title, header + body)


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
    means, spreads = ["<b>mean</b>", ""], ["standard deviation", ""]
    for _, get, show in _COLUMNS:
        values = [value for report in reports if (value := get(report)) is not None]
        mean, deviation = mean_and_deviation(values) if values else (None, None)
        means.append(f"<b>{show(mean)}</b>")
        spreads.append(show(deviation).removeprefix("+"))
    return table(["run", "seed", *(title for title, _, _ in _COLUMNS)], [*rows, means, spreads], range(1, 11))


def _accuracy(names: Sequence[str], reports: Sequence[RunReport]) -> str:
    if not any(report.evals for report in reports):
        return ""
    level = confidence_level(reports[0])
    figure = plots.comparison_plot(names, [report.evals for report in reports], level)
    return (
        f'<figure class="narrow">{plots.to_svg(figure, "pass@1 of each run after each stage, with intervals")}</figure>'
    )


def _reward(names: Sequence[str], reports: Sequence[RunReport]) -> str:
    """One panel a run on the same axes, so that any number of runs stays readable without more colours."""
    drawn = [(name, *series(report.rl, "reward")) for name, report in zip(names, reports, strict=True)]
    drawn = [entry for entry in drawn if entry[2]]
    if not drawn:
        return ""
    span = (min(min(values) for _, _, values in drawn), max(max(values) for _, _, values in drawn))
    panels = []
    for name, steps, values in drawn:
        figure = plots.curve_plot(name, "mean reward", [plots.Curve("reward", "rl", steps, values)], span=span)
        panels.append(f"<div>{plots.to_svg(figure, f'RL reward by step, {name}')}</div>")
    return (
        f'<figure><div class="grid">{"".join(panels)}</div><figcaption><p>Faint: each step. Strong: running mean. All '
        "panels share the vertical scale.</p></figcaption></figure>"
    )


def _differences(names: Sequence[str], reports: Sequence[RunReport]) -> str:
    flat = [_flatten(report.recipe) | {"code version": code_text(report)} for report in reports]
    keys = sorted({key for one in flat for key in one} - {"name"})
    rows = [
        [f"<code>{esc(key)}</code>", *(esc(one.get(key, NONE)) for one in flat)]
        for key in keys
        if len({str(one.get(key, NONE)) for one in flat}) > 1
    ]
    if not rows:
        return "<p>The recipes and the code version are the same.</p>"
    return table(["setting", *(esc(name) for name in names)], rows)


def _flatten(value: Any, place: str = "") -> dict[str, Any]:
    if isinstance(value, dict) and value:
        return {
            k: v for key, item in value.items() for k, v in _flatten(item, f"{place}.{key}" if place else key).items()
        }
    return {place: value}


def _labels(reports: Sequence[RunReport]) -> list[str]:
    plain = [report.path.resolve().name for report in reports]
    return [f"{name} ({place})" if plain.count(name) > 1 else name for place, name in enumerate(plain, 1)]


def _pass(report: RunReport, stage: str) -> float | None:
    return report.evals[stage].pass_at_1 if stage in report.evals else None


def _gain(report: RunReport) -> float | None:
    before, after = _pass(report, "sft"), _pass(report, "rl")
    return None if before is None or after is None else after - before
