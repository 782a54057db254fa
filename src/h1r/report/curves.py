"""Learning curves: one metric, or several runs, by optimiser step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, Formatter, FuncFormatter, MaxNLocator, NullLocator, ScalarFormatter

from h1r.common.html import count, percent
from h1r.common.html import label as short_label
from h1r.report.svg import LIGHT, PERCENT, Plot, Spot, figure_of, short

SMOOTHING = 0.1


@dataclass(frozen=True)
class Curve:
    """One line of a learning-curve panel: raw points (steps, values) in a colour of `COLOURS`."""

    label: str
    colour: str
    steps: Sequence[int]
    values: Sequence[float]
    dash: str = "solid"

    @property
    def varies(self) -> bool:
        """Whether there is anything to draw."""
        return len(set(self.values)) > 1


@dataclass(frozen=True)
class Panel:
    """The curves of one learning-curve panel; `share` and `log` as in `curve_plot`."""

    title: str
    unit: str
    curves: Sequence[Curve]
    share: bool = False
    log: bool = False

    def say(self, value: float) -> str:
        return percent(value) if self.share else short(value)

    def plot(self, smoothing: float = SMOOTHING) -> Plot:
        return curve_plot(self.title, self.unit, self.curves, self.share, smoothing, self.log)


_COLOURS = ("sft", "rl", "deepconf", "majority", "base")
_DASHES = ("solid", "dashed", "dotted", "dashdot")


def look(place: int) -> tuple[str, str]:
    """Colour and dash of one of many curves."""
    return _COLOURS[place % len(_COLOURS)], _DASHES[place // len(_COLOURS) % len(_DASHES)]


MOST_BANDS = 120
"""Places of a learning curve that say their numbers."""
MOST_RAW = 3
"""Runs of which the faint line of each step is drawn, too."""


def curve_plot(
    title: str,
    unit: str,
    curves: Sequence[Curve],
    share: bool = False,
    smoothing: float = SMOOTHING,
    log: bool = False,
) -> Plot:
    """A learning-curve panel: faint line each step, strong line the running mean over the part `smoothing` of them.

    `share`: values are 0 to 1, shown in percent. `log`: a logarithmic scale, where all values are above 0.
    """
    figure = figure_of(330, 210 + 18 * (len(curves) > MOST_RAW))
    axes = figure.subplots()
    for curve in curves:
        colour = LIGHT[curve.colour]
        smooth = running_mean(curve.values, window_for(len(curve.values), smoothing))
        if len(curve.values) > 1 and len(curves) <= MOST_RAW:
            axes.plot(curve.steps, curve.values, color=colour, linewidth=0.9, alpha=0.35)
        axes.plot(
            curve.steps,
            smooth,
            color=colour,
            linewidth=2,
            linestyle=curve.dash,
            label=short_label(curve.label),
            marker="o" if len(curve.values) == 1 else None,
        )
    axes.set_title(short_label(title))
    axes.set_xlabel("optimiser step")
    axes.set_ylabel(unit)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.margins(y=0.12)
    values = [value for curve in curves for value in curve.values]
    if log and min(values) > 0:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(FixedLocator(log_ticks(*axes.get_ylim())))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
        axes.set_ylabel(f"{unit} (log scale)")
    else:
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_formatter(_whole_numbers(axes.get_ylim()))
    if share:
        axes.yaxis.set_major_formatter(PERCENT)
        axes.set_ylim(top=min(axes.get_ylim()[1], 1.02))
    if len(curves) > 1:
        axes.legend(loc="best")
    return Plot(figure, _bands(axes, curves, percent if share else short))


def _whole_numbers(ends: tuple[float, float]) -> Formatter:
    """Ticks that are to be read alone: without an offset or a power of ten that stands above the axis."""
    if max(map(abs, ends)) >= 10_000:
        return FuncFormatter(lambda value, _: short(value))
    found = ScalarFormatter(useOffset=False)
    found.set_scientific(False)
    return found


def log_ticks(low: float, high: float) -> list[float]:
    """Round numbers from `low` to `high`, both above 0: 1, 2 and 5 of each power of ten, or closer ones in a narrow
    range."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for leading in ((1,), (1, 2, 5)):
        found = [n * 10.0**power for power in powers for n in leading if low <= n * 10.0**power <= high]
        if len(found) >= 3:
            return found
    return [float(tick) for tick in MaxNLocator(4).tick_values(low, high) if low <= tick <= high]


def _bands(axes: Axes, curves: Sequence[Curve], say: Callable[[float], str]) -> list[Spot]:
    """What each curve has at a step, for at most `MOST_BANDS` steps."""
    at = [dict(zip(curve.steps, curve.values, strict=True)) for curve in curves]
    steps = sorted(set().union(*at))
    steps = steps[:: max(1, math.ceil(len(steps) / MOST_BANDS))]
    spots = []
    for place, step in enumerate(steps):
        told = [
            f"{curve.label} {say(values[step])}" for curve, values in zip(curves, at, strict=True) if step in values
        ]
        left = (steps[place - 1] + step) / 2 if place else step - 0.5
        right = (steps[place + 1] + step) / 2 if place + 1 < len(steps) else step + 0.5
        spots.append(Spot(axes, (left, right), None, f"step {count(step)}: {', '.join(told)}"))
    return spots


def window_for(steps: int, part: float = SMOOTHING) -> int:
    """The odd width of the running mean for a curve of `steps` points: about the given part of them."""
    return max(1, int(steps * part)) | 1


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """Mean over the `window` (odd) points centred at each point, over those of them that exist near both ends."""
    half = window // 2
    around = [values[max(0, place - half) : place + half + 1] for place in range(len(values))]
    return [sum(part) / len(part) for part in around]
