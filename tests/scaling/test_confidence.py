import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from h1r.scaling.confidence import (
    TIE_SLACK,
    group_confidences,
    stop_length,
    stopping_limit,
    stopping_threshold,
    summarise,
)

DATA = Path(os.environ.get("H1R_DATA", Path(__file__).parents[3] / "shared" / "data"))
WHOLE_TRACES = DATA / "qwen05b_traces" / "traces.jsonl.gz"

values = st.lists(st.floats(0, 60, allow_nan=False), min_size=1, max_size=60)
windows = st.integers(1, 70)


def slow_groups(confidences, window):
    if len(confidences) < window:
        return [sum(confidences) / len(confidences)]
    return [sum(confidences[i : i + window]) / window for i in range(len(confidences) - window + 1)]


@given(values, windows)
def test_group_confidences_equal_the_mean_of_every_window(confidences, window):
    assert group_confidences(confidences, window) == pytest.approx(slow_groups(confidences, window), abs=1e-9)


@given(values, windows)
def test_summary_equals_the_slow_definitions(confidences, window):
    groups = sorted(slow_groups(confidences, window))
    lowest_tenth = groups[: max(1, len(groups) // 10)]
    last = confidences[max(0, len(confidences) - window) :]
    found = summarise(confidences, window)
    assert found.mean == pytest.approx(sum(confidences) / len(confidences), abs=1e-9)
    assert found.tail == pytest.approx(sum(last) / len(last), abs=1e-9)
    assert found.bottom == pytest.approx(sum(lowest_tenth) / len(lowest_tenth), abs=1e-9)
    assert found.lowest == pytest.approx(groups[0], abs=1e-9)


def test_a_trace_shorter_than_the_window_has_one_group():
    assert group_confidences([1.0, 2.0, 6.0], window=10).tolist() == [3.0]


def test_group_confidences_do_not_drift_along_a_long_trace():
    # A running sum that adds and subtracts would carry the error of the huge first values to the end.
    confidences = np.concatenate([np.full(64, 1e15), np.full(64_000, 0.1)])
    assert group_confidences(confidences, 64)[64:] == pytest.approx(0.1, rel=1e-14)


def test_a_value_that_is_not_finite_stays_in_its_own_windows():
    confidences = [1.0] * 20
    confidences[7] = float("nan")
    bad = np.isnan(group_confidences(confidences, 4))
    assert np.flatnonzero(bad).tolist() == [4, 5, 6, 7]


@pytest.mark.parametrize(("confidences", "window"), [([], 4), ([1.0], 0)])
def test_no_tokens_and_no_window_are_refused(confidences, window):
    with pytest.raises(ValueError, match=r"at least 1|without tokens"):
        group_confidences(confidences, window)


def test_keep_top_ten_percent_is_the_ninetieth_percentile():
    lowest = [float(i) for i in range(16)]
    # Rank 0.9 * 15 = 13.5: half-way between the 14th and the 15th value.
    assert stopping_threshold(lowest, keep_top=0.10) == pytest.approx(13.5)
    assert stopping_threshold(lowest, keep_top=0.90) == pytest.approx(1.5)


def test_the_paper_s_words_read_literally_are_the_tenth_percentile():
    lowest = [float(i) for i in range(16)]
    assert stopping_threshold(lowest, keep_top=0.10, reading="literal") == pytest.approx(1.5)


@pytest.mark.skipif(not WHOLE_TRACES.exists(), reason="recorded traces are absent; set H1R_DATA")
@pytest.mark.parametrize("window", [16, 64, 2048])
def test_statistics_of_real_traces_equal_their_slow_definitions(window):
    with gzip.open(WHOLE_TRACES, "rt", encoding="utf-8") as lines:
        traces = [trace["conf_top20"] for line in lines for trace in json.loads(line)["traces"]]
    assert len(traces) == 176
    for confidences in traces:
        groups = sorted(slow_groups(confidences, window))
        found = summarise(confidences, window)
        tenth = groups[: max(1, len(groups) // 10)]
        last = confidences[-window:]
        expected = [sum(part) / len(part) for part in (confidences, last, tenth, groups[:1])]
        assert [found.mean, found.tail, found.bottom, found.lowest] == pytest.approx(expected, rel=1e-12)
        limit = groups[len(groups) // 3]
        if len(confidences) >= window:
            first = next((i for i, g in enumerate(slow_groups(confidences, window)) if g < limit - 1e-9), None)
            at = stop_length(confidences, window, limit - 1e-9)
            assert at == (None if first is None else first + window)


@given(values, st.integers(1, 12), st.floats(0, 60))
def test_stop_length_is_the_first_token_that_closes_a_window_below_the_limit(confidences, window, limit):
    expected = None
    for n in range(window, len(confidences) + 1):
        mean = sum(confidences[n - window : n]) / window
        if abs(mean - limit) < 1e-9:
            return  # decided by rounding, which the two summation orders do differently
        if mean < limit:
            expected = n
            break
    assert stop_length(confidences, window, limit) == expected


def test_a_trace_equal_to_the_threshold_up_to_rounding_is_not_stopped():
    threshold = stopping_threshold([5.0, 5.0, 5.0], keep_top=0.10)
    limit = stopping_limit(threshold)
    assert stop_length([5.0 - TIE_SLACK / 2] * 8, 4, limit) is None
    assert stop_length([5.0 - TIE_SLACK * 2] * 8, 4, limit) == 4
