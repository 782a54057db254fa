"""The report's plots: drawn by matplotlib, embedded as inline SVG that follows the page's light or dark colours.

Every colour is named once in `common/style.py`, as (light, dark). Figures are drawn in the light one; `to_svg` then
replaces each by its CSS variable, so that one drawing serves both schemes, and text becomes real text in the page's
font. Series colours are Okabe and Ito's, which people with any common colour vision tell apart; each series also has
its own marker or line style. Figures never enter pyplot's registry, so they are freed with the last reference to them.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from h1r.common.style import COLOURS
from h1r.report.collect import EVAL_STAGES, STAGE_TITLES
from h1r.report.shapes import Interval
from h1r.report.stored import BudgetScore, EvalResult, ScalingResult
from h1r.report.text import esc
from h1r.report.text import label as short_label

MARKERS = {"base": "o", "sft": "s", "rl": "D", "majority": "s", "deepconf": "o"}
LIGHT = {name: pair[0] for name, pair in COLOURS.items()}

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 10.5,
    "text.color": LIGHT["ink"],
    "axes.labelcolor": LIGHT["soft"],
    "axes.edgecolor": LIGHT["grid"],
    "axes.facecolor": "none",
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": LIGHT["grid"],
    "grid.linewidth": 0.8,
    "xtick.color": LIGHT["grid"],
    "ytick.color": LIGHT["grid"],
    "xtick.labelcolor": LIGHT["soft"],
    "ytick.labelcolor": LIGHT["soft"],
    "figure.facecolor": "none",
    "legend.frameon": False,
    "legend.fontsize": 10,
    "lines.solid_capstyle": "round",
}
_INCH = 72.0
_PERCENT = FuncFormatter(lambda value, _: f"{100 * value:.4g}%")
SMOOTHING = 0.1


@contextmanager
def style() -> Iterator[None]:
    """matplotlib set up for the report; figures must be created and saved inside."""
    with matplotlib.rc_context(_STYLE):
        yield


def to_svg(figure: Figure, label: str) -> str:
    """The figure as an inline `<svg>` with `label` for screen readers, its colours as CSS variables.

    Metadata, the style sheet (which would apply to the whole page), fixed sizes and group ids (which repeat between
    figures) are taken out. Ids that are referred to carry `label` in their hash, so they differ between figures.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": label}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(
        r"<metadata>(?:(?!<metadata>).)*?</metadata>"
        r"|<style(?:(?!<style).)*?</style>|<!--(?:(?!<!--).)*?-->",
        "",
        svg,
        flags=re.DOTALL,
    )
    svg = re.sub(r'<g id="[^"]*"', "<g", svg).replace("xlink:href", "href")
    for name, light in LIGHT.items():
        svg = svg.replace(light, f"var(--{name})")
    box = " ".join(f"{side * _INCH:.0f}" for side in figure.get_size_inches())
    opening = f'<svg viewBox="0 0 {box}" role="img" aria-label="{esc(label)}">'
    return re.sub(r"<svg[^<>]*+>", lambda _: opening, svg, count=1).strip()


def family_plot(evals: Mapping[str, EvalResult], level: float) -> Figure:
    """pass@1 of each family after each stage, with intervals at `level`; families ordered by their last score."""
    figure = _figure(400, family_height(evals))
    draw_families(figure.subplots(), evals, level)
    return figure


def tokens_plot(scaling: ScalingResult, voted: str, height: float = 300) -> Figure:
    """Accuracy against tokens spent, for majority and DeepConf, one marker a budget."""
    figure = _figure(400, height)
    draw_tokens(figure.subplots(), scaling, voted)
    return figure


def family_height(evals: Mapping[str, EvalResult]) -> float:
    """The height (points) at which `family_plot` gives every family the same room."""
    return 84 + 34 * (len(_family_order(evals)) + 1)


def save_main(
    evals: Mapping[str, EvalResult], scaling: ScalingResult | None, path: Path, level: float, voted: str
) -> None:
    """Both halves of the main plot side by side, on white, as PNG (or what the suffix of `path` says)."""
    with style(), matplotlib.rc_context({"svg.fonttype": "path"}):
        panels = [part for part, there in (("families", evals), ("tokens", scaling)) if there]
        figure = _figure(430 * len(panels), max(330, family_height(evals)))
        for axes, part in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            if part == "families":
                draw_families(axes, evals, level)
            elif scaling:
                draw_tokens(axes, scaling, voted)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=160, facecolor="white")


def draw_families(axes: Axes, evals: Mapping[str, EvalResult], level: float) -> None:
    """One row a family and one for all problems on top; per stage a marker with its interval."""
    families = _family_order(evals)
    stages = [stage for stage in EVAL_STAGES if stage in evals]
    for place, stage in enumerate(stages):
        shift = 0.24 * ((len(stages) - 1) / 2 - place)
        rows: list[tuple[float, float, Interval | None]] = []
        for row, family in enumerate(["", *families]):
            score = evals[stage] if not family else evals[stage].per_family.get(family)
            if score is not None:
                rows.append(
                    (len(families) - row + shift + (0.35 if not family else 0), score.pass_at_1, score.interval)
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
            label=STAGE_TITLES[stage],
        )
    axes.axhline(len(families) - 0.33, color=LIGHT["grid"], linewidth=0.8)
    axes.set_yticks(
        [len(families) + 0.35, *range(len(families) - 1, -1, -1)], ["all problems", *(short_label(f) for f in families)]
    )
    axes.tick_params(axis="y", length=0, labelcolor=LIGHT["ink"])
    axes.get_yticklabels()[0].set_fontweight("bold")
    axes.set_ylim(-0.6, len(families) + 0.95)
    axes.set_xlim(-0.02, 1.02)
    axes.xaxis.set_major_formatter(_PERCENT)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(f"held-out problems solved, pass@1 (line: {100 * level:g}% interval)")
    _legend_above(axes)


