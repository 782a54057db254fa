"""Answers as people write them, one table a kind, in `math/`: what must be equal, and what is close to it and must not.

    pairs/*.txt       answer || reference || 1 or 0 || why          both are answers; either way round
    responses/*.txt   response || reference || 1 or 0 || why        read by `math_lenient`; `\\n` is the end of a line
    boxed/*.txt       the same                                      read by `math` and `math_lenient`

A new way to read something gets its lines here, of both verdicts.
"""

from pathlib import Path

import pytest

from h1r.mathematics import equivalent, grade, grade_lenient
from h1r.records import Problem

TABLES = Path(__file__).parent / "math"


def lines(folder: str) -> list:
    found = []
    for path in sorted((TABLES / folder).glob("*.txt")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if line.strip():
                left, right, verdict, why = line.split(" || ")
                found.append(pytest.param(left, right, {"0": False, "1": True}[verdict], id=f"{path.stem}-{number}"))
                assert why
    return found


@pytest.mark.parametrize(("answer", "reference", "equal"), lines("pairs"))
def test_answers_are_compared_as_the_tables_say(answer, reference, equal):
    assert equivalent(reference, answer) is equal
    assert equivalent(answer, reference) is equal


@pytest.mark.parametrize(("response", "reference", "right"), lines("responses"))
def test_responses_are_judged_as_the_tables_say(response, reference, right):
    problem = Problem("p", "", reference.replace(r"\n", "\n"), "math_lenient")
    assert grade_lenient(problem, response.replace(r"\n", "\n")).reward == float(right)


@pytest.mark.parametrize(("response", "reference", "right"), lines("boxed"))
def test_boxes_are_judged_as_the_tables_say(response, reference, right):
    text = response.replace(r"\n", "\n")
    assert grade(Problem("p", "", reference, "math"), text).reward == float(right)
    assert grade_lenient(Problem("p", "", reference, "math_lenient"), text).reward == float(right)


@pytest.mark.parametrize("folder", ["pairs", "responses", "boxed"])
def test_every_table_accepts_and_rejects(folder):
    for path in (TABLES / folder).glob("*.txt"):
        verdicts = {line.split(" || ")[2] for line in path.read_text(encoding="utf-8").splitlines() if line.strip()}
        assert verdicts == {"0", "1"}, path.name
