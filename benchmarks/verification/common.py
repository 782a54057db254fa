"""What the families share: recorded judgements from files, agreement with them, and the list of disagreements.

The data are found by H1R_DATA, else ../shared/data beside the checkout.
"""

from __future__ import annotations

import gzip
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from h1r.records import Problem, Verdict
from h1r.verify import VerifierPool

DATA = Path(os.environ.get("H1R_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
Reviewed = Mapping[str, tuple[str, str]]
"""Record id -> (who is right: "ours", "recorded", or "policy" when the two answer different questions; why)."""


@dataclass(frozen=True, slots=True)
class Context:
    """What a section gets. `quick` asks for a part of the work that still shows the shape of the result."""

    pool: VerifierPool
    quick: bool = False


Section = Callable[[Context], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Judged:
    """A response, and the judgement of it that was recorded by someone else. `id` names the record for `Reviewed`."""

    id: str
    problem: Problem
    text: str
    recorded: bool


def rows(path: str) -> list[Any]:
    """The records of a JSON or JSONL file under DATA, gzipped or not."""
    file = DATA / path
    content = gzip.decompress(file.read_bytes()) if path.endswith("gz") else file.read_bytes()
    text = content.decode()
    if ".jsonl" in path:
        return [json.loads(line) for line in text.splitlines()]
    found = json.loads(text)
    return found if isinstance(found, list) else [found]


def columns(path: str) -> list[dict[str, Any]]:
    """The records of a Parquet file under DATA."""
    import pyarrow.parquet as parquet

    found: list[dict[str, Any]] = parquet.read_table(DATA / path).to_pylist()
    return found


def agreement(records: Iterable[Judged], pool: VerifierPool, reviewed: Reviewed) -> dict[str, Any]:
    """The share of recorded judgements that ours equals, and every one that it does not.

    `agreement_after_review` does not count those where ours is right, or where the two answer different questions.
    """
    judged = list(records)
    start = time.perf_counter()
    verdicts = pool.verify_many([item.problem for item in judged], [item.text for item in judged])
    seconds = time.perf_counter() - start
    differ = [
        disagreement(item.id, item.problem.answer, verdict, item.recorded, reviewed)
        for item, verdict in zip(judged, verdicts, strict=True)
        if bool(verdict.reward) != item.recorded
    ]
    wrong = sum(item["right"] not in ("ours", "policy") for item in differ)
    return {
        "judgements": len(judged),
        "agreement": 1 - len(differ) / len(judged),
        "agreement_after_review": 1 - wrong / len(judged),
        "seconds": round(seconds, 2),
        "disagreements": differ,
    }


def disagreement(name: str, reference: str, verdict: Verdict, recorded: bool, reviewed: Reviewed) -> dict[str, Any]:
    right, why = reviewed.get(name, ("unreviewed", "nobody has looked at this one"))
    return {
        "id": name,
        "reference": reference[:120],
        "answer": (verdict.extracted or "")[:120],
        "error": verdict.error,
        "ours": bool(verdict.reward),
        "recorded": recorded,
        "right": right,
        "why": why,
    }
