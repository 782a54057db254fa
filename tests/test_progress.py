import io

import pytest

from h1r.common import progress as progress_module
from h1r.common.progress import Bar, PlainBar, note, progress, quiet, saying_once


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_rate_and_estimate_follow_the_clock() -> None:
    clock = Clock()
    bar = Bar("SFT", 100, "step", clock)
    assert bar.remaining is None
    clock.now += 10
    bar.advance(20)
    assert (bar.rate, bar.remaining) == (2.0, 40.0)


def test_what_an_earlier_attempt_did_is_not_in_the_rate() -> None:
    clock = Clock()
    bar = Bar("SFT", 100, "step", clock)
    bar.start_at(60)
    clock.now += 10
    bar.advance(20)
    assert (bar.done, bar.rate, bar.remaining) == (80, 2.0, 10.0)


def test_one_slow_first_unit_is_no_ground_for_an_estimate() -> None:
    clock = Clock()
    bar = Bar("problems", 100_000, "problem", clock)
    clock.now += 15
    bar.advance()
    assert bar.line() == "problems: 1/100000 problems, 15 s/problem, 0:15"
    clock.now += 1
    bar.advance(999)
    assert bar.remaining == pytest.approx(99_000 / (1000 / 16))


def test_without_a_total_there_is_no_estimate() -> None:
    clock = Clock()
    bar = Bar("read", None, "line", clock)
    clock.now += 1
    bar.advance(5)
    assert bar.remaining is None
    assert bar.line() == "read: 5 lines, 5 line/s, 0:01"


def test_plain_lines_come_first_every_ten_seconds_and_last() -> None:
    clock, stream = Clock(), io.StringIO()
    bar = PlainBar("SFT", 100, "step", stream, clock)
    for step in range(100):
        clock.now += 0.25
        bar.advance(loss=1 / (step + 1))
    bar.close()
    lines = stream.getvalue().splitlines()
    assert [line.split()[1] for line in lines] == ["1/100", "41/100", "81/100", "100/100"]
    assert lines[1] == "SFT: 41/100 steps, 4 step/s, 0:10 (about 0:15 left), loss 0.02439"


def test_an_unchanged_last_state_is_not_printed_twice() -> None:
    clock, stream = Clock(), io.StringIO()
    bar = PlainBar("SFT", 1, "step", stream, clock)
    clock.now += 1
    bar.advance()
    clock.now += 1
    bar.close()
    assert len(stream.getvalue().splitlines()) == 1


def test_progress_goes_to_standard_error_and_quiet_turns_it_off(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("SFT", total=2) as bar:
        bar.advance(2)
    assert "2/2" in capsys.readouterr().err
    quiet()
    with progress("SFT", total=2) as bar:
        bar.advance(2)
    found = capsys.readouterr()
    assert (found.out, found.err) == ("", "")


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (59.6, "1:00"), (3661, "1:01:01")])
def test_times_read_as_clock_times(seconds: float, text: str) -> None:
    assert progress_module.format_seconds(seconds) == text


@pytest.mark.parametrize(
    ("rate", "text"), [(0.0, "0 step/s"), (0.25, "4 s/step"), (1.25, "1.25 step/s"), (12345, "12,345 step/s")]
)
def test_rates_are_per_second_or_seconds_per_unit(rate: float, text: str) -> None:
    assert progress_module._format_rate(rate, "step") == text


def test_what_every_stage_says_alike_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    quiet(False)
    try:
        with saying_once():
            for _ in range(3):
                note("kernels: native", repeat=False)
                note("done")
        note("kernels: native", repeat=False)
    finally:
        quiet(True)
    assert capsys.readouterr().err.split("\n") == ["kernels: native", *["done"] * 3, "kernels: native", ""]


def test_a_rate_is_named_when_something_is_done_and_units_are_counted() -> None:
    now = [0.0]
    bar = Bar("RL", 3, "step", clock=lambda: now[0])
    assert bar.line() == "RL: 0/3 steps, 0:00"
    now[0] = 2.0
    bar.advance()
    assert bar.line() == "RL: 1/3 steps, 2 s/step, 0:02"
    assert Bar("Read", 1, "shard", clock=lambda: 0.0).line() == "Read: 0/1 shard, 0:00"
    assert Bar("Asked", None, "reply", clock=lambda: 0.0).count() == "0 replies"
