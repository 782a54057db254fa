import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from h1r.scaling.intervals import mean_accuracy, paired_difference, saving, wilson


def test_wilson_gives_the_published_values():
    # Newcombe (1998), table I: 81 of 263, and 0 of 20.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)


def test_bootstrap_interval_of_a_mean_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(1)
    inside = 0
    for _ in range(60):
        rates = rng.beta(2, 2, size=60)
        low, high = mean_accuracy(rng.binomial(8, rates) / 8, samples=8, level=0.9).interval
        inside += low <= 0.5 <= high
    assert 46 <= inside <= 60


def test_more_samples_of_the_same_problems_do_not_narrow_the_interval():
    # Every answer to a problem is alike: only the number of problems carries information.
    widths = [np.diff(mean_accuracy([0.0, 1.0] * 20, samples, 0.95).interval)[0] for samples in (2, 64)]
    assert widths[0] == widths[1] > 0.25


@pytest.mark.parametrize("accuracy", [0.0, 1.0])
def test_a_score_that_every_problem_shares_still_has_an_interval(accuracy):
    low, high = mean_accuracy([accuracy] * 20, samples=4).interval
    assert (low, high) == wilson(20 * accuracy, 20)
    assert high - low > 0.1


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=30))
def test_paired_difference_counts_each_problem_once(pairs):
    first, second = zip(*pairs, strict=True)
    found = paired_difference(first, second)
    assert found.value == pytest.approx((sum(second) - sum(first)) / len(pairs))
    assert (found.better, found.worse) == (pairs.count((0, 1)), pairs.count((1, 0)))
    assert found.better + found.worse + found.equal == len(pairs)
    assert found.interval[0] <= found.value + 1e-9
    assert found.interval[1] >= found.value - 1e-9


def test_pairing_narrows_the_interval_of_a_constant_gain():
    first = np.linspace(0, 0.8, 40)
    assert paired_difference(first, first + 0.1).interval == pytest.approx((0.1, 0.1))


def test_saving_is_a_ratio_of_totals_not_a_mean_of_ratios():
    found = saving([10, 90], [100, 100])
    assert found.value == pytest.approx(0.5)
    assert found.interval == pytest.approx((0.1, 0.9))
    assert saving([100, 10], [1000, 10]).value == pytest.approx(1 - 110 / 1010)


def test_intervals_are_the_same_every_time():
    values = np.random.default_rng(0).random(50)
    assert mean_accuracy(values, 4) == mean_accuracy(values, 4)


@pytest.mark.parametrize("wrong", [lambda: mean_accuracy([], 4), lambda: saving([1], [0]), lambda: wilson(0, 0)])
def test_nothing_to_average_is_refused(wrong):
    with pytest.raises(ValueError, match=r"at least one|positive"):
        wrong()


@pytest.mark.parametrize("accuracies", [[0.9375, 0.9375], [0.5] * 40, [0.25]])
def test_problems_of_one_accuracy_have_an_interval_with_a_width(accuracies: list[float]) -> None:
    found = mean_accuracy(accuracies, samples=16)
    assert found.interval == wilson(sum(accuracies), len(accuracies))
    assert found.interval[0] < found.value < found.interval[1]
