"""The curves of traces in progress events."""

from __future__ import annotations

import math
import statistics

import pytest
from served_model import Running
from test_serve_chat import chunks

from h1r.serve.progress_events import curve


@pytest.mark.parametrize("window", [1, 4, 50])
@pytest.mark.parametrize(("tokens", "points"), [(1, 8), (7, 8), (8, 8), (9, 8), (100, 8), (100, 1), (0, 8)])
def test_a_curve_is_the_mean_of_the_last_window_at_evenly_spaced_tokens(window: int, tokens: int, points: int) -> None:
    confidences = [3 + math.sin(k) for k in range(tokens)]
    m = min(points, tokens)
    ends = [math.ceil((k + 1) * tokens / m) for k in range(m)]
    expected = [statistics.fmean(confidences[max(0, end - window) : end]) for end in ends]
    assert curve(confidences, window, points) == pytest.approx(expected, rel=1e-5)
    assert ends[-1:] == [tokens] * (tokens > 0)


def test_a_confidence_that_is_no_number_is_null_in_its_windows_alone() -> None:
    assert curve([1.0, math.inf, 3.0, 4.0], 2, 4) == [1.0, None, None, 3.5]


def test_every_trace_that_ended_has_its_curve_once(server: Running) -> None:
    options = {"verifier": "first-character", "return_traces": "tokens", "curves": 5}
    events = [one["deepconf"] for one in chunks(server, deepconf=options, seed=5, max_tokens=24) if one.get("deepconf")]
    told = [trace for event in events if event["event"] == "progress" for trace in event["traces"]]
    curves = {one["id"]: one["curve"] for one in told if "curve" in one}
    assert len(curves) == sum("curve" in one for one in told) == 12
    assert all(one["state"] != "running" for one in told if "curve" in one)
    for trace in events[-1]["traces"]:
        assert len(curves[trace["id"]]) == min(5, trace["tokens"])
        assert curves[trace["id"]][-1] == pytest.approx(statistics.fmean(trace["confidences"][-4:]), rel=1e-5)
    plain = [one["deepconf"] for one in chunks(server, deepconf={"verifier": "first-character"}) if one.get("deepconf")]
    assert not any("curve" in trace for event in plain for trace in event["traces"])
