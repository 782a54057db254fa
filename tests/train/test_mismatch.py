"""The limit of how far the sampler may be from the trainer."""

from __future__ import annotations

import math

import pytest

from h1r.errors import UserError
from h1r.train.mismatch import IN_A_ROW, MismatchLimit


def test_steps_in_a_row_end_a_run_and_one_that_is_near_begins_anew(capsys: pytest.CaptureFixture[str]) -> None:
    watched = MismatchLimit(0.5)
    for mismatch in [*[0.6] * (IN_A_ROW - 1), 0.5, *[math.inf] * (IN_A_ROW - 1), math.nan, 0.7]:
        watched.add(mismatch)
    assert capsys.readouterr().err.count("beyond rl.max_mismatch_kl = 0.5") == 1
    for _ in range(IN_A_ROW - 2):
        watched.add(0.9)
    with pytest.raises(UserError, match=r"0\.9 nats a token.*5 steps in a row"):
        watched.add(0.9)


def test_zero_is_no_limit() -> None:
    watched = MismatchLimit(0.0)
    for _ in range(2 * IN_A_ROW):
        watched.add(math.inf)
