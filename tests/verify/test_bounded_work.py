"""What runs in the caller's process ends soon on any text: the readers, the format check, and what comes from a worker.

Each text is a head, a piece that is repeated, and a tail (`tests/data/hostile_texts.jsonl`). Two lengths: one that fits
into the longest answer that is read, where more than linear work would show, and one far beyond every window. What is
counted is processor time, and a slow machine may take as much longer as it does for a scan that is known to be linear.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from h1r import mathematics
from h1r.mathematics.extract import find_answer
from h1r.records import Problem
from h1r.response.extract import last_boxed
from h1r.response.format import check_format
from h1r.sandbox.values import FrameReader, decode
from h1r.scaling.answers import certainly_equivalent, extract_answer
from h1r.verify import exact
from h1r.verify.choice.grade import grade as grade_choice
from h1r.verify.code.extract import extract_code
from h1r.verify.judge import prompt
from machine import slowness
from pumped import TooSlowError, limited

READ_CHARS = 1_900
LONG_CHARS = 200_000
FIXED_S = 0.4
"""For what is looked at of any text: windows of a length of their own, an answer that is read, a comparison."""
PER_MEGABYTE_S = 0.5
FRAME_S = 1.5
"""For a frame of 8 MiB, of which a quarter of a million containers are read, or four million numbers."""

TEXTS = [
    json.loads(line)
    for line in (Path(__file__).parents[1] / "data" / "hostile_texts.jsonl").read_text(encoding="utf-8").splitlines()
]
REFERENCES = ("5", "x_a=5", "1,2,3", r"\frac{x+1}{x-1}", "[0,1)", r"\sin x+y")


def problem(verifier: str, answer: str) -> Problem:
    return Problem(id="", question="What is $x$?\nA) $1$\nB) $2$", answer=answer, verifier=verifier)


def against(references: tuple[str, ...], grade: Callable[[Problem, str], Any], verifier: str) -> Callable[[str], Any]:
    return lambda text: [grade(problem(verifier, reference), text) for reference in references]


USES: dict[str, Callable[[str], Any]] = {
    "math": against(REFERENCES, mathematics.quick, "math"),
    "math_lenient": against(REFERENCES, mathematics.quick_lenient, "math_lenient"),
    "exact": against(("5",), exact.grade, "exact"),
    "choice": against(("B",), grade_choice, "choice"),
    "the format": check_format,
    "the last box": last_boxed,
    "an answer that is found": find_answer,
    "a trace's answer": extract_answer,
    "equal answers of traces": lambda text: certainly_equivalent(text, text + "x"),
    "code": extract_code,
    "a judge's prompt": lambda text: prompt.messages("q", "r", prompt.extracted_answer(text, 20_000) or "", 4_000),
}


def seconds(work: Callable[[], Any]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def least(work: Callable[[], Any], enough_s: float) -> float:
    """Processor seconds, of the first of three tries that takes as little as that, else the least, for a machine that
    is as fast as the one of reference; how slow this one is is measured only where it decides."""
    found = float("inf")
    for _ in range(3):
        with limited(30.0):
            spent = seconds(work)
            found = min(found, spent if spent <= enough_s else spent / slowness())
        if found <= enough_s:
            break
    return found


@pytest.mark.parametrize("chars", [READ_CHARS, LONG_CHARS])
@pytest.mark.parametrize("use", USES)
def test_any_text_is_done_with_soon(use: str, chars: int) -> None:
    limit = FIXED_S + PER_MEGABYTE_S * chars / 1_000_000
    for text in TEXTS:
        whole = text["head"] + text["pump"] * (chars // len(text["pump"])) + text["tail"]
        try:
            spent = least(lambda whole=whole: USES[use](whole), limit)
        except TooSlowError:
            pytest.fail(f"{text['name']}: does not end")
        assert spent <= limit, text["name"]


@pytest.mark.parametrize(
    "item",
    [
        "[]",
        "{}",
        "1",
        '""',
        '"ab"',
        "1.5",
        '{"!":"tuple","v":[1,2]}',
        '{"!":1}',
        '{"!":"set","v":[0,0.0]}',
        "[" * 300 + "]" * 300,
    ],
)
@pytest.mark.parametrize("mebibytes", [1, 8])
def test_any_frame_is_done_with_soon(item: str, mebibytes: int) -> None:
    body = '{"value":[' + ",".join([item] * ((mebibytes << 20) // (len(item) + 1))) + "]}"
    frame = len(body).to_bytes(4, "big") + body.encode()

    def read() -> None:
        reader = FrameReader(len(body))
        reader.feed(frame)
        try:
            message = reader.next()
            assert message is not None
            decode(message["value"])
        except ValueError:
            pass

    assert least(read, FRAME_S) <= FRAME_S


FREEZING = {
    "a name of 78 characters": r"\boxed{x" + "_a" * 34 + "+1=5}",
    "32 underscores": "_" * 32,
    "twenty signs of currency": r"\boxed{5" + "€" * 20 + "}",
    "ten thousand blanks between two boxes": r"\boxed{1}, " + " " * 9_900 + r"x \boxed{2}",
}


@pytest.mark.parametrize("name", FREEZING)
def test_what_froze_a_trainer_is_graded_in_a_moment(name: str) -> None:
    for grade, verifier in ((mathematics.quick, "math"), (mathematics.quick_lenient, "math_lenient")):
        work = against(REFERENCES, grade, verifier)
        assert least(lambda work=work: work(FREEZING[name]), 0.1) <= 0.1
