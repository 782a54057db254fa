"""Documents shared out to processes: every one once, in order, and no process with much more than another."""

from __future__ import annotations

import math
import random
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_training import CONFIG, tiny_model

from h1r.train.parallel.balance import document_costs, spread

costs_of = st.lists(st.floats(0.1, 100.0), max_size=7)


@given(costs=costs_of, shares=st.integers(1, 5), limited=st.booleans())
def test_every_item_is_in_one_share_in_order_and_no_share_has_more_than_the_limit(
    costs: list[float], shares: int, limited: bool
) -> None:
    limit = max(1, -(-len(costs) // shares)) if limited else None
    found = spread(costs, shares, limit)
    assert len(found) == shares
    assert sorted(item for share in found for item in share) == list(range(len(costs)))
    assert all(share == sorted(share) for share in found)
    assert all(len(share) <= (limit or len(costs)) for share in found)


@given(costs=costs_of, shares=st.integers(1, 3))
def test_the_costliest_share_is_within_a_third_of_the_best_there_is(costs: list[float], shares: int) -> None:
    """Graham's bound of the rule, 4/3 - 1/(3 shares), against every way to share."""
    worst = max(sum(costs[item] for item in share) for share in spread(costs, shares))
    best = min(
        max(sum(c for c, owner in zip(costs, owners, strict=True) if owner == share) for share in range(shares))
        for owners in product(range(shares), repeat=len(costs))
    )
    assert worst <= best * (4 / 3 - 1 / (3 * shares)) * (1 + 1e-9)


@pytest.mark.parametrize("shares", [8, 64, 256])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_batch_of_the_papers_size_is_shared_evenly(shares: int, seed: int) -> None:
    rng = random.Random(seed)
    lengths = [min(49152.0, rng.lognormvariate(math.log(17000), 0.7)) for _ in range(2048)]
    costs = [length * (1 + length / 110_000) for length in lengths]  # the 7B's
    sums = [sum(costs[item] for item in share) for share in spread(costs, shares)]
    dealt = [sum(costs[share::shares]) for share in range(shares)]
    mean = sum(costs) / shares
    assert max(sums) / mean < 1.02
    assert max(dealt) / mean > 1.03  # so there was something to even out


def test_a_document_costs_its_tokens_and_the_square_of_attention() -> None:
    model = tiny_model()
    parameters = sum(p.numel() for p in model.parameters())
    attention = CONFIG.num_hidden_layers * CONFIG.num_attention_heads * CONFIG.head_dim
    expected = [0, 10 + 100 * attention / parameters]
    assert document_costs(model, [0, 10]) == pytest.approx(expected)


def test_shares_that_are_too_small_are_refused() -> None:
    with pytest.raises(ValueError, match="2 shares of at most 1 do not hold 3 items"):
        spread([1.0, 1.0, 1.0], 2, 1)
