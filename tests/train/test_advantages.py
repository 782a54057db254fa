"""Group-relative advantages against the statistics module."""

from __future__ import annotations

import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from h1r.train.advantages import group_advantages, has_signal

rewards = st.lists(st.sampled_from([-0.1, 0.0, 0.3, 0.9, 1.0]), min_size=2, max_size=16)


@given(rewards)
def test_advantages_are_the_rewards_standard_scores_in_their_group(group: list[float]) -> None:
    mean, std = statistics.fmean(group), statistics.pstdev(group)
    expected = [(reward - mean) / std if len(set(group)) > 1 else 0.0 for reward in group]
    assert group_advantages(group).tolist() == pytest.approx(expected, abs=1e-6)


@given(rewards)
def test_the_deviation_of_the_sample_is_verls(group: list[float]) -> None:
    """torch's own `std`, which verl calls."""
    scores = torch.tensor(group, dtype=torch.float64)
    expected = (scores - scores.mean()) / torch.std(scores) if len(set(group)) > 1 else torch.zeros_like(scores)
    assert group_advantages(group, deviation="sample").tolist() == pytest.approx(expected.tolist(), abs=1e-6)


@given(rewards)
def test_without_the_deviation_advantages_are_centred_rewards(group: list[float]) -> None:
    mean = statistics.fmean(group)
    expected = [reward - mean for reward in group]
    assert group_advantages(group, normalise_std=False).tolist() == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("normalise_std", [True, False])
@given(value=st.floats(-2, 2), size=st.integers(2, 64))
def test_equal_rewards_give_exact_zeros(normalise_std: bool, value: float, size: int) -> None:
    assert group_advantages([value] * size, normalise_std).tolist() == [0.0] * size
    assert not has_signal([value] * size)


@given(rewards)
def test_a_group_has_signal_exactly_when_some_advantage_is_not_zero(group: list[float]) -> None:
    assert has_signal(group) == bool(group_advantages(group).any()) == bool(group_advantages(group, False).any())


def test_advantages_take_tensors_and_are_fp32() -> None:
    found = group_advantages(torch.tensor([1.0, 0.0, 0.0, 1.0], dtype=torch.float64))
    assert found.dtype == torch.float32
    assert found.tolist() == [1.0, -1.0, -1.0, 1.0]
