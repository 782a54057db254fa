"""The verifier named `code`, as rewards, evaluation and `h1r verify` call it."""

import asyncio
import dataclasses
import json
import time

import pytest

from h1r.errors import UserError
from h1r.records import Problem
from h1r.sandbox import Isolation, SandboxPool, refusal
from h1r.sandbox.session import SandboxError
from h1r.verify import RewardService, VerifierPool, reference_scores, with_max_tests
from h1r.verify.batch import verify_file
from h1r.verify.code import grade as code

pytestmark = pytest.mark.skipif(
    bool(refusal(Isolation.NAMESPACES) and refusal(Isolation.LANDLOCK)), reason="tested code cannot be confined here"
)
DOUBLES = [{"input": str(number), "output": str(2 * number)} for number in range(5)]
RIGHT, WRONG = "```python\nprint(2 * int(input()))\n```", "```python\nprint(3 * int(input()))\n```"


def problem(tests=DOUBLES, **metadata) -> Problem:
    return Problem("p", "Double it.", "print(2 * int(input()))", "code", metadata={"tests": tests, **metadata})


@pytest.fixture(scope="module")
def pool():
    with VerifierPool() as pool:
        yield pool


def test_the_reward_is_for_passing_every_test(pool):
    almost = "```python\nx = int(input())\nprint(2 * x if x < 4 else 0)\n```"
    rewards = [verdict.reward for verdict in pool.verify_many([problem()] * 3, [RIGHT, WRONG, almost])]
    assert rewards == [1.0, 0.0, 0.0]


def test_a_verdict_says_how_many_tests_and_at_what_isolation(pool):
    verdict = pool.verify_many([problem()], [f"<think>Twice.</think>{RIGHT}"])[0]
    level = code._shared().pool.level.name.lower()
    assert {"tests_passed": 5.0, "tests_total": 5.0, f"isolation:{level}": 1.0}.items() <= verdict.parts.items()
    assert verdict.extracted == "print(2 * int(input()))\n"


def test_the_isolation_in_force_is_printed_once(monkeypatch, capsys):
    monkeypatch.setattr(code, "_instance", None)
    with VerifierPool() as pool:
        for _ in range(2):
            pool.verify_many([problem(DOUBLES[:1])], [RIGHT])
    level = code._shared().pool.level.name.lower()
    code._shared().close()
    assert capsys.readouterr().err.count(f"tested code runs with isolation by {level}") == 1


def test_code_in_the_thinking_does_not_count(pool):
    assert pool.verify_many([problem()], [f"<think>{RIGHT}</think>I do not know."])[0].reward == 0.0
    assert pool.verify_many([problem()], [f"<think>{RIGHT}"])[0].reward == 0.0


def test_the_reference_of_a_problem_scores(pool):
    assert reference_scores(problem(), pool)


def test_a_draw_of_tests_is_the_same_for_every_answer(pool):
    few = problem([{"input": str(n), "output": str(n) if n % 2 else "x"} for n in range(100)], max_tests=3)
    same = {pool.verify_many([few], ["```python\nprint(input())\n```"])[0].reward for _ in range(3)}
    assert len(same) == 1
    assert pool.verify_many([few], [RIGHT])[0].parts["tests_total"] == 3.0


def test_a_recipes_limit_on_tests_is_for_code_that_names_none():
    plain = problem(DOUBLES)
    assert with_max_tests(plain, 3, seed=5).metadata == {**plain.metadata, "max_tests": 3, "tests_seed": 5}
    assert with_max_tests(problem(DOUBLES, max_tests=2), 3, seed=5).metadata["max_tests"] == 2
    assert with_max_tests(plain, 0, seed=5) is plain
    other = dataclasses.replace(plain, verifier="math")
    assert with_max_tests(other, 3, seed=5) is other
    assert "max_tests" not in plain.metadata


def test_limits_of_the_problem_hold(pool):
    slow = "```python\nimport time\ntime.sleep(0.6)\nprint(2 * int(input()))\n```"
    assert pool.verify_many([problem(DOUBLES[:1])], [slow])[0].reward == 1.0
    verdict = pool.verify_many([problem(DOUBLES[:1], limits={"time_s": 0.3})], [slow])[0]
    assert verdict.error == "test 1 of 1: time limit exceeded"


@pytest.mark.parametrize(
    "limits",
    [{"time_s": 1e308}, {"time_s": float("nan")}, {"time_s": 0}, {"total_s": float("inf")}, {"time_s": "1"}, 5,
     {"memory_bytes": 1.5}, {"memory_bytes": 10**30}, {"memory_bytes": float("nan")}, {"memory_bytes": -1}],
)  # fmt: skip
def test_limits_that_cannot_be_are_the_tests_fault_and_no_error(pool, limits):
    verdict = pool.verify_many([problem(limits=limits)], [RIGHT])[0]
    assert verdict.reward == 0.0
    assert "the tests cannot be used" in verdict.error


def test_a_defect_costs_one_verdict_and_not_the_run(pool, monkeypatch):
    def broken(*_: object) -> None:
        raise ArithmeticError("unforeseen")

    with monkeypatch.context() as patch:
        patch.setattr(code, "judge", broken)
        verdict = pool.verify_many([problem()], [RIGHT])[0]
    assert (verdict.reward, verdict.error) == (0.0, "no verdict (ArithmeticError: unforeseen)")
    assert pool.verify_many([problem()], [RIGHT])[0].reward == 1.0


