"""Verdicts for the lines of a file: what `h1r verify FILE` prints.

    in    {"prediction": ..., "reference": ..., and optionally "verifier", "problem", "tests", "metadata", "id"}
    out   {"line": 1, "reward": 1.0, "extracted": ..., "verifier": ..., "parts": {...}, "error": null}

`prediction` is a bare answer or a whole response, with or without thinking. `reference` may be left out where `tests`
stands in for it; other keys are ignored. The default verifier takes an answer that is not boxed; for one that wants a
box, a bare prediction is put into one. A line that cannot be read gets a verdict with reward 0 and the reason.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from h1r.errors import UserError
from h1r.records import Problem, Verdict, read_lines
from h1r.verify.pool import VerifierPool
from h1r.verify.registry import require

DEFAULT_VERIFIER = "math_lenient"
CHUNK = 1_000
BARE: dict[str, str | None] = {"math": "math_lenient", "exact": None, "reasoning_gym": None}
"""Verifiers that take a boxed answer only, and which one grades a prediction without a box in their place."""


def verify_file(
    path: str | Path, verifier: str | None = None, workers: int = 1, time_limit_s: float = 5.0
) -> Iterator[dict[str, Any]]:
    """One verdict per line of a JSONL file, in order, in bounded memory. Blank lines are skipped.

    `verifier` is for lines that name none. `UserError`: a file that cannot be read, or an unknown `verifier`.
    """
    default = require(verifier or DEFAULT_VERIFIER).name
    lines = ((number, text) for number, text in read_lines(path) if text.strip())
    with VerifierPool(workers=workers, time_limit_s=time_limit_s) as pool:
        while chunk := list(itertools.islice(lines, CHUNK)):
            yield from _verify_lines(chunk, default, pool)


def _verify_lines(lines: list[tuple[int, str]], default: str, pool: VerifierPool) -> Iterator[dict[str, Any]]:
    read = [_read(text, number, default) for number, text in lines]
    good = [item for item in read if not isinstance(item, str)]
    verdicts = iter(pool.verify_many([problem for problem, _ in good], [text for _, text in good]))
    for (number, _), item in zip(lines, read, strict=True):
        if isinstance(item, str):
            yield _row(number, Verdict(0.0, error=item), None)
        else:
            yield _row(number, next(verdicts), item[0].verifier)


def _read(text: str, number: int, default: str) -> tuple[Problem, str] | str:
    """The problem and the prediction of a line, or why there is none."""
    try:
        line = json.loads(text)
    except ValueError as error:
        return f"not JSON: {error}"
    if not isinstance(line, dict):
        return "not a JSON object"
    prediction, tests, metadata = line.get("prediction"), line.get("tests"), line.get("metadata", {})
    reference = line.get("reference", "" if tests is not None else None)
    if prediction is None or reference is None:
        return 'the keys "prediction" and "reference" (or "tests") are needed'
    if not isinstance(metadata, dict):
        return "`metadata` is no object"
    try:
        name = require(str(line.get("verifier") or default)).name
    except UserError as error:
        return str(error)
    prediction = _text(prediction)
    if r"\boxed" not in prediction and name in BARE:
        name = BARE[name] or name
        prediction = prediction if name == "math_lenient" or "</think>" in prediction else rf"\boxed{{{prediction}}}"
    problem = Problem(
        id=str(line.get("id", number)),
        question=_text(line.get("problem", "")),
        answer=_text(reference),
        verifier=name,
        metadata=metadata if tests is None else {**metadata, "tests": tests},
    )
    return problem, prediction


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _row(number: int, verdict: Verdict, verifier: str | None) -> dict[str, Any]:
    return {
        "line": number,
        "reward": verdict.reward,
        "extracted": verdict.extracted,
        "verifier": verifier,
        "parts": verdict.parts,
        "error": verdict.error,
    }
