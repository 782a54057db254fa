"""Figures as inline SVG that follows the page's light or dark colours: drawn by matplotlib, shown on a page without a
script.

Every colour is named once in `common/style.py`, as (light, dark). Figures are drawn in the light one; `to_svg` then
replaces each by its CSS variable, so that one drawing serves both schemes, and text becomes real text in the page's
font. Figures never enter pyplot's registry, so they are freed with the last reference to them. What a place of a plot
says when one points at it is the `<title>` of an invisible shape (`Spot`).
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from h1r.common.html import esc
from h1r.common.style import COLOURS

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
PERCENT = FuncFormatter(lambda value, _: f"{100 * value:.4g}%")


@contextmanager
def style() -> Iterator[None]:
    """matplotlib set up for the report; figures must be created and saved inside."""
    with matplotlib.rc_context(_STYLE):
        yield


@dataclass(frozen=True)
class Spot:
    """What a place of a plot says: around the point (x, y), or between two x over the whole height of the axes."""

    axes: Axes
    x: float | tuple[float, float]
    y: float | None
    text: str

    def svg(self, height: float) -> str:
        """The shape, in a figure of that height (points)."""
        told = f"<title>{esc(self.text)}</title>"
        box = self.axes.get_window_extent()
        if isinstance(self.x, tuple):
            left, right = (min(max(float(self.axes.transData.transform((x, 0))[0]), box.x0), box.x1) for x in self.x)
            return (
                f'<rect class="spot" x="{left:.1f}" y="{height - box.y1:.1f}" width="{max(right - left, 0.1):.1f}" '
                f'height="{box.height:.1f}">{told}</rect>'
            )
        x, y = self.axes.transData.transform((self.x, 0.0 if self.y is None else self.y))
        return f'<circle class="spot" cx="{x:.1f}" cy="{height - y:.1f}" r="8">{told}</circle>'


@dataclass(frozen=True)
class Plot:
    """A figure and what its places say."""

    figure: Figure
    spots: Sequence[Spot] = ()


def to_svg(plot: Plot, label: str) -> str:
    """The figure as an inline `<svg>` with `label` for screen readers, its colours as CSS variables.

    Metadata, the style sheet (which would apply to the whole page), fixed sizes and group ids (which repeat between
    figures) are taken out. Ids that are referred to carry `label` in their hash, so they differ between figures.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": label}):
        plot.figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
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
    width, height = (side * _INCH for side in plot.figure.get_size_inches())
    opening = f'<svg viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{esc(label)}">'
    svg = re.sub(r"<svg[^<>]*+>", lambda _: opening, svg, count=1).strip()
    return svg.removesuffix("</svg>") + "".join(spot.svg(height) for spot in plot.spots) + "</svg>"


def figure_of(width: float, height: float) -> Figure:
    """A figure of that many points."""
    return Figure(figsize=(width / _INCH, height / _INCH), layout="constrained", dpi=_INCH)


def short(value: float) -> str:
    """12300 as `12.3k`, for axis ticks."""
    for unit, word in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:.3g}{word}"
    return f"{value:.3g}"