def draw_tokens(axes: Axes, scaling: ScalingResult, voted: str) -> None:
    """Two lines through the budgets, with intervals; hollow markers are simulated, filled ones were run.

    Majority's is the line to beat: what the same tokens buy without any method.
    """
    budgets = scaling.budgets or [
        BudgetScore(budget=scaling.budget, majority=scaling.majority, deepconf=scaling.deepconf)
    ]
    budgets = sorted(budgets, key=lambda entry: entry.budget)
    for name, title, dash in (("majority", "majority vote", (0, (4, 2))), ("deepconf", "DeepConf", "solid")):
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
    axes.yaxis.set_major_formatter(_PERCENT)
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.set_xlabel(f"tokens written {voted} (log scale)")
    axes.set_ylabel("problems answered correctly")
    _legend_above(axes)


@dataclass(frozen=True)
class Curve:
    """One line of a learning-curve panel: raw points (steps, values) in a colour of `COLOURS`."""

    label: str
    colour: str
    steps: Sequence[int]
    values: Sequence[float]
    dash: str = "solid"


def curve_plot(
    title: str,
    unit: str,
    curves: Sequence[Curve],
    share: bool = False,
    span: tuple[float, float] | None = None,
    smoothing: float = SMOOTHING,
) -> Figure:
    """A learning-curve panel: faint line each step, strong line the running mean over the part `smoothing` of them.

    `share`: values are 0 to 1, shown in percent. `span`: vertical limits, for panels that are compared.
    """
    figure = _figure(330, 210)
    axes = figure.subplots()
    for curve in curves:
        colour = LIGHT[curve.colour]
        smooth = running_mean(curve.values, window_for(len(curve.values), smoothing))
        if len(curve.values) > 1:
            axes.plot(curve.steps, curve.values, color=colour, linewidth=0.9, alpha=0.35)
        axes.plot(
            curve.steps,
            smooth,
            color=colour,
            linewidth=2,
            linestyle=curve.dash,
            label=curve.label,
            marker="o" if len(curve.values) == 1 else None,
        )
    axes.set_title(short_label(title))
    axes.set_xlabel("optimiser step")
    axes.set_ylabel(unit)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.margins(y=0.12)
    if span is not None:
        room = 0.06 * (span[1] - span[0]) or 0.5
        axes.set_ylim(span[0] - room, span[1] + room)
    if share:
        axes.yaxis.set_major_formatter(_PERCENT)
        axes.set_ylim(top=min(axes.get_ylim()[1], 1.02))
    if len(curves) > 1:
        axes.legend(loc="best")
    return figure


def histogram_plot(counts: Sequence[int]) -> Figure:
    """How many candidate RL problems were solved by k of the rollouts, k = 0 .. len(counts) - 1."""
    figure = _figure(420, 230)
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
    return figure


def comparison_plot(names: Sequence[str], scores: Sequence[Mapping[str, EvalResult]], level: float) -> Figure:
    """pass@1 over all problems of several runs, one row a run, one marker a stage."""
    figure = _figure(420, 84 + 34 * len(names))
    axes = figure.subplots()
    for place, stage in enumerate(EVAL_STAGES):
        there = [(len(names) - 1 - row, score[stage]) for row, score in enumerate(scores) if stage in score]
        if not there:
            continue
        shift = 0.2 * (1 - place)
        for y, result in there:
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
    axes.xaxis.set_major_formatter(_PERCENT)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(f"held-out problems solved, pass@1 (line: {100 * level:g}% interval)")
    _legend_above(axes)
    return figure


def short(value: float) -> str:
    """12300 as `12.3k`, for axis ticks."""
    for unit, word in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:.3g}{word}"
    return f"{value:.3g}"


def window_for(steps: int, part: float = SMOOTHING) -> int:
    """The odd width of the running mean for a curve of `steps` points: about the given part of them."""
    return max(1, int(steps * part)) | 1


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """Mean over the `window` (odd) points centred at each point, over those of them that exist near both ends."""
    half = window // 2
    around = [values[max(0, place - half) : place + half + 1] for place in range(len(values))]
    return [sum(part) / len(part) for part in around]


def _family_order(evals: Mapping[str, EvalResult]) -> list[str]:
    """Families of all stages, best first by the last stage that has a score."""
    last: dict[str, float] = {}
    for stage in EVAL_STAGES:
        if stage in evals:
            last.update({family: score.pass_at_1 for family, score in evals[stage].per_family.items()})
    return sorted(last, key=lambda family: (-last[family], family))


def _figure(width: float, height: float) -> Figure:
    """A figure of that many points."""
    return Figure(figsize=(width / _INCH, height / _INCH), layout="constrained")


def _legend_above(axes: Axes) -> None:
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3, borderaxespad=0.2, handletextpad=0.4, columnspacing=1.4
    )
