"""The command that grades answers of others, and examines their problems: verify."""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from h1r.cli.common import AsJson, finite, stopping
from h1r.common.progress import note, quiet
from h1r.common.prose import counted
from h1r.common.terminal import shown, shown_json
from h1r.errors import UserError

if TYPE_CHECKING:
    from h1r.verify.controls.file import Validation


def verify(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help='JSONL of {"prediction", "reference"}; - is standard input.')
    ],
    verifier: Annotated[
        str | None, typer.Option(metavar="NAME", help="Verifier of lines that name none. Default: math, boxed or not.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Processes that grade. Default: one per core, at most 8.")
    ] = None,
    time_limit: Annotated[
        float, typer.Option(callback=finite, metavar="SECONDS", help="Longest time for one answer.")
    ] = 5.0,
    validate: Annotated[
        bool,
        typer.Option("--validate", help="Examine the problems: the reference must score 1, answers to nothing 0."),
    ] = False,
    share: Annotated[
        float,
        typer.Option(
            callback=finite,
            metavar="SHARE",
            help="With --validate: a family is refused when a control earns for more of its items.",
        ),
    ] = 0.1,
    constant_share: Annotated[
        float,
        typer.Option(
            callback=finite,
            metavar="SHARE",
            help="With --validate: a family is refused when one answer is right for more of its items.",
        ),
    ] = 0.8,
    judge: Annotated[
        bool, typer.Option("--judge", help="With --validate: ask the judge for its controls, too.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Grade answers: one verdict per line, in the order of the lines."""
    quiet(as_json)
    if time_limit <= 0:
        raise UserError(f"--time-limit is {time_limit:g}; give seconds above 0")
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # half a surrogate pair, escaped as JSON has it
    workers = workers or min(os.cpu_count() or 1, 8)
    start = time.perf_counter()
    if validate:
        from h1r.config.verify import ControlsSection
        from h1r.verify.controls.file import Validation

        for name, value in (("share", share), ("constant-share", constant_share)):
            if not 0 <= value <= 1:
                raise UserError(f"--{name} is {value:g}; give a share from 0 to 1")
        section = ControlsSection(share=share, constant_share=constant_share, judge=judge)
        with stopping("run it again"):
            accepted = _validate(Validation(file, section, verifier, workers, time_limit), section, as_json, start)
        if not accepted:
            raise typer.Exit(1)
        return
    from h1r.verify.batch import verify_file

    with stopping("run it again"):
        reasons = _print(verify_file(file, verifier, workers, time_limit), as_json)
    seconds = time.perf_counter() - start
    note(f"{counted(reasons.total(), 'answer')} in {seconds:.1f} s: {counts(reasons)}")
    if reasons.total() and reasons["unscored"] == reasons.total():
        raise UserError(f"{file}: no line could be graded; the verdicts say why")


def counts(reasons: Counter[str | None]) -> str:
    """How many answers are right, and how many are not for each reason that occurs: "3 right, 1 wrong, 2 time"."""
    from h1r.records import REASONS

    return ", ".join(
        f"{reasons[reason]} {reason or 'right'}" for reason in (None, *REASONS) if reasons[reason] or not reason
    )


def _print(rows: Iterator[dict[str, Any]], as_json: bool) -> Counter[str | None]:
    """Prints the verdicts; how many have each reason, None for full reward."""
    reasons: Counter[str | None] = Counter()
    for row in rows:
        reasons[row["reason"]] += 1
        print(_json(row) if as_json else shown(_plain(row)), flush=sys.stdout.isatty())
    return reasons


def _json(row: dict[str, Any]) -> str:
    return shown_json(json.dumps(row, ensure_ascii=False))


def _plain(row: dict[str, Any]) -> str:
    extracted = "" if row["extracted"] is None else " ".join(str(row["extracted"]).split())
    why = ": ".join(said for said in (row["reason"], row["error"]) if said)
    return f"{row['line']}  {row['reward']:g}  {extracted[:100]}{f'  ({why})' if why else ''}"


def _validate(validation: Validation, section: Any, as_json: bool, start: float) -> bool:
    """Prints a row a line and the families' table; whether everything was accepted."""
    from h1r.verify.controls.report import family_rows, family_table

    count = refused = 0
    for row in validation.rows():
        count += 1
        refused += not row["accepted"]
        if as_json:
            print(_json(row), flush=sys.stdout.isatty())
        else:
            why = "accepted" if row["accepted"] else f"refused  {row['reason']}: {row['detail']}"
            print(shown(f"{row['line']}  {' '.join(why.split())}"), flush=sys.stdout.isatty())
    families = family_rows(validation.tally, section)
    if as_json:
        for family in families:
            print(_json(family))
    elif families:
        from rich.console import Console

        Console().print(family_table(families))
    gamed = sum(family["refused_family"] is not None for family in families)
    seconds = time.perf_counter() - start
    note(f"{counted(count, 'problem')} in {seconds:.1f} s: {refused} refused, and {gamed} of {len(families)} families")
    return not refused and not gamed
