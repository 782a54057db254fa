import importlib.util
import json
import random
from collections.abc import Sequence
from typing import Any

import package_scorers
import pytest
import reasoning_gym
from hypothesis import given
from hypothesis import strategies as st
from package_scorers import GENEROUS, PACKAGE, YIELDING

from h1r.config import ControlsSection
from h1r.records import Problem, Verdict
from h1r.verify import VerifierPool
from h1r.verify.controls import Tally, controls_of, examine, reference_text, validate
from h1r.verify.controls.answers import chosen
from h1r.verify.controls.plain import same_answer

package_scorers.register_all()
ALL = ControlsSection(per_item=0)


@pytest.fixture(scope="module")
def pool():
    with VerifierPool(1, 5.0, format_checks=False) as pool:
        # All at once, so that one worker has them all: one that comes late costs a worker
        asked = [
            *(numbers(1, name)[0] for name in (PACKAGE, GENEROUS, YIELDING)),
            *numbers(1, "math", [r"\int_0^1 x dx"]),
        ]
        if importlib.util.find_spec("if_verifiable"):
            metadata = {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
            asked += numbers(1, "instructions", **metadata)
        pool.verify_many(asked, [r"\boxed{\int_0^1 y dy}"] * len(asked))
        yield pool


def items(family: str, count: int = 20, verifier: str = PACKAGE) -> list[Problem]:
    entries = reasoning_gym.create_dataset(family, size=count, seed=11)
    return [
        Problem(f"{family}{n}", e["question"], str(e["answer"]), verifier, family, metadata={"entry": e})
        for n, e in enumerate(entries)
    ]


def numbers(count: int, verifier: str, answers: Sequence[Any] = (), **metadata: Any) -> list[Problem]:
    """Problems of one family whose answers are far apart, unless given."""
    answers = answers or [1000 + 7 * n for n in range(count)]
    return [
        Problem(str(n), f"Item {n}?", str(a), verifier, "f", metadata=dict(metadata)) for n, a in enumerate(answers)
    ]


def reasons(problems: Sequence[Problem], pool: VerifierPool, section: ControlsSection = ALL) -> list[str | None]:
    found = examine(problems, pool.verify_many, section, references=True)
    return [why and why.reason for why in found.refusals]


@pytest.mark.parametrize(
    ("family", "control"),
    [
        ("puzzle24", "another item's answer"),
        ("complex_arithmetic", "nan"),
        ("coin_flip", "0"),
        ("countdown", "its numbers unused, the value as 1e0"),
        ("game_of_life_halting", "nonsense"),
    ],
)
def test_scorers_of_the_package_that_pay_without_a_solution_are_refused_whole(pool, family, control):
    problems = items(family)
    found = examine(problems, pool.verify_many, ALL)
    counts = found.tally[f"{PACKAGE}|{family}"].controls[control]
    assert counts[1] == counts[0] > 0
    assert all(found.refusals)
    assert found.tally.refused_families(ALL)


@pytest.mark.parametrize("family", ["puzzle24", "complex_arithmetic", "coin_flip", "countdown"])
def test_a_few_controls_an_item_are_enough_to_refuse_a_family(pool, family, monkeypatch):
    monkeypatch.setattr(validate, "SMALL", 0)
    assert all(reasons(items(family), pool, ControlsSection(per_item=2)))


@pytest.mark.parametrize(
    "family", ["chain_sum", "course_schedule", "letter_counting", "n_queens", "sudoku", "syllogism", "number_format"]
)
def test_honest_families_are_accepted(pool, family):
    """Among them yes or no, small counts, boards, and one that asks for a number of the question."""
    assert reasons(items(family), pool) == [None] * 20


def test_the_control_that_earned_is_named_with_the_item(pool):
    problems = numbers(4, GENEROUS)
    problems[2].metadata["pays"] = ["inf"]
    found = examine(problems, pool.verify_many, ALL)
    assert [why and why.reason for why in found.refusals] == [None, None, "a control earns: inf", None]
    assert found.refusals[2] is not None
    assert "'inf' earns 1; the reference is '1014'" in found.refusals[2].detail


def test_a_reference_that_does_not_score_is_refused(pool):
    assert reasons([Problem("p", "q", "", "exact"), Problem("r", "q", r"\frac{1", "math")], pool) == [
        None,
        "reference answer does not verify",
    ]


def test_what_equals_the_reference_is_no_control(pool):
    for answer in ("0", "0.0", "x = 0", r"0 \text{ cm}", "zero", r"\frac{0}{5}", r"$0^\circ$"):
        (problem,) = numbers(1, "math", [answer])
        assert reasons([problem], pool)[0] in (None, "reference answer does not verify"), answer


def test_another_items_answer_that_is_right_once_refuses_nothing_and_one_that_is_always_right_does(pool):
    by_chance = numbers(8, GENEROUS)
    by_chance[3].metadata = {"pays": [by_chance[4].answer]}
    assert reasons(by_chance, pool) == [None] * 8
    any_number = numbers(8, YIELDING)
    assert set(reasons(any_number, pool)) <= {"a control earns: 0", "a control earns: another item's answer"}


def test_one_answer_that_is_right_for_nearly_all_items_refuses_the_family(pool):
    section = ControlsSection(per_item=0)
    for count, equal, is_refused in ((40, 40, True), (40, 27, False), (12, 12, False)):
        answers = [7] * equal + [100 + n for n in range(count - equal)]
        found = examine(numbers(count, "math", answers), lambda p, t: pool.verify_many(p, t), section)
        whole = found.tally.refused_families(section)
        assert bool(whole) is is_refused, (count, equal)
        assert all(why is not None for why in found.refusals) is is_refused
        if is_refused:
            assert whole["math|f"].reason == "its family is refused: one constant wins (7)"


def test_problems_without_a_reference_are_no_family_that_an_empty_answer_solves(pool):
    """Their traces come with rewards that are trusted."""
    without = [Problem(str(n), f"Item {n}?", "", "math", "f") for n in range(40)]
    assert reasons(without, pool, ControlsSection()) == [None] * 40
    assert not examine(without, pool.verify_many, ALL).tally.refused_families(ALL)


@pytest.mark.slow
def test_the_shares_are_settings(pool):
    problems = numbers(40, "math", [7] * 27 + [100 + n for n in range(13)])
    strict = ControlsSection(constant_share=0.4)
    assert examine(problems, pool.verify_many, strict).tally.refused_families(strict)
    some = numbers(40, GENEROUS)
    for problem in some[:10]:
        problem.metadata = {"pays": ["nan"]}
    for share, is_refused in ((0.1, True), (0.5, False)):
        section = ControlsSection(per_item=0, share=share)
        found = examine(some, pool.verify_many, section)
        assert bool(found.tally.refused_families(section)) is is_refused
        assert sum(why is not None for why in found.refusals) == (40 if is_refused else 10)


def test_options_of_an_item_that_let_anything_pass_refuse_the_item(pool, monkeypatch):
    monkeypatch.setattr(validate, "SMALL", 0)
    problems = numbers(3, "math")
    problems[1].metadata = {"tolerance": 0.9999}
    problems[2].metadata = {"accept": ["nan"]}
    found = reasons(problems, pool, ControlsSection(per_item=1))
    assert found[0] is None
    assert all(why and why.startswith("a control earns") for why in found[1:])


CHOICE = {"options": ["red", "green", "blue", "grey"]}


@pytest.mark.parametrize("reference", ["A", "(C)", "blue", "B, D", "BD"])
def test_choice_questions_are_accepted(pool, reference):
    problem = Problem("p", "Which?", reference, "choice", metadata=CHOICE)
    assert reasons([problem], pool) == [None]
    names = {control.name for control in controls_of(problem, []) if control.is_reference}
    assert names
    assert "letter A" not in names or reference == "A"


def test_a_choice_question_whose_options_are_letters_of_others_is_refused_where_a_wrong_letter_earns(pool):
    """Its reference is A, whose text is b: whoever answers B has chosen another option, or has given that text."""
    problem = Problem("p", "Which?", "A", "choice", metadata={"options": ["b", "a", "d", "c"]})
    paid = pool.verify_many([problem], [r"\boxed{B}"])[0].reward
    assert (reasons([problem], pool)[0] is not None) == bool(paid)


NEVER_CALLED = [
    ["def test_f():\n    assert f(2) == 4\n"],
    ["import unittest\nclass T(unittest.TestCase):\n    def test_f(self):\n        self.assertEqual(f(2), 4)\n"],
    ["def check(candidate):\n    assert candidate(2) == 4\n"],
    ["if __name__ == '__main__':\n    assert f(2) == 4\n"],
    ["try:\n    assert f(2) == 4\nexcept Exception:\n    pass\n"],
    ["f\n"],
]
WEAK = [
    (["assert f(None) is None"], "a stub that returns None"),
    (["assert f(2) == 2", "assert f('a') == 'a'"], "a stub that returns its argument"),
    (["try:\n    f(2)\n    assert False\nexcept RuntimeError:\n    pass"], "a stub that raises"),
    (["box = f(3)\nbox.push(1)\nbox.pop()"], "a class whose methods return None"),
    ({"fn_name": "f", "inputs": [[1], [2], [3]], "outputs": [5, 5, 5]}, "a stub that returns one constant"),
    ({"inputs": ["1\n", "2\n"], "outputs": ["1\n", "2\n"]}, "a program that prints its input"),
    ({"inputs": ["1\n", "2\n", "3\n"], "outputs": ["YES\n"] * 3}, "a program that prints one constant"),
    ({"inputs": ["1\n", "2\n"], "outputs": ["\n", "\n"]}, "an empty program"),
]


@pytest.fixture(scope="module")
def sandbox(slot, pool):
    return pool


@pytest.mark.parametrize("tests", NEVER_CALLED)
def test_tests_that_call_nothing_are_refused(sandbox, tests):
    """By a control, or since they are refused or called as they are read."""
    problem = Problem("p", "", "", "code", metadata={"tests": tests, "entry_point": "f"})
    found = examine([problem], sandbox.verify_many, ALL, references=True).refusals[0]
    paid = sandbox.verify_many([problem] * 2, ["```python\nx = 1\n```", "```python\ndef f(*a): raise SystemExit\n```"])
    assert found is not None or not any(verdict.reward for verdict in paid)


@pytest.mark.parametrize(("tests", "control"), WEAK)
def test_tests_that_a_stub_passes_are_refused_by_name(sandbox, tests, control):
    (why,) = reasons([Problem("p", "", "", "code", metadata={"tests": tests})], sandbox)
    assert why == f"a control earns: {control}"


@pytest.mark.parametrize("key", ["solution", "canonical_solution"])
def test_honest_tests_are_accepted_and_the_solution_has_to_pass_them(sandbox, key):
    tests = ["assert half(4) == 2", "assert half(9) == 4.5"]
    right, wrong = ({"tests": tests, key: f"def half(x):\n    return x / {n}\n"} for n in (2, 3))
    found = reasons([Problem("p", "", "", "code", metadata=one) for one in (right, wrong)], sandbox)
    assert found == [None, "reference answer does not verify"]


def test_a_solution_that_is_a_body_alone_stands_behind_its_prompt():
    metadata = {"tests": ["assert f(1)"], "prompt": "def f(x):\n", "canonical_solution": "    return x\n"}
    assert "def f(x):\n    return x" in reference_text(Problem("p", "", "", "code", metadata=metadata))


def test_programs_of_other_languages_are_held_against_the_output_alone(sandbox):
    tests = {"inputs": ["1\n", "2\n"], "outputs": ["1\n", "2\n"]}
    (why,) = reasons([Problem("p", "", "", "code", metadata={"tests": tests, "language": "cpp"})], sandbox)
    assert why == "a control earns: a program that prints its input"


def test_instructions_are_refused_for_the_empty_answer_only(pool):
    pytest.importorskip("if_verifiable")

    def asks(*names: str) -> Problem:
        metadata = {"instruction_id_list": list(names), "kwargs": [{}] * len(names)}
        return Problem("p", "Write.", "", "instructions", metadata=metadata)

    assert reasons([asks("punctuation:no_comma")], pool) == [None]
    assert reasons([asks("punctuation:no_such_thing")], pool) == ["the problem cannot be checked"]
    many = [asks("punctuation:no_comma") for _ in range(30)]
    assert set(reasons(many, pool)) == {"its family is refused: one constant wins (nonsense)"}


def test_the_judge_is_asked_only_when_told_to():
    problem = Problem("p", "q", "7", "judge")
    assert controls_of(problem, []) == []
    assert controls_of(problem, [], judge=True)


def test_the_drawn_controls_depend_on_the_id_alone_and_cover_all():
    controls = controls_of(Problem("p", "q", "77", "exact"), ["8"])
    drawn = [chosen(controls, f"id{n}", 2) for n in range(100)]
    assert {control.name for found in drawn for control in found} == {control.name for control in controls}
    assert chosen(controls, "id5", 2) == drawn[5]
    assert all(len(found) == 2 for found in drawn)


def test_parts_add_up_to_the_whole_and_survive_json(pool):
    problems = numbers(40, GENEROUS)
    for problem in problems[::3]:
        problem.metadata = {"pays": ["1"]}
    whole = examine(problems, pool.verify_many, ALL, families=False).tally
    parts = Tally()
    for start in range(0, 40, 10):
        part = examine(problems[start : start + 10], pool.verify_many, ALL, families=False).tally
        parts.add(Tally.from_json(json.loads(json.dumps(part.to_json()))))
    assert parts.to_json() == whole.to_json()


def test_verdicts_do_not_depend_on_what_grades_or_in_which_order_it_answers(pool, monkeypatch):
    problems = numbers(20, GENEROUS)
    for problem in problems[::4]:
        problem.metadata = {"pays": ["nan", "1"]}

    def shuffled(asked: Sequence[Problem], texts: Sequence[str]) -> list[Verdict]:
        order = list(range(len(texts)))
        random.Random(len(texts)).shuffle(order)
        verdicts = dict(zip(order, pool.verify_many([asked[n] for n in order], [texts[n] for n in order]), strict=True))
        return [verdicts[n] for n in range(len(texts))]

    monkeypatch.setattr(validate, "SMALL", 0)
    section = ControlsSection(per_item=3)
    one, other = examine(problems, pool.verify_many, section), examine(problems, shuffled, section)
    assert one == other


@given(st.integers(-10_000, 10_000), st.integers(-10_000, 10_000))
def test_whole_numbers_are_the_same_answer_when_they_are_equal(one, other):
    spelled = [f"{one}", f" {one}.0 ", rf"\text{{{one}}}", f"${one}$"]
    assert all(same_answer(text, str(one)) for text in spelled)
    if one != other:
        assert not any(same_answer(text, str(other)) for text in spelled)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("1", r"100\%", True),
        ("0", "0%", True),
        ("0.5", "50 %", True),
        ("1", r"10\%", False),
        ("0", "0_{10}", True),
        ("1", r"1_{\text{two}}", True),
        ("1", "10_2", False),
    ],
)
def test_a_share_and_a_number_in_a_base_are_the_numbers_that_they_say(one, other, same):
    assert same_answer(one, other) == same_answer(other, one) == same


@given(st.text(max_size=80), st.text(max_size=80))
def test_being_the_same_answer_is_symmetric(one, other):
    assert same_answer(one, other) == same_answer(other, one)
    assert same_answer(one, one)
