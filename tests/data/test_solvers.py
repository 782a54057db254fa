import itertools
import json
import random
import re
from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from h1r.config import GeneratedSource
from h1r.data.curate.io.generated import GeneratedProblems
from h1r.data.solvers import SOLVERS, base, can_trace, traces
from h1r.data.solvers.arithmetic import factorise
from h1r.records import Message, Problem

PROBLEMS = 40
SMALL = {
    "aiw": {"task_type_weights": [1.0, 0.0, 0.0]},
    "chain_sum": {"min_terms": 2, "max_terms": 3, "max_digits": 1},
    "coin_flip": {"max_trials": 4},
    "count_bits": {"max_n": 63},
    "family_relationships": {"max_family_size": 5},
    "gcd": {"max_value": 30},
    "lcm": {"max_value": 12},
    "leg_counting": {"min_animals": 2, "max_animals": 2, "max_instances": 5},
    "letter_counting": {"min_words": 2, "max_words": 3},
    "number_filtering": {"max_numbers": 4, "max_decimals": 0, "min_value": -9.0, "max_value": 20.0},
    "number_sorting": {"max_numbers": 4, "max_decimals": 0, "min_value": -9.0, "max_value": 20.0},
    "prime_factorization": {"max_value": 60},
    "products": {"max_digits": 1},
    "simple_equations": {"max_terms": 2, "max_value": 9},
    "simple_geometry": {"max_sides": 3},
    "spell_backward": {"max_word_len": 5},
    "time_intervals": {"task_types": ["time"]},
    "word_sequence_reversal": {"max_words": 4},
}
LARGE = {
    "chain_sum": {"min_terms": 4, "max_terms": 6, "min_digits": 3, "max_digits": 5, "allow_negation": True},
    "products": {"max_terms": 3, "max_digits": 4, "allow_negation": True},
    "gcd": {"max_numbers": 4},
    "lcm": {"max_numbers": 4},
    "family_relationships": {"min_family_size": 8, "max_family_size": 12},
    "time_intervals": {"max_date_difference_days": 900},
}
"""Harder than the family's defaults; the defaults elsewhere."""


@cache
def problems(family: str, size: str) -> list[Problem]:
    knobs = (SMALL if size == "small" else LARGE).get(family, {})
    stream = GeneratedProblems(GeneratedSource(family=family, knobs=knobs), 5).problems()
    return list(itertools.islice(stream, PROBLEMS))


def boxed(message: Message) -> str:
    found = re.fullmatch(r"The answer is \\boxed\{(.*)\}\.", message.content)
    assert found is not None
    return found.group(1)


@pytest.mark.parametrize("size", ["small", "large"])
@pytest.mark.parametrize("family", sorted(SOLVERS))
def test_every_trace_scores_one_by_the_familys_own_scorer(family, size):
    from reasoning_gym import get_score_answer_fn

    score = get_score_answer_fn(family)
    solved = 0
    for problem in problems(family, size):
        for message in traces(problem, 4, random.Random(0)):
            assert score(answer=boxed(message), entry=problem.metadata["entry"]) == 1.0, (problem.question, message)
            assert message.role == "assistant"
            assert message.thinking
            solved += 1
    assert solved >= PROBLEMS


@pytest.mark.parametrize("family", sorted(SOLVERS))
def test_at_most_one_problem_in_twenty_is_left_unsolved(family):
    unsolved = [
        p.question for size in ("small", "large") for p in problems(family, size) if not traces(p, 1, random.Random(0))
    ]
    assert len(unsolved) <= 2 * PROBLEMS / 20, unsolved


@pytest.mark.parametrize("family", sorted(SOLVERS))
def test_most_problems_have_several_traces_and_all_of_them_differ(family):
    several = 0
    for problem in problems(family, "large"):
        found = [message.thinking for message in traces(problem, 4, random.Random(1))]
        assert len(set(found)) == len(found)
        several += len(found) > 1
    assert several > PROBLEMS / 2


@pytest.mark.parametrize("family", sorted(SOLVERS))
def test_traces_repeat_with_the_same_rng_and_survive_json(family):
    for problem in problems(family, "small")[:5]:
        copy = replace(problem, metadata=json.loads(json.dumps(problem.metadata)))
        assert traces(problem, 4, random.Random(7)) == traces(copy, 4, random.Random(7))


@pytest.mark.parametrize("family", sorted(SOLVERS))
def test_the_first_trace_does_not_depend_on_the_rng(family):
    for problem in problems(family, "small")[:10]:
        assert traces(problem, 1, random.Random(1)) == traces(problem, 3, random.Random(2))[:1]


@pytest.mark.parametrize("family", sorted(SOLVERS))
def test_solvers_do_not_read_the_reference_answer(family):
    for problem in problems(family, "small")[:10]:
        entry = dict(problem.metadata["entry"], answer="wrong")
        blind = replace(problem, answer="wrong", metadata={"dataset": family, "entry": entry})
        assert traces(problem, 3, random.Random(0)) == traces(blind, 3, random.Random(0))


@pytest.mark.parametrize("family", sorted(SOLVERS))
def test_a_question_of_another_form_is_left_unsolved(family):
    odd = Problem(id="x", question="Is it raining?", answer="yes", verifier="reasoning_gym", family=family)
    assert traces(odd, 3, random.Random(0)) == []


