import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from h1r.evals.metrics import Answer, Outcome, calibration_error, faults, is_correct, pass_at_1, pass_at_k, per_family
from h1r.records import Verdict
from h1r.scaling.intervals import wilson


@given(st.integers(1, 7), st.data())
def test_pass_at_k_equals_the_share_of_all_choices_with_a_correct_answer(n, data):
    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    choices = list(itertools.combinations([True] * c + [False] * (n - c), k))
    assert pass_at_k([Outcome("p", "f", c, n)], k) == pytest.approx(sum(map(any, choices)) / len(choices))


@given(st.lists(st.tuples(st.integers(0, 100), st.booleans()), min_size=1, max_size=450))
def test_calibration_error_is_that_of_bins_in_order_of_confidence(stated):
    answers = [Answer(1, "stop", True, float(right), confidence=share / 100) for share, right in stated]
    unscored = Answer(1, "stop", True, 0.0, "unscored", confidence=0.5)
    ranked = sorted(stated, key=lambda one: one[0])
    count = max(len(ranked) // 100, 1)
    bins = [ranked[100 * n : None if n == count - 1 else 100 * (n + 1)] for n in range(count)]
    gaps = [abs(sum(share for share, _ in one) / 100 - sum(right for _, right in one)) / len(one) for one in bins]
    expected = (sum(len(one) * gap**2 for one, gap in zip(bins, gaps, strict=True)) / len(ranked)) ** 0.5
    assert calibration_error([*answers, unscored, Answer(1, "stop", True, 1.0)]) == pytest.approx(expected, abs=1e-9)


def test_answers_that_state_no_confidence_have_no_calibration():
    assert calibration_error([Answer(1, "stop", True, 1.0)]) is None
    sure = [Answer(1, "stop", True, 1.0, confidence=1.0)] * 150
    assert calibration_error(sure) == 0.0
    assert calibration_error([Answer(1, "stop", True, 0.0, confidence=1.0)] * 3) == 1.0


def test_pass_at_1_weighs_problems_equally():
    found = pass_at_1([Outcome("a", "f", 4, 4), Outcome("b", "f", 0, 4), Outcome("c", "f", 1, 4)])
    assert found.value == pytest.approx((1 + 0 + 0.25) / 3)


def test_one_answer_a_problem_gets_wilsons_interval():
    outcomes = [Outcome(str(i), "f", int(i < 7), 1) for i in range(20)]
    assert pass_at_1(outcomes).interval == wilson(7, 20)


def test_families_are_scored_apart():
    outcomes = [Outcome("a", "sums", 2, 2), Outcome("b", "dates", 0, 2), Outcome("c", "sums", 1, 2)]
    table = per_family(outcomes)
    assert list(table) == ["dates", "sums"]
    assert (table["sums"]["pass_at_1"], table["sums"]["n"], table["dates"]["pass_at_1"]) == (0.75, 2, 0.0)


def test_the_three_faults_are_told_apart():
    answers = [
        Answer(1, "length", False, 0.0, "not_extracted"),
        Answer(1, "stop", True, 0.0, "unscored"),
        Answer(1, "stop", True, 0.0, "time"),
        Answer(1, "stop", True, 0.0, "wrong"),
        Answer(1, "stop", True, 1.0),
        Answer(1, "error", False, 0.0, "unscored"),
        Answer(1, "stop", True),
        *[Answer(1, "stop", True, 1.0)] * 3,
    ]
    found = faults(answers)
    assert (found.truncated, found.no_answer, found.unscored, found.error) == pytest.approx((0.1, 0.1, 0.2, 0.1))
    assert found.reasons == {"not_extracted": 0.1, "wrong": 0.1, "time": 0.1, "unscored": 0.1}


def test_partial_credit_is_not_correct():
    assert [is_correct(Verdict(reward)) for reward in (0.0, 0.17, 0.99, 1.0)] == [False, False, False, True]


def test_more_correct_answers_than_answers_is_refused():
    with pytest.raises(ValueError, match="problem p: 3 of 2"):
        Outcome("p", "f", 3, 2)


def test_pass_at_k_beyond_the_answers_is_refused():
    with pytest.raises(ValueError, match="pass@3 needs at least 3"):
        pass_at_k([Outcome("p", "f", 1, 2)], 3)
