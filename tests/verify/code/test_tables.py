"""Every line of the tables: the reward, and the reason where there is none."""

from pathlib import Path

import pytest
from tables import read_rows

from h1r.records import Problem
from h1r.sandbox import SandboxPool
from h1r.verify.code.grade import grade_in

HERE = Path(__file__).parent
ATTACKS = HERE.parent.parent / "sandbox" / "attacks" / "answers.txt"


@pytest.fixture(scope="module")
def pool(slot):
    """Skipped, like every test that needs a sandbox, where code cannot be confined."""
    with SandboxPool() as pool:
        yield pool


def outcome(pool, problem: Problem, answer: str) -> tuple[str, str | None]:
    verdict = grade_in(pool, problem, answer)
    return ("1" if verdict.reward == 1.0 else str(verdict.reason)), verdict.error


def rows(*names: str):
    found = [row for name in names for row in read_rows(HERE / f"{name}.txt")]
    return pytest.mark.parametrize("row", found, ids=[row.name for row in found])


@rows("forms")
def test_the_forms_of_data_sets_are_read(row, pool):
    got, error = outcome(pool, row.problem, row.answer)
    assert got == row.expected, error


@rows("never_called")
def test_test_code_that_is_only_defined_is_run_or_refused(row, pool):
    got, error = outcome(pool, row.problem, row.answer)
    assert got == row.expected, error
    assert got != "unscored" or "the tests cannot be used" in error


@rows("seen")
def test_test_code_sees_what_it_would_see_beside_the_tested_code(row, pool):
    got, error = outcome(pool, row.problem, row.answer)
    assert got == row.expected, error


@rows("steering")
def test_exceptions_that_steer_a_program_end_no_test_well(row, pool):
    got, error = outcome(pool, row.problem, row.answer)
    assert got == row.expected, error


@rows("comparison")
def test_results_and_outputs_compare_by_the_problems_options(row, pool):
    got, error = outcome(pool, row.problem, row.answer)
    assert got == row.expected, error


@rows("extraction")
def test_the_block_that_solves_is_graded(row, pool):
    got, error = outcome(pool, row.problem, row.answer)
    assert got == row.expected, error


@rows("referees")
def test_a_problems_own_program_decides(row, pool):
    got, error = outcome(pool, row.problem, row.answer)
    assert got == row.expected, error


HOSTILE = read_rows(ATTACKS)


@pytest.mark.parametrize("row", HOSTILE, ids=[row.name for row in HOSTILE])
def test_a_hostile_answer_earns_nothing_from_any_kind_of_test(row, pool):
    assert grade_in(pool, row.problem, row.answer).reward == 0.0