@pytest.mark.parametrize("family", ["chain_sum", "products", "gcd", "lcm", "simple_geometry", "leg_counting"])
@pytest.mark.parametrize("size", ["small", "large"])
def test_every_equation_in_a_trace_is_true(family, size):
    checked = 0
    for problem in problems(family, size):
        for message in traces(problem, 3, random.Random(3)):
            for line in (message.thinking or "").split("\n"):
                left, _, right = line.partition(", then")[0].rpartition(": ")[2].rpartition(" = ")
                if re.fullmatch(r"-?\d+( [-+*/%] -?\d+)+", left) and re.fullmatch(r"-?\d+", right):
                    assert eval(left) == int(right), line
                    checked += 1
    assert checked > PROBLEMS


def test_small_sums_are_one_line_a_step():
    problem = Problem(
        "x",
        "State the final answer to the following arithmetic problem: 4 - 1 - 7 =",
        "-4",
        "reasoning_gym",
        "chain_sum",
    )
    (message,) = traces(problem, 1, random.Random(0))
    assert message.thinking == "4 - 1 = 3, then - 7\n3 - 7 = -4, then nothing"
    assert message.content == "The answer is \\boxed{-4}."


def test_an_end_before_the_start_is_left_unsolved():
    question = "What is the duration between 15:20 and 00:00? Please answer in HH:MM."
    assert traces(Problem("x", question, "", "reasoning_gym", "time_intervals"), 2, random.Random(0)) == []


def test_a_worked_solution_becomes_thinking_and_boxed_answer():
    solution = "She has 2*3=<<2*3=6>>6 eggs.\nHalf is 6/2=<<6/2=3>>3.\n#### 3"
    problem = Problem(id="x", question="q", answer="3", metadata={"solution": solution})
    assert traces(problem, 5, random.Random(0)) == [
        Message("assistant", "The answer is \\boxed{3}.", "She has 2*3=6 eggs.\nHalf is 6/2=3.")
    ]


def test_a_problem_without_solver_or_solution_has_no_trace():
    problem = Problem(id="x", question="q", answer="3")
    assert not can_trace(problem)
    assert traces(problem, 5, random.Random(0)) == []


@given(st.lists(st.integers(-(10**4), 10**4), min_size=2, max_size=6))
def test_what_a_sum_says_is_left_makes_the_answer_with_what_is_done(terms):
    lines = base.told_sum_lines(terms)
    for line in lines:
        done, _, left = line.partition(", then ")
        assert eval(done.replace(" = ", " == "))
        assert int(done.rpartition(" = ")[2]) + (0 if left == "nothing" else eval(left)) == sum(terms)
    assert [line.endswith(", then nothing") for line in lines] == [False] * (len(lines) - 1) + [True]


@given(st.integers(-(10**6), 10**6), st.integers(-(10**6), 10**6))
def test_addition_lines_are_true_and_end_in_the_sum(a, b):
    lines = base.add_lines(a, b)
    assert all(eval(line.replace(" = ", " == ")) for line in lines)
    assert lines[-1].endswith(f" = {a + b}")


@given(st.integers(-(10**4), 10**4), st.integers(-(10**4), 10**4), st.booleans())
def test_product_lines_are_true_and_end_in_the_product(a, b, ascending):
    lines = base.product_lines(a, b, ascending)
    assert all(eval(line.replace(" = ", " == ")) for line in lines)
    assert lines[-1].endswith(f" = {a * b}")


@given(st.integers(1, 5000))
def test_factors_are_primes_whose_product_is_the_number(number):
    factors = factorise(number)
    product = 1
    for factor in factors:
        assert all(factor % divisor for divisor in range(2, factor))
        product *= factor
    assert product == number


def first_lines(family: str, size: str) -> list[tuple[Problem, list[str]]]:
    solved = [(problem, traces(problem, 1, random.Random(0))) for problem in problems(family, size)]
    return [(problem, (found[0].thinking or "").split("\n")) for problem, found in solved if found]


@pytest.mark.parametrize("size", ["small", "large"])
def test_a_family_is_told_by_generations(size):
    for problem, lines in first_lines("family_relationships", size):
        born = {}
        for line in lines[:-2]:
            number, _, names = line.partition(" ")
            born |= dict.fromkeys(re.split(r", | \+ ", names), int(number))
        story = problem.question.partition("\n\n")[0]
        for one, other, children in re.findall(
            r"(\w+) is married to (\w+)\.(?: They have \w+(?: \w+)? called ([^.]+)\.)?", story
        ):
            assert born[one] == born[other]
            for child in re.split(r", | and ", children) if children else []:
                assert born[child] == born[one] + 1, (story, lines)
        first, first_born, second, second_born, _ = re.fullmatch(r"(\w+) (\d), (\w+) (\d): (.+)", lines[-2]).groups()
        assert (born[first], born[second]) == (int(first_born), int(second_born))


@pytest.mark.parametrize("size", ["small", "large"])
def test_a_number_is_kept_where_its_sign_is_that_of_the_rule(size):
    for problem, lines in first_lines("number_filtering", size):
        _, sign, limit = lines[0].split()
        for line in lines[1:]:
            number, found, again, said = line.split()
            assert again == limit
            assert found == (">" if float(number) > float(limit) else "<" if float(number) < float(limit) else "=")
            if found != "=":
                assert (said == "keep") == (found == sign), (problem.question, lines)


def test_letters_are_counted_where_they_stand():
    for problem, lines in first_lines("letter_counting", "small"):
        letter = lines[0].removeprefix("count ")
        marks = [one for line in lines[1:-1] for one in line.split()]
        assert [one[0] for one in marks] == list("".join(problem.metadata["entry"]["metadata"]["span"]).lower())
        counted = [one for one in marks if len(one) > 1]
        assert counted == [f"{letter}{number}" for number in range(1, len(counted) + 1)]
        assert lines[-1] == f"= {len(counted)}"
