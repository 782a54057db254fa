"""One HTML page and one JSON file from a run directory; and one page that compares several runs.

The page is a single file: no script, no network, nothing beside it. It follows the reader's light or dark scheme. A run
that was evaluated has a second page beside it, `samples.html`, to read every answer on (`samples.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from h1r.common.callable_package import make_callable
from h1r.common.files import write_json, write_text
from h1r.common.prose import counted
from h1r.errors import UserError
from h1r.report import plots
from h1r.report.collect import RunReport, collect, summarise
from h1r.report.compare import comparison_page, comparison_tables
from h1r.report.page import run_page
from h1r.report.results import confidence_level, tokens_unit
from h1r.report.samples import answer_sets, write_browser
from h1r.report.svg import style

__all__ = [
    "RunReport",
    "collect",
    "collect_several",
    "comparison_tables",
    "save_main_plot",
    "summarise",
    "write_comparison",
    "write_comparison_of",
    "write_report",
]


def write_report(run: str | Path, out: str | Path | None = None) -> Path:
    """Writes the HTML report of a run, and its numbers as JSON beside it, and returns the path of the page.

    `out`: the HTML file; without it `report.html` in the run directory. Stages that have not run are named on the page
    and left out. Raises `UserError` when `run` is no run directory, or when a file in it does not read.
    """
    page = Path(out) if out is not None else Path(run) / "report.html"
    report = collect(run)
    browser = page.with_name("samples.html" if out is None else f"{page.stem}-samples.html")
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        readable = write_browser(browser, page, report.name, answer_sets(report))
    except OSError as error:
        raise UserError(f"cannot write {page}: {error.strerror or error}; give another path") from None
    with style():
        document = run_page(report, browser.name if readable else None)
    _write(page, document, summarise(report))
    return page


def write_comparison(runs: Sequence[str | Path], out: str | Path) -> Path:
    """Writes one HTML page that compares runs, and their summaries as a JSON list beside it; returns the page's path.

    Raises `UserError` as `write_report` does, and for fewer than two runs.
    """
    return write_comparison_of(collect_several(runs), out)


def collect_several(runs: Sequence[str | Path]) -> list[RunReport]:
    """Reads runs to be compared. `UserError` as `collect`, and for fewer than two."""
    if len(runs) < 2:
        raise UserError(
            f"a comparison needs two runs or more, {counted(len(runs), 'run')} given; name more directories"
        )
    return [collect(run) for run in runs]


def write_comparison_of(reports: Sequence[RunReport], out: str | Path) -> Path:
    """As `write_comparison`, of runs that are read already."""
    page = Path(out)
    with style():
        document = comparison_page(reports)
    _write(page, document, [summarise(report) for report in reports])
    return page


def save_main_plot(run: str | Path, path: str | Path) -> Path:
    """Saves the report's main plot (accuracy per family, accuracy against tokens) as an image, for a README.

    The suffix of `path` gives the format (.png, .svg, .pdf). Raises `UserError` when the run has neither half.
    """
    report = collect(run)
    if not report.evals and report.scaling is None:
        raise UserError(f"{run} has no evaluation and no scaling study to plot; run `h1r eval` or `h1r demo` first")
    target = Path(path)
    try:
        plots.save_main(
            report.evals, report.scaling, target, confidence_level(report), tokens_unit(report), report.titles
        )
    except (OSError, ValueError) as error:  # a format that matplotlib does not have is a ValueError
        raise UserError(f"cannot write {target}: {error}; give another path") from None
    return target


def _write(page: Path, document: str, numbers: Any) -> None:
    try:
        write_text(page, document)
        write_json(page.with_suffix(".json"), numbers)
    except OSError as error:
        raise UserError(f"cannot write {page}: {error.strerror or error}; give another path") from None


make_callable(__name__, write_report)
