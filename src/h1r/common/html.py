"""The one writer of HTML pages: numbers as people read them, the fragments of a page, and the page itself.

Everything that comes from a run or a file passes through `esc`: model output is hostile input.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable, Mapping, Sequence

from h1r.common import prose
from h1r.common.prose import plural_of
from h1r.common.style import CSS

NONE = "–"
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
MINUS = "\N{MINUS SIGN}"


def clean(value: object) -> str:
    """Text that HTML, SVG and UTF-8 can hold: control characters and lone surrogates become U+FFFD, newlines `\\n`."""
    text = str(value).replace("\r\n", "\n").replace("\r", "\n")
    return _FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", text)


def esc(value: object) -> str:
    """`clean` text that is safe inside an element or a quoted attribute."""
    return html.escape(clean(value), quote=True)


def percent(share: float | None, signed: bool = False) -> str:
    """0.4172 as `41.7%`."""
    if share is None or not math.isfinite(share):
        return NONE
    return _signed(f"{100 * share:.1f}", signed) + "%"


def points(difference: float | None) -> str:
    """0.024 as `+2.4 points` (percentage points)."""
    if difference is None or not math.isfinite(difference):
        return NONE
    return _signed(f"{100 * difference:.1f}", True) + " points"


def percent_interval(interval: tuple[float, float] | None, signed: bool = False) -> str:
    """(0.38, 0.45) as `38.0% to 45.0%`."""
    return NONE if interval is None else f"{percent(interval[0], signed)} to {percent(interval[1], signed)}"


def count(value: float | None) -> str:
    """12345.6 as `12,346`; from a million on, three figures: `1.23 million`."""
    if value is None or not math.isfinite(value):
        return NONE
    for size, word in ((1e9, "billion"), (1e6, "million")):
        if abs(value) >= size:
            return f"{prose.figures(value / size)} {word}"
    return f"{value:,.0f}"


def plural(number: float, noun: str) -> str:
    """`1 row`, `1.23 million rows`."""
    return f"{count(number)} {noun if number == 1 else plural_of(noun)}"


def duration(seconds: float | None) -> str:
    """754 as `12 min 34 s`, in the two largest units."""
    if seconds is None or not math.isfinite(seconds):
        return NONE
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    units = [(whole // 86400, "d"), (whole // 3600 % 24, "h"), (whole // 60 % 60, "min"), (whole % 60, "s")]
    first = next(i for i, (amount, _) in enumerate(units) if amount)
    return " ".join(f"{amount} {unit}" for amount, unit in units[first : first + 2] if amount)


def size(number: float | None) -> str:
    """Bytes: `1 byte`, `1.75 GiB`."""
    return NONE if number is None or not math.isfinite(number) else prose.size(number)


def label(name: str, limit: int = 28) -> str:
    """An identifier as a short label of a plot."""
    text = words(clean(name))
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def words(name: str) -> str:
    """`near_duplicate` as `near duplicate`: an identifier as prose."""
    return name.replace("_", " ")


def page(title: str, body: str) -> str:
    """A whole HTML document: no script, no network (refused by its own policy too), nothing outside the file.

    `title` is text, `body` HTML.
    """
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{esc(title)}</title><style>{CSS}</style></head><body><main>{body}</main></body></html>\n"
    )


def sections(parts: Mapping[str, tuple[str, str]]) -> str:
    """Sections of (title, HTML) by anchor, those that are empty left out, after links to them."""
    links = "".join(f'<a href="#{anchor}">{title}</a>' for anchor, (title, inner) in parts.items() if inner)
    return f"<nav>{links}</nav>" + "".join(section(anchor, title, inner) for anchor, (title, inner) in parts.items())


def table(head: Sequence[str], rows: Iterable[Sequence[str]], numeric: Iterable[int] = ()) -> str:
    """A table of HTML cells (escaped by the caller); columns in `numeric` are right-aligned. Scrolls when too wide."""
    right = set(numeric)

    def cell(kind: str, column: int, value: str) -> str:
        return f'<{kind} class="n">{value}</{kind}>' if column in right else f"<{kind}>{value}</{kind}>"

    def line(kind: str, values: Sequence[str]) -> str:
        return "<tr>" + "".join(cell(kind, column, value) for column, value in enumerate(values)) + "</tr>"

    body = "".join(line("td", row) for row in rows)
    return f'<div class="scroll"><table><thead>{line("th", head)}</thead><tbody>{body}</tbody></table></div>'


def card(what: str, number: str, meaning: str = "", colour: str = "") -> str:
    """A number with its name above and its meaning below, all text; `colour`: the class of its upper edge."""
    below = f"<span>{esc(meaning)}</span>" if meaning else ""
    return f'<div class="card {colour}"><span class="what">{esc(what)}</span><b>{esc(number)}</b>{below}</div>'


def bar(*parts: tuple[float, str]) -> str:
    """A horizontal bar: segments of (share of the cell, 0 to 1; colour class), side by side."""
    fills = "".join(
        f'<span class="{colour}" style="width:{100 * min(max(share, 0.0), 1.0):.1f}%"></span>'
        for share, colour in parts
    )
    return f'<span class="track">{fills}</span>'


def details(summary: str, body: str, start_open: bool = False) -> str:
    """A part that folds; both arguments are HTML."""
    return f"<details{' open' if start_open else ''}><summary>{summary}</summary>{body}</details>"


def section(anchor: str, title: str, *body: str) -> str:
    """A titled section of HTML parts, or nothing when it would be empty."""
    inner = "".join(body)
    return f'<section id="{anchor}"><h2>{title}</h2>{inner}</section>' if inner else ""


def _signed(number: str, signed: bool) -> str:
    if number.startswith("-"):
        return MINUS + number[1:]
    return f"+{number}" if signed else number
