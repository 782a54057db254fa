"""The command that grades answers of others: verify."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from h1r.cli.common import AsJson, stopping
from h1r.errors import UserError
from h1r.progress import note, quiet


def verify(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help='JSONL of {"prediction", "reference"}; - is standard input.')
    ],
    verifier: Annotated[
        str | None, typer.Option(metavar="NAME", help="For lines that name none. Default: math, boxed or not.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes. Default: one per core, at most 8.")] = None,
    time_limit: Annotated[float, typer.Option(help="Seconds for one answer.")] = 5.0,
    as_json: AsJson = False,
) -> None:
    """Grade answers: a verdict a line, in the order of the lines."""
    quiet(as_json)
    from h1r.verify.batch import verify_file

    if time_limit <= 0:
        raise UserError(f"--time-limit is {time_limit:g}; give seconds above 0")
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # half a surrogate pair, escaped as JSON has it
    workers = workers or min(os.cpu_count() or 1, 8)
    start = time.perf_counter()
    with stopping("run it again"):
        count, right, errors = _print(verify_file(file, verifier, workers, time_limit), as_json)
    seconds = time.perf_counter() - start
    note(f"{count} answers in {seconds:.1f} s: {right} right, {count - right} wrong, of these {errors} with an error")


def _print(rows: Iterator[dict[str, Any]], as_json: bool) -> tuple[int, int, int]:
    """Prints the verdicts; (how many, how many full rewards, how many errors)."""
    count = right = errors = 0
    for row in rows:
        count += 1
        right += row["reward"] >= 1.0
        errors += row["error"] is not None
        print(json.dumps(row, ensure_ascii=False) if as_json else _plain(row), flush=sys.stdout.isatty())
    return count, right, errors


def _plain(row: dict[str, Any]) -> str:
    extracted = "" if row["extracted"] is None else " ".join(str(row["extracted"]).split())
    why = f"  ({row['error']})" if row["error"] else ""
    return f"{row['line']}  {row['reward']:g}  {extracted[:100]}{why}"
