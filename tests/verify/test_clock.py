"""What a process is charged: its own work and its own sleep, and nothing that others did to it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from h1r.verify.workers import clock
from h1r.verify.workers.clock import MIN_WALL_S, WALL_FACTOR, Meter, wall_limit_s

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere all wall time is charged")

READY = "print('ready', flush=True)\n"
COMPUTES = READY + "while True: sum(range(10_000))"
SLEEPS = READY + "import time\ntime.sleep(1000)"
STOPS = READY + "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)"


@contextmanager
def child(code: str) -> Iterator[tuple[subprocess.Popen[bytes], Meter]]:
    """A process that has begun, and its meter."""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        process.stdout.readline()
        yield process, Meter(process.pid)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def processor_s(pid: int) -> float:
    """By the kernel's other account, in ticks."""
    with open(f"/proc/{pid}/stat") as handle:
        return sum(map(int, handle.read().rpartition(")")[2].split()[11:13])) / os.sysconf("SC_CLK_TCK")


def test_a_process_that_computes_is_charged_its_processor_time():
    with child(COMPUTES) as (process, meter):
        before = processor_s(process.pid)
        while meter.charged() < 0.5:
            assert meter.wall_s < 60, "nothing is charged to what computes"
            time.sleep(0.05)
        assert meter.charged() == pytest.approx(processor_s(process.pid) - before, abs=0.2)


def test_what_waits_for_a_processor_is_charged_only_what_it_got():
    """Five processes on one processor get a fifth of it each, and are charged no more."""
    processor = min(os.sched_getaffinity(0))
    with child(COMPUTES) as (process, _):
        rivals = [subprocess.Popen([sys.executable, "-c", COMPUTES], stdout=subprocess.DEVNULL) for _ in range(4)]
        try:
            for one in (process, *rivals):
                os.sched_setaffinity(one.pid, {processor})
            before = Meter(process.pid)
            time.sleep(3)
            charged, wall = before.charged(), before.wall_s
        finally:
            for rival in rivals:
                rival.kill()
                rival.wait()
    assert 0 < charged < wall / 2


@pytest.mark.parametrize("code", [SLEEPS, STOPS])
def test_a_process_that_sleeps_or_stops_is_charged_the_time_it_holds(code):
    with child(code) as (_, meter):
        while meter.charged() < 1.0:
            assert meter.wall_s < 60, "nothing is charged to what sleeps"
            time.sleep(0.05)
        assert 1.0 <= meter.charged() <= meter.wall_s


def test_time_that_the_host_of_a_virtual_machine_gives_to_others_is_charged_to_none(monkeypatch):
    with child(SLEEPS) as (process, _):
        monkeypatch.setattr(clock, "stolen_s", time.monotonic)
        meter = Meter(process.pid)
        time.sleep(0.5)
        assert meter.charged() < 0.1 < 0.5 <= meter.wall_s


def test_the_charge_never_falls_and_stays_when_the_process_has_ended():
    with child(COMPUTES) as (process, meter):
        while meter.charged() < 0.2 and meter.wall_s < 60:
            time.sleep(0.05)
        last = meter.charged()
        process.kill()
        process.wait()
        time.sleep(0.3)
        assert last <= meter.charged() < last + 0.2
        assert meter.charged() == meter.charged()


def test_a_meter_of_a_process_that_has_ended_charges_nothing():
    with child(SLEEPS) as (process, _):
        process.kill()
        process.wait()
        late = Meter(process.pid)
    assert late.charged() == 0.0


def test_only_what_waited_nearly_all_the_time_is_starved(monkeypatch):
    with child(SLEEPS) as (process, meter):
        time.sleep(0.05)
        assert not meter.is_starved(5.0)
        monkeypatch.setattr(clock, "waited_s", lambda pid: time.monotonic())
        waiting = clock.Meter(process.pid)
        time.sleep(0.05)
        assert waiting.is_starved(5.0)


def test_the_wall_limit_lies_far_above_and_has_a_least_value():
    assert wall_limit_s(0.5) == MIN_WALL_S
    assert wall_limit_s(100.0) == WALL_FACTOR * 100.0