def test_the_language_that_is_asked_for_is_the_only_one(pool):
    both = "```cpp\nint main() {}\n```\n" + RIGHT
    assert pool.verify_many([problem(language="py")], [both])[0].reward == 1.0
    assert "no cpp code" in pool.verify_many([problem(language="c++")], [RIGHT])[0].error
    assert "not known" in pool.verify_many([problem(language="klingon")], [RIGHT])[0].error
    assert "csharp cannot be run" in pool.verify_many([problem()], ["```csharp\nclass A {}\n```"])[0].error


@pytest.mark.parametrize("tests", [None, [], "", {"inputs": ["1"]}, [{"input": "1"}], ["assert"], 7])
def test_tests_that_cannot_be_used_are_an_error_and_no_reward(pool, tests):
    verdict = pool.verify_many([problem(tests)], [RIGHT])[0]
    assert verdict.reward == 0.0
    assert "tests cannot be used" in verdict.error


@pytest.mark.parametrize(
    "answer", ["", "No.", "```python\n```", "```", "```python\n" + "x" * 500_000 + "\n```", "\0", "\ud800"]
)
def test_an_answer_without_code_is_wrong(pool, answer):
    assert pool.verify_many([problem()], [answer])[0].reward == 0.0


def test_lines_of_a_file_with_tests_are_code(tmp_path):
    head = {"entry_point": "f", "prompt": "import math\n\ndef f(x):\n"}
    check = {"test": "def check(f):\n    assert f(4) == 2"}
    lines = [
        {"prediction": RIGHT, "tests": DOUBLES, "id": "a"},
        {"prediction": "```python\ndef f(x): return x + 1\n```", "tests": ["assert f(1) == 2"]},
        {"prediction": "```python\nimport sys; sys.exit(0)\n```", "tests": ["assert f(1) == 2"]},
        {"prediction": r"\boxed{4}", "reference": "4"},
        {"prediction": "    return math.isqrt(x)", "tests": check, "metadata": head},
        {"prediction": "def f(x):\n    return math.isqrt(x)", "tests": check, "metadata": head},
        {"prediction": "    return math.isqrt(x) + 1", "tests": check, "metadata": head},
        {"prediction": "4", "reference": "4", "tests": []},
    ]
    path = tmp_path / "answers.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    rows = list(verify_file(path))
    assert [(row["verifier"], row["reward"]) for row in rows] == [
        ("code", 1.0), ("code", 1.0), ("code", 0.0), ("math_lenient", 1.0),
        ("code", 1.0), ("code", 1.0), ("code", 0.0), ("code", 0.0)]  # fmt: skip
    assert rows[-1]["error"] == "the tests cannot be used: no tests"


def test_a_slow_answer_does_not_delay_the_others():
    """Two sandboxes: one is busy for a second, eight others are through before."""

    async def grade() -> list[str]:
        done: list[str] = []

        async def one(service: RewardService, name: str, text: str) -> None:
            await service.verify(problem(DOUBLES[:1], limits={"time_s": 2.0}), text)
            done.append(name)

        async with RewardService() as service:
            slow = "```python\nimport time\ntime.sleep(2)\n```"
            await one(service, "warm", RIGHT)
            await asyncio.gather(one(service, "slow", slow), *(one(service, "quick", RIGHT) for _ in range(8)))
        return done

    if code._shared().pool.workers < 2:
        pytest.skip("needs two sandboxes; set H1R_SANDBOX_WORKERS=2")
    assert asyncio.run(grade())[-1] == "slow"


def test_a_machine_that_confines_nothing_is_the_users_to_decide(monkeypatch):
    """No verdict and no run: the user's mistake reaches the caller with what to do."""
    monkeypatch.setattr(code, "_instance", None)
    monkeypatch.setattr("h1r.sandbox.levels.refusal", lambda level: "not here")
    monkeypatch.delenv("H1R_SANDBOX", raising=False)
    with VerifierPool() as pool, pytest.raises(UserError, match="H1R_SANDBOX=rlimits"):
        pool.verify_many([problem()], [RIGHT])


def test_a_number_of_sandboxes_that_is_none_is_refused(monkeypatch):
    monkeypatch.setattr(code, "_instance", None)
    monkeypatch.setenv("H1R_SANDBOX_WORKERS", "many")
    with pytest.raises(UserError, match="H1R_SANDBOX_WORKERS=many"):
        code.submit(problem(), RIGHT)


def test_an_answer_that_is_tried_again_has_one_wall_limit_for_both(monkeypatch):
    allowed = []

    def judge(slot, source, language, tests, limits, stop):
        allowed.append(limits.answer_wall_s)
        time.sleep(0.2)
        raise SandboxError("the machine ended it")

    monkeypatch.setattr(code, "judge", judge)
    metadata = {"tests": {"inputs": ["1"], "outputs": ["1"]}, "limits": {"answer_s": 50.0}}
    with SandboxPool() as pool:
        verdict = code.grade_in(pool, Problem("p", "", "", "code", metadata=metadata), "```python\nprint(1)\n```")
        assert verdict.reason == "unscored"
        assert allowed[0] == 50.0
        assert 0 < allowed[1] <= 49.8
        allowed.clear()
        metadata["limits"]["answer_s"] = 0.1
        code.grade_in(pool, Problem("p", "", "", "code", metadata=metadata), "```python\nprint(1)\n```")
        assert allowed == [0.1], "nothing is left for another try"
