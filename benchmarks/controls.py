"""Negative controls of every procedural family of reasoning_gym, 20 items each: which families, and what they pay.

python benchmarks/controls.py                 through the package's scorers and through ours: a table in Markdown
python benchmarks/controls.py --families coin_flip puzzle24 --items 40
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import time
from collections.abc import Iterator
from typing import Any

import reasoning_gym
from reasoning_gym.factory import DATASETS

from h1r.config import ControlsSection
from h1r.records import Problem
from h1r.verify import Verifier, VerifierPool, register
from h1r.verify.controls import examine
from h1r.verify.controls.report import family_rows
from verification import package_scorers

SEED = 7
MAKING_LIMIT_S = 60
ORIGINAL = "package"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=20)
    parser.add_argument("--families", nargs="*", default=sorted(DATASETS))
    parser.add_argument("--verifiers", nargs="*", default=[ORIGINAL, "reasoning_gym"])
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    register(Verifier(ORIGINAL, f"{package_scorers.__name__}:grade", confined=True))
    section = ControlsSection(per_item=0)
    rows: list[dict[str, Any]] = []
    with VerifierPool(2, 3.0, format_checks=False) as pool:
        for family in arguments.families:
            entries = items(family, arguments.items)
            for verifier in arguments.verifiers if entries else ():
                problems = [problem(family, verifier, number, entry) for number, entry in enumerate(entries)]
                start = time.perf_counter()
                found = examine(problems, pool.verify_many, section, references=True)
                (row,) = family_rows(found.tally, section)
                broken = sum(why is not None and why.reason.startswith("reference") for why in found.refusals)
                seconds = round(time.perf_counter() - start, 1)
                rows.append({**row, "references_fail": broken, "seconds": seconds})
                print(json.dumps(rows[-1]) if arguments.json else line(rows[-1]), flush=True)


def items(family: str, count: int) -> list[dict[str, Any]]:
    """The family's items; none where it needs more than its defaults, or too long to make them."""
    try:
        with limited(MAKING_LIMIT_S):
            return list(reasoning_gym.create_dataset(family, size=count, seed=SEED))
    except (TimeoutError, AssertionError):
        return []


@contextlib.contextmanager
def limited(seconds: int) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def problem(family: str, verifier: str, number: int, entry: dict[str, Any]) -> Problem:
    entry = json.loads(json.dumps(entry, default=str)) if verifier == "reasoning_gym" else entry
    return Problem(
        f"{family}{number}", entry["question"], str(entry["answer"]), verifier, family, metadata={"entry": entry}
    )


def line(row: dict[str, Any]) -> str:
    """A row of the table."""
    verdict = (
        "refused" if row["refused_family"] else f"{row['refused']} items refused" if row["refused"] else "accepted"
    )
    constant, control = (
        f"`{' '.join(str(name).split())[:24]}` {count} of {of}" if count else ""
        for name, count, of in (row["constant"], row["control"])
    )
    return (
        f"| {row['family']} | {row['verifier']} | {row['references_fail'] or ''} | {constant} | {control} | {verdict} |"
    )


if __name__ == "__main__":
    main()
