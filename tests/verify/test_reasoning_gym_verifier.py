import contextlib
import json
import time

import pytest
import reasoning_gym

from h1r.records import Problem
from h1r.verify import VerifierPool, reference_scores
from h1r.verify.reasoning_gym import is_executable, score

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
        "()._\uff3fclass_\uff3f",
        "[C['x'] for C._\uff3fclass_getitem_\uff3f in [eval]]",
        "[C['x'] for C.y in [eval]]",
        "{1: [C[0] for C in [exec]]}",
        r"sin('\x65\x78\x65\x63\x28\x29')",
        "5! + sin('1')",
        "sin(a.name + b.name)",
        "5! * sin(a.name)",
        "(y := 1)",
        "[lambda: 1]",
        "sin(*'ab')",
        "sin(x='a')",
        "'a' + x",
        "x.y",
        "x['a']",
        "f'{x}'",
    ],
)
def test_answers_that_could_run_are_refused(pool, answer):
    assert is_executable(answer)
    (problem,) = problems("binary_matrix", 1)
    assert pool.verify_many([problem], [f"\\boxed{{{answer}}}"])[0].reward == 0.0


@pytest.mark.parametrize(
    "answer",
    [
        "sin(x) + 2*(3-1)",
        "[[0, 1], [1, 0]]",
        "Alice is a knight. Bob too.",
        "A# #B",
        "[['0', 'a'], ['b', 'c']]",
        "5! - 3**2/4",
        "x**2 + log(x)*exp(-x) + C",
        "(1, 2)",
        "isn't",
        "wait for it",
        "{'a': 1, 'b': [2]}",
        "A and not B",
    ],
)
def test_plain_answers_are_not_refused(answer):
    assert not is_executable(answer)


def escaped(code: str) -> str:
    return "".join(f"\\x{ord(letter):02x}" for letter in code)


@pytest.mark.parametrize("family", ["countdown", "polynomial_multiplication", "binary_matrix", "n_queens"])
def test_no_answer_runs_in_the_worker(pool, family, tmp_path):
    """Ways to have a scorer's `eval`, or sympy's, run code that neither a call nor an underscore gives away."""
    mark = tmp_path / "reached"
    mark_it = escaped(f"__import__('os').mkdir({str(mark)!r})")
    (problem,) = problems(family, 1)
    name = type(reasoning_gym.create_dataset(family, size=1)).__name__.replace("Dataset", "Config")
    bound = f"{name}._\uff3fclass_getitem_\uff3f"
    answers = [f"sin('{mark_it}')", f"[{name}['{mark_it}'] for {bound} in [eval]]"]
    for answer in answers:
        with contextlib.suppress(Exception):
            score(family, answer, problem.metadata["entry"])
    assert mark.exists(), "an attack that reaches nothing without the check proves nothing"
    mark.rmdir()
    verdicts = pool.verify_many([problem] * 2, [rf"\boxed{{{answer}}}" for answer in answers])
    assert [verdict.error for verdict in verdicts] == ["the answer could run as code"] * 2
    assert not mark.exists()


def test_number_bomb_in_an_evaluated_answer_is_killed(pool):
    (problem,) = problems("countdown", 1)
    start = time.monotonic()
    assert pool.verify_many([problem], ["\\boxed{9**9**9**9}"])[0].reward == 0.0
    assert time.monotonic() - start < 30
