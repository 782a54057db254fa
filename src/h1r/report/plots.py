"""The report's plots of results: accuracy, and what tokens buy.

Series colours are Okabe and Ito's, which people with any common colour vision tell apart; each series also has its own
marker or line style.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from h1r.common.html import label as short_label
from h1r.common.html import percent, percent_interval, plural, words
from h1r.report.collect import EVAL_STAGES, STAGE_TITLES
from h1r.report.shapes import Interval
from h1r.report.stored import BudgetScore, EvalResult, ScalingResult
from h1r.report.svg import LIGHT, PERCENT, Plot, Spot, figure_of, short, style

MARKERS = {"base": "o", "sft": "s", "rl": "D", "majority": "s", "deepconf": "o"}


def family_plot(evals: Mapping[str, EvalResult], level: float, titles: Mapping[str, str]) -> Plot:
    """pass@1 of each family after each stage, with intervals at `level`; families ordered by their last score.
    titles: what the model of each stage is called."""
    figure = figure_of(400, family_height(evals))
    return Plot(figure, draw_families(figure.subplots(), evals, level, titles))


def tokens_plot(scaling: ScalingResult, voted: str, height: float = 300) -> Plot:
    """Accuracy against tokens spent, for majority and DeepConf, one marker a budget."""
    figure = figure_of(400, height)
    return Plot(figure, draw_tokens(figure.subplots(), scaling, voted))


def family_height(evals: Mapping[str, EvalResult]) -> float:
    """The height (points) at which `family_plot` gives every family the same room."""
    return 84 + 34 * (len(_family_order(evals)) + 1)


def save_main(
    evals: Mapping[str, EvalResult],
    scaling: ScalingResult | None,
    path: Path,
    level: float,
    voted: str,
    titles: Mapping[str, str],
) -> None:
    """Both halves of the main plot side by side, on white, as PNG (or what the suffix of `path` says)."""
    with style(), matplotlib.rc_context({"svg.fonttype": "path"}):
        panels = [part for part, there in (("families", evals), ("tokens", scaling)) if there]
        figure = figure_of(430 * len(panels), max(330, family_height(evals)))
        for axes, part in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            if part == "families":
                draw_families(axes, evals, level, titles)
            elif scaling:
                draw_tokens(axes, scaling, voted)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=160, facecolor="white")


def draw_families(axes: Axes, evals: Mapping[str, EvalResult], level: float, titles: Mapping[str, str]) -> list[Spot]:
    """One row a family and one for all problems on top; per stage a marker with its interval."""
    families = _family_order(evals)
    stages = [stage for stage in EVAL_STAGES if stage in evals]
    spots = []
    for place, stage in enumerate(stages):
        shift = 0.24 * ((len(stages) - 1) / 2 - place)
        rows: list[tuple[float, float, Interval | None]] = []
        for row, family in enumerate(["", *families]):
            score = evals[stage] if not family else evals[stage].per_family.get(family)
            if score is not None:
                y = len(families) - row + shift + (0.35 if not family else 0)
                rows.append((y, score.pass_at_1, score.interval))
                told = _score(score.pass_at_1, score.interval)
                spots.append(
                    Spot(axes, score.pass_at_1, y, f"{words(family) or 'all problems'}, {titles[stage]}: {told}")
                )
        colour = LIGHT[stage]
        for y, _, interval in rows:
            if interval is not None:
                axes.plot(interval, (y, y), color=colour, linewidth=1.8, alpha=0.65)
        axes.plot(
            [x for _, x, _ in rows],
            [y for y, _, _ in rows],
            linestyle="none",
            marker=MARKERS[stage],
            markersize=6.2,
            color=colour,
            label=titles[stage],
        )
    axes.axhline(len(families) - 0.33, color=LIGHT["grid"], linewidth=0.8)
    axes.set_yticks(
        [len(families) + 0.35, *range(len(families) - 1, -1, -1)], ["all problems", *(short_label(f) for f in families)]
    )
    axes.tick_params(axis="y", length=0, labelcolor=LIGHT["ink"])
    axes.get_yticklabels()[0].set_fontweight("bold")
    axes.set_ylim(-0.6, len(families) + 0.95)
    axes.set_xlim(-0.02, 1.02)
    axes.xaxis.set_major_formatter(PERCENT)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(f"held-out problems solved, pass@1 (line: {100 * level:g}% interval)")
    _legend_above(axes)
    return spots


def draw_tokens(axes: Axes, scaling: ScalingResult, voted: str) -> list[Spot]:
    """Two lines through the budgets, with intervals; hollow markers are simulated, filled ones were run.

    Majority's is the line to beat: what the same tokens buy without any method.
    """
    budgets = scaling.budgets or [
        BudgetScore(budget=scaling.budget, majority=scaling.majority, deepconf=scaling.deepconf)
    ]
    budgets = sorted(budgets, key=lambda entry: entry.budget)
    spots = []
    for name, title, dash in (("majority", "majority vote", (0, (4, 2))), ("deepconf", scaling.label, "solid")):
        found = [(entry.budget, score) for entry in budgets if (score := getattr(entry, name)) is not None]
        if not found:
            continue
        x, y = [score.tokens for _, score in found], [score.accuracy for _, score in found]
        for _, score in found:
            if score.interval is not None:
                at = (score.tokens, score.tokens)
                axes.plot(at, score.interval, color=LIGHT[name], linewidth=1.2, alpha=0.35)
        axes.plot(
            x, y, color=LIGHT[name], linestyle=dash, linewidth=2, label=title, marker=MARKERS[name], markersize=6.5
        )
        for budget, score in found:
            told = f"{title} of {budget}: {_score(score.accuracy, score.interval)}, {plural(score.tokens, 'token')}"
            spots.append(Spot(axes, score.tokens, score.accuracy, told + ", replayed" * score.simulated))
            if score.simulated:
                axes.plot(
                    score.tokens,
                    score.accuracy,
                    linestyle="none",
                    marker=MARKERS[name],
                    markersize=6.5,
                    markerfacecolor=LIGHT["panel"],
                    markeredgecolor=LIGHT[name],
                    markeredgewidth=1.6,
                )
            side = 1 if name == "deepconf" else -1
            axes.annotate(
                str(budget),
                (score.tokens, score.accuracy),
                xytext=(0, 9 * side),
                textcoords="offset points",
                ha="center",
                va="bottom" if side > 0 else "top",
                fontsize=9,
                color=LIGHT[name],
            )
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    axes.margins(x=0.09, y=0.2)
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, -0.06), min(high, 1.06))
    axes.yaxis.set_major_formatter(PERCENT)
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.set_xlabel(f"tokens written {voted} (log scale)")
    axes.set_ylabel("problems answered correctly")
    _legend_above(axes)
    return spots


def _score(value: float, interval: Interval | None) -> str:
    return percent(value) + (f" ({percent_interval(interval)})" if interval else "")


def histogram_plot(counts: Sequence[int]) -> Plot:
    """How many candidate RL problems were solved by k of the rollouts, k = 0 .. len(counts) - 1."""
    figure = figure_of(420, 230)
    axes = figure.subplots()
    last = len(counts) - 1
    colours = [LIGHT["base"] if k in (0, last) else LIGHT["sft"] for k in range(len(counts))]
    bars = axes.bar(range(len(counts)), counts, color=colours, width=0.78)
    axes.bar_label(bars, [f"{value:,}" for value in counts], padding=2, fontsize=9.5, color=LIGHT["soft"])
    axes.set_xticks(range(len(counts)), [f"{k}/{last}" for k in range(len(counts))])
    axes.tick_params(axis="x", length=0)
    axes.grid(axis="x", visible=False)
    axes.margins(y=0.12)
    axes.set_xlabel("rollouts of the SFT model that solve the problem")
    axes.set_ylabel("candidate problems")
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    told = [f"{plural(value, 'problem')}: {k} of {last} rollouts right" for k, value in enumerate(counts)]
    return Plot(figure, [Spot(axes, (k - 0.5, k + 0.5), None, text) for k, text in enumerate(told)])


def comparison_plot(names: Sequence[str], scores: Sequence[Mapping[str, EvalResult]], level: float) -> Plot:
    """pass@1 over all problems of several runs, one row a run, one marker a stage."""
    figure = figure_of(420, 84 + 34 * len(names))
    axes = figure.subplots()
    spots = []
    for place, stage in enumerate(EVAL_STAGES):
        there = [(len(names) - 1 - row, score[stage]) for row, score in enumerate(scores) if stage in score]
        if not there:
            continue
        shift = 0.2 * (1 - place)
        for y, result in there:
            told = f"{names[len(names) - 1 - y]}, {STAGE_TITLES[stage]}: {_score(result.pass_at_1, result.interval)}"
            spots.append(Spot(axes, result.pass_at_1, y + shift, told))
            if result.interval is not None:
                axes.plot(result.interval, (y + shift, y + shift), color=LIGHT[stage], linewidth=1.8, alpha=0.65)
        axes.plot(
            [result.pass_at_1 for _, result in there],
            [y + shift for y, _ in there],
            linestyle="none",
            marker=MARKERS[stage],
            markersize=6.2,
            color=LIGHT[stage],
            label=STAGE_TITLES[stage],
        )
    axes.set_yticks(range(len(names) - 1, -1, -1), [short_label(name) for name in names])
    axes.tick_params(axis="y", length=0, labelcolor=LIGHT["ink"])
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.set_xlim(-0.02, 1.02)
    axes.xaxis.set_major_formatter(PERCENT)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(f"held-out problems solved, pass@1 (line: {100 * level:g}% interval)")
    _legend_above(axes)
    return Plot(figure, spots)


def _family_order(evals: Mapping[str, EvalResult]) -> list[str]:
    """Families of all stages, best first by the last stage that has a score."""
    last: dict[str, float] = {}
    for stage in EVAL_STAGES:
        if stage in evals:
            last.update({family: score.pass_at_1 for family, score in evals[stage].per_family.items()})
    return sorted(last, key=lambda family: (-last[family], family))


def _legend_above(axes: Axes) -> None:
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3, borderaxespad=0.2, handletextpad=0.4, columnspacing=1.4
    )
