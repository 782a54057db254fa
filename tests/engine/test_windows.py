"""Group confidence by running sums, against the mean of each window."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from h1r.engine.confidence_window import Windows
from h1r.engine.sampling import choose, token_confidence


def first_below(confidences: list[float], window: int, threshold: float) -> int:
    """After how many tokens the mean of the last `window` first lies below; 0: never."""
    for n in range(window, len(confidences) + 1):
        if np.mean(confidences[n - window : n]) < threshold:
            return n
    return 0


@given(st.data())
def test_the_first_low_window_is_found_whatever_shares_the_batch(data: st.DataObject) -> None:
    """Traces come and go in reused slots, with windows and starts of their own, and some positions are seen twice."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    windows, slots = Windows(torch.device("cpu")), 3
    for _ in range(2):
        sizes = [data.draw(st.integers(1, 12)) for _ in range(slots)]
        first = [data.draw(st.sampled_from([0, 0, 1, 5])) for _ in range(slots)]
        threshold = [data.draw(st.floats(-1, 1)) for _ in range(slots)]
        for slot in range(slots):
            windows.reserve(slots, sizes[slot])
            windows.start(slot, first[slot])
        seen: list[list[float]] = [[] for _ in range(slots)]
        for _ in range(25):
            rows = [slot for slot in range(slots) if rng.random() < 0.8]
            again = [slot for slot in rows if rng.random() < 0.2]
            for batch in (again, rows):
                drawn = {slot: float(rng.normal()) for slot in batch}
                below = windows.record(
                    torch.tensor(batch, dtype=torch.long),
                    torch.tensor([first[slot] + len(seen[slot]) for slot in batch], dtype=torch.long),
                    torch.tensor([drawn[slot] for slot in batch], dtype=torch.float64),
                    torch.tensor([sizes[slot] for slot in batch], dtype=torch.long),
                    torch.tensor([threshold[slot] for slot in batch], dtype=torch.float64),
                )
                for slot, got in zip(batch, below.tolist(), strict=True):
                    expected = first_below([*seen[slot], drawn[slot]], sizes[slot], threshold[slot])
                    assert got == (expected and first[slot] + expected)
            for slot in rows:
                seen[slot].append(drawn[slot])


def test_growing_keeps_what_was_recorded() -> None:
    windows = Windows(torch.device("cpu"))
    values = np.random.default_rng(0).normal(size=40)
    for t, value in enumerate(values):
        windows.reserve(1 + t // 10, 5 + t)
        below = windows.record(*(torch.tensor([x]) for x in (0, t, value, 5, -0.4)))
        assert int(below) == first_below(values[: t + 1].tolist(), 5, -0.4)


@given(seed=st.integers(0, 999), most=st.integers(1, 40))
def test_confidence_from_logits_is_that_of_the_sampler(seed: int, most: int) -> None:
    logits = 3 * torch.randn(4, 30, generator=torch.Generator().manual_seed(seed))
    top_k = torch.tensor([1, most, max(1, most // 2), min(3, most)])
    got = token_confidence(logits, top_k, most)
    for row, k in enumerate(top_k.tolist()):
        one = choose(logits[row : row + 1], torch.tensor([0.5]), torch.tensor([1.0]), None, None, None, k)
        torch.testing.assert_close(got[row], one.confidence[0], atol=1e-5, rtol=1e-5)
