import json
import time

import pytest
import reasoning_gym

from h1r.records import Problem
from h1r.verify import VerifierPool, reference_scores
from h1r.verify.reasoning_gym import is_executable

FAMILIES = ["chain_sum", "countdown", "spell_backward", "knights_knaves", "polynomial_multiplication", "binary_matrix"]


def problems(family: str, count: int = 4) -> list[Problem]:
    items = reasoning_gym.create_dataset(family, size=count, seed=3)
    return [
        Problem(f"{family}{n}", e["question"], str(e["answer"]), "reasoning_gym", family, metadata={"entry": e})
        for n, e in enumerate(items)
    ]


@pytest.fixture(scope="module")
def pool():
    with VerifierPool(time_limit_s=3.0) as pool:
        yield pool


@pytest.mark.parametrize("family", FAMILIES)
def test_reference_answers_score(pool, family):
    assert all(reference_scores(problem, pool) for problem in problems(family))


@pytest.mark.parametrize("family", FAMILIES)
def test_wrong_answers_do_not_score(pool, family):
    verdicts = pool.verify_many(problems(family), ["\\boxed{nonsense}"] * 4)
    assert [verdict.reward for verdict in verdicts] == [0.0] * 4


@pytest.mark.parametrize("family", ["arc_agi", "rearc"])
def test_grids_that_have_been_through_json_are_graded(pool, family):
    for problem in problems(family, 2):
        problem.metadata = json.loads(json.dumps(problem.metadata, default=str))
        grid = problem.answer.splitlines()
        wrong = "\n".join([*grid[:-1], grid[-1][:-1] + str((int(grid[-1][-1]) + 1) % 10)])
        found = pool.verify_many([problem] * 2, [f"\\boxed{{{problem.answer}}}", f"\\boxed{{{wrong}}}"])
        assert [verdict.reward for verdict in found] == [1.0, 0.0]


def test_partial_credit_is_a_part_and_no_reward(pool):
    (problem,) = problems("spell_backward", 1)
    (verdict,) = pool.verify_many([problem], [f"\\boxed{{{problem.answer[:-1]}}}"])
    assert verdict.reward == 0.0
    assert 0 < verdict.parts["score"] < 1


def test_another_right_answer_scores(pool):
    (problem,) = problems("countdown", 1)
    assert pool.verify_many([problem], [f"\\boxed{{({problem.answer})+0*0}}"])[0].reward == 0.0
    assert pool.verify_many([problem], [f"\\boxed{{({problem.answer})}}"])[0].reward == 1.0


def test_text_around_an_answer_is_typesetting(pool):
    (problem,) = problems("knights_knaves", 1)
    assert pool.verify_many([problem], [f"\\boxed{{\\text{{{problem.answer}}}}}"])[0].reward == 1.0


def test_a_scorer_that_raises_costs_the_reward_only(pool):
    (problem,) = problems("prime_factorization", 1)
    verdict = pool.verify_many([problem], ["\\boxed{not a number}"])[0]
    assert verdict.reward == 0.0
    assert verdict.error


def test_problem_without_its_entry_is_an_error(pool):
    verdict = pool.verify_many([Problem("p", "", "5", "reasoning_gym")], ["\\boxed{5}"])[0]
    assert verdict.reward == 0.0
    assert "metadata.entry" in (verdict.error or "")


@pytest.mark.parametrize(
    "answer",
    [
        "__import__('os').system('true')",
        "[exec ('1')]",
        "[exec#\n('1')]",
        "['#', exec('1')]",
        "(lambda: 1)()",
        "[open][0]('x')",
        "ｅｘｅｃ('1')",
        "f\"{exec('1')}\"",
        "().__class__",
    ],
)
def test_answers_that_could_run_are_refused(pool, answer):
    assert is_executable(answer)
    (problem,) = problems("binary_matrix", 1)
    assert pool.verify_many([problem], [f"\\boxed{{{answer}}}"])[0].reward == 0.0


@pytest.mark.parametrize("answer", ["sin(x) + 2*(3-1)", "[[0, 1], [1, 0]]", "Alice is a knight. Bob too.", "A# #B"])
def test_plain_answers_are_not_refused(answer):
    assert not is_executable(answer)


def test_number_bomb_in_an_evaluated_answer_is_killed(pool):
    (problem,) = problems("countdown", 1)
    start = time.monotonic()
    assert pool.verify_many([problem], ["\\boxed{9**9**9**9}"])[0].reward == 0.0
    assert time.monotonic() - start < 30
