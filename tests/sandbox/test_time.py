"""Limits of time: what a busy machine must not change, and what ends an answer that holds its sandbox."""

import contextlib
import multiprocessing
import os
import struct
import subprocess
import sys
import time

import pytest

from h1r.records import Problem
from h1r.sandbox import Isolation, Limits, SandboxPool, meter, refusal, runner, seccomp, toolchains
from h1r.sandbox.meter import Clock, Meter, starved
from h1r.verify.code.execute import judge
from h1r.verify.code.grade import grade_in
from h1r.verify.code.problem_tests import CallTests, CheckTests, StdinTests
from machine import bound

LEVELS = (Isolation.NAMESPACES, Isolation.BUBBLEWRAP, Isolation.LANDLOCK)


@pytest.fixture(scope="module", params=LEVELS, ids=lambda level: level.name)
def slot(request):
    if why := refusal(request.param):
        pytest.skip(why)
    with SandboxPool(level=request.param.name) as pool, pool.lease() as slot:
        yield slot


def _spin() -> None:
    while True:
        pass


@contextlib.contextmanager
def busy_machine(loops_per_core: int = 3):
    context = multiprocessing.get_context("fork")
    loops = [context.Process(target=_spin, daemon=True) for _ in range(loops_per_core * (os.cpu_count() or 1))]
    for loop in loops:
        loop.start()
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.join()


WORK = "import time\nwhile time.process_time() < 0.5: pass\n"
CALL = """
import time
def f(x):
    end = time.process_time() + 0.4
    while time.process_time() < end: pass
    return x
"""
CPP = "#include <iostream>\n#include <map>\n#include <regex>\nint main() { int x; std::cin >> x; std::cout << x; }"
HONEST = {
    "program": (WORK + "print(input())", "python", StdinTests([("1", "1"), ("2", "2")])),
    "call": (CALL, "python", CallTests("f", [[1], [2]], expected=[1, 2])),
    "check": (CALL, "python", CheckTests(["assert f(1) == 1", "assert f(2) == 2"], ["f"])),
    "compiled": (CPP, "cpp", StdinTests([("1", "1")])),
}


@pytest.mark.parametrize("form", HONEST)
def test_waiting_for_a_busy_machine_is_no_time_of_the_test(slot, form):
    code, language, tests = HONEST[form]
    if language != "python" and toolchains.executable(language) is None:
        pytest.skip(f"no {toolchains.TOOLS[language]}")
    with busy_machine():
        assert judge(slot, code, language, tests, Limits(time_s=0.9, total_s=2.5, answer_s=120.0)).failures == []


LOOP = "while True: pass"
HOLDERS = {
    "endless loop": LOOP,
    "sleep": "import time; time.sleep(1000)",
    "sleep in pieces": "import time\nwhile True:\n    time.sleep(0.02)\n    sum(range(1000))",
    "lock": "import threading; threading.Lock().acquire(); l = threading.Lock(); l.acquire(); l.acquire()",
    "sleeping threads": "import threading, time\n"
    "for _ in range(8): threading.Thread(target=time.sleep, args=(1000,)).start()",
    "output trickle": "import time\nwhile True:\n    time.sleep(0.01)\n    print('x', flush=True)",
    "closed outputs": "import os, time\nos.close(1); os.close(2)\nwhile True: time.sleep(0.1)",
}  # fmt: skip


@pytest.mark.parametrize("name", HOLDERS)
def test_sleeping_is_time_of_the_test(slot, name):
    """Their limits of the wall are far away, so it is the time they spend that ends them."""
    limits = Limits(time_s=0.5, total_s=1000.0, wall_s=500.0)
    result = judge(slot, HOLDERS[name], "python", StdinTests([("1" * 100_000, "x")]), limits)
    assert [failure.reason for failure in result.failures] == ["time"]
    assert result.failures[0].why == "time limit exceeded"


def test_the_time_of_all_threads_is_time_of_the_test(slot):
    code = "import hashlib, threading\ndata = b'x' * (1 << 22)\n"
    code += "def spin():\n    for _ in range(60): hashlib.sha256(data)\n"
    code += "threads = [threading.Thread(target=spin) for _ in range(4)]\n[t.start() for t in threads]\n"
    code += "[t.join() for t in threads]\nimport time; print(time.process_time() > 0.3)"
    assert judge(slot, code, "python", StdinTests([("", "True")]), Limits(time_s=0.2)).failures[0].reason == "time"


ENDLESS_CHAIN = """
class Node:
    @property
    def next(self): return Node()
    def __getitem__(self, key): return Node()
    def __len__(self): return 10 ** 6
    def __str__(self):
        import time
        time.sleep(0.04)
        return 'x'
def f(): return Node()
"""
CHAINS = {
    "next": "node = f()\nwhile node is not None: node = node.next\nassert False",
    "items": "node = f()\nwhile True: node = node[0]",
    "text": "node = f()\nwhile str(node) != 'y': node = node.next",
}


@pytest.mark.parametrize("name", CHAINS)
def test_a_chain_of_quick_calls_ends_with_the_time_of_its_test(slot, name):
    limits = Limits(time_s=0.5, total_s=1000.0, wall_s=500.0)
    result = judge(slot, ENDLESS_CHAIN, "python", CheckTests([CHAINS[name]], ["f"]), limits)
    assert result.failures == [(0, "time limit exceeded", "time")]


@pytest.fixture
def unwaited(monkeypatch):
    """The kernel says that no run waits for a processor, however busy the machine is."""
    monkeypatch.setattr(meter, "waited_s", lambda pid, several: 0.0)


def test_a_chain_that_sleeps_unseen_ends_at_the_wall_of_its_test(slot, unwaited):
    code = ENDLESS_CHAIN.replace("0.04", "0.01")
    result = judge(slot, code, "python", CheckTests([CHAINS["text"]], ["f"]), Limits(time_s=0.5, wall_s=2.0))
    assert result.failures == [(0, "time limit exceeded", "time")]


def test_many_calls_within_a_test_have_more_time_than_one(slot):
    code = CALL.replace("0.4", "0.15")
    tests = CheckTests(["for number in range(5): assert f(number) == number"], ["f"])
    assert judge(slot, code, "python", tests, Limits(time_s=0.6)).failures == []


def test_the_total_is_spent_by_all_runs_of_an_answer_together_and_by_no_other(slot):
    tests = StdinTests([(str(number), str(number)) for number in range(8)])
    code = WORK.replace("0.5", "0.3") + "print(input())"
    result = judge(slot, code, "python", tests, Limits(time_s=1.0, total_s=1.0))
    assert 1 <= result.passed <= 3
    assert result.failures[0].reason == "time"
    assert judge(slot, "print(input())", "python", tests, Limits(time_s=1.0, total_s=1.0)).correct


SLOW_DIGEST = """
import time
from h1r.sandbox import served
served.digest = lambda value: time.sleep(1000)
def f(n): return ['x' * 100] * n
"""
CONSTEXPR_BOMB = """
constexpr unsigned long step(unsigned long n) {
    unsigned long s = 0;
    for (unsigned long i = 0; i < 200000; i++) s += i * n;
    return s;
}
template <int N> struct Bomb { static constexpr unsigned long value = step(N) + Bomb<N - 1>::value; };
template <> struct Bomb<0> { static constexpr unsigned long value = 0; };
int main() { return Bomb<800>::value; }
"""
WHOLE = {
    "program": ("import time; time.sleep(1000)", "python", StdinTests([("1", "1")])),
    "call": ("import time\ndef f(): time.sleep(1000)", "python", CallTests("f", [[]], expected=[1])),
    "check": (ENDLESS_CHAIN, "python", CheckTests([CHAINS["next"]], ["f"])),
    "test code": ("def f(): return 1", "python", CheckTests(["import time\ntime.sleep(1000)\nassert f() == 1"], ["f"])),
    "digest": (SLOW_DIGEST, "python", CallTests("f", [[300_000]], reference="def f(n): return ['x' * 100] * n")),
    "compiler": (CONSTEXPR_BOMB, "cpp", StdinTests([("1", "1")])),
}  # fmt: skip


@pytest.mark.parametrize("form", WHOLE)
def test_one_limit_of_the_wall_ends_an_answer_in_every_form(slot, unwaited, form):
    """All other limits are out of reach."""
    code, language, tests = WHOLE[form]
    if language != "python" and toolchains.executable(language) is None:
        pytest.skip(f"no {toolchains.TOOLS[language]}")
    limits = Limits(time_s=400.0, total_s=1000.0, answer_s=1.5)
    began = time.monotonic()
    result = judge(slot, code, language, tests, limits)
    assert result.failures == [(0, "the whole answer exceeds 1.5 s", "time")]
    assert time.monotonic() - began < bound(15.0)  # 400 and more by any other limit, 20 for the compiler
    assert judge(slot, "print(input())", "python", StdinTests([("1", "1")]), limits).correct


def test_a_fork_server_that_does_not_obey_is_killed(slot, unwaited, monkeypatch):
    from h1r.sandbox import answer

    monkeypatch.setattr(answer, "GRACE_S", 0.5)
    monkeypatch.setattr(runner.Sandbox, "_send", lambda self, message, descriptors, send=runner.Sandbox._send: (
        None if b"kill" in message else send(self, message, descriptors)))  # fmt: skip
    limits = Limits(time_s=400.0, total_s=1000.0, answer_s=1.0)
    tests = StdinTests([("1", "1")])
    assert judge(slot, LOOP, "python", tests, limits).failures == [(0, "the whole answer exceeds 1 s", "time")]
    assert judge(slot, "print(input())", "python", tests, limits).correct


HELD = "import time\ndef f(): time.sleep(1000)\nif __name__ == '__main__': f()"
STARVED = {
    "program": ([{"input": "1", "output": "1"}], {"wall_s": 0.3}),
    "call": ({"fn_name": "f", "inputs": [[]], "outputs": [1]}, {"wall_s": 0.3}),
    "check": (["assert f() == 1"], {"wall_s": 0.3}),
    "answer": ([{"input": "1", "output": "1"}], {"answer_s": 0.6}),
}


@pytest.fixture(scope="module")
def pool():
    with SandboxPool() as pool:
        yield pool


@pytest.mark.parametrize("form", STARVED)
def test_a_wall_that_only_the_machine_is_to_blame_for_is_no_verdict(pool, monkeypatch, form):
    """The stand-in has the kernel say that the run waited for a processor all the time; in truth it slept."""
    tests, limits = STARVED[form]
    limits = {"time_s": 400.0, "total_s": 1000.0, **limits}
    problem = Problem("p", "", "", "code", metadata={"tests": tests, "limits": limits})
    asleep = grade_in(pool, problem, f"```python\n{HELD}\n```")
    monkeypatch.setattr(meter, "waited_s", lambda pid, several: time.monotonic())
    waiting = grade_in(pool, problem, f"```python\n{HELD}\n```")
    assert (asleep.reward, asleep.reason) == (0.0, "time")
    assert (waiting.reward, waiting.reason) == (0.0, "unscored")
    assert "the machine was too busy" in waiting.error


def test_waiting_for_a_processor_is_told_from_sleeping_and_computing():
    """Three processes on one core: one computes, one would like to and comes last, one sleeps."""
    core, programs = min(os.sched_getaffinity(0)), ["while True: pass"] * 2 + ["import time; time.sleep(1000)"]
    started = [
        subprocess.Popen([sys.executable, "-c", f"print(flush=True)\n{one}"], stdout=subprocess.PIPE)
        for one in programs
    ]
    try:
        for one in started:
            one.stdout.readline()
            os.sched_setaffinity(one.pid, {core})
        os.sched_setscheduler(
            started[1].pid, os.SCHED_IDLE, os.sched_param(0)
        )  # below nice 19, which these tests may have
        before, began = [meter.waited_s(one.pid) for one in started], time.monotonic()
        while meter.waited_s(started[1].pid) - before[1] < 0.4:
            assert time.monotonic() - began < 60, "it waits, and the kernel does not say so"
            time.sleep(0.05)
        shares = [
            (meter.waited_s(one.pid) - first) / (time.monotonic() - began)
            for one, first in zip(started, before, strict=True)
        ]
    finally:
        for one in started:
            one.kill()
            one.communicate()
    assert shares[1] > max(0.5, shares[0])
    assert shares[2] < 0.1


def test_what_waited_counts_where_it_was_nearly_all_and_the_rest_is_within_the_limit():
    assert starved(60.0, 54.5, limit_s=6.0)
    assert not starved(60.0, 53.5, limit_s=6.0)  # 6.5 s on a machine of its own
    assert not starved(2.0, 1.7, limit_s=6.0)  # a limit of the wall below that of the time spent
    assert not starved(60.0, 0.0, limit_s=400.0)


def test_giving_a_turn_away_does_nothing(slot):
    number = seccomp.SYSCALLS[seccomp.architecture()]["sched_yield"]
    given = seccomp.build_filter(seccomp.architecture(), seccomp.Grant(), pid=1)
    rules = list(struct.iter_unpack("HBBI", given))
    at = next(place for place, (_, _, _, value) in enumerate(rules) if value == number and rules[place][0] == 0x15)
    assert rules[at + 1] == (0x06, 0, 0, 0x00050000)  # SECCOMP_RET_ERRNO of 0
    code = "import os\nfor _ in range(1000): os.sched_yield()\nprint(input())"
    assert judge(slot, code, "python", StdinTests([("1", "1")])).correct


def test_what_the_host_gives_to_others_is_no_sleep_and_is_read_of_the_processor_that_lost_most(tmp_path, monkeypatch):
    stat = tmp_path / "stat"
    stat.write_text("cpu 9 9 9 9 9 9 9 700 0 0\ncpu0 9 9 9 9 9 9 9 300 0 0\ncpu1 9 9 9 9 9 9 9 400 0 0\nintr 5 5\n")
    assert meter.stolen_s(str(stat)) == 400 / os.sysconf("SC_CLK_TCK")
    stat.write_text("cpu 9 9 9\ncpu0 9 9 9\n")
    assert meter.stolen_s(str(stat)) == meter.stolen_s(str(tmp_path / "none")) == 0.0
    sleeps = subprocess.Popen(["sleep", "60"])
    try:
        slept = []
        for stolen_s in (lambda: 0.0, time.monotonic):
            monkeypatch.setattr(meter, "stolen_s", stolen_s)
            one = Meter(os.pidfd_open(sleeps.pid), several=False)
            one.await_it()
            time.sleep(0.3)
            one.look(1.0)
            slept.append(one.spent_s)
            one.close()
    finally:
        sleeps.kill()
        sleeps.wait()
    assert slept[1] < 0.05 < 0.25 < slept[0]


def test_a_meter_without_a_process_counts_the_wall():
    clock = Clock(Meter(None, several=False), limit_s=0.2, wall_s=100.0, from_start=True)
    began = time.monotonic()
    while (wait := clock.next_wait()) > 0:
        time.sleep(wait)
    assert time.monotonic() - began >= 0.2


def test_limits_of_the_wall_follow_the_others_unless_they_are_given(monkeypatch):
    monkeypatch.undo()
    assert Limits(time_s=2.0, total_s=10.0).test_wall_s == 20.0
    assert Limits(time_s=2.0, total_s=10.0).answer_wall_s == 40.0
    assert (Limits(wall_s=3.0).test_wall_s, Limits(answer_s=5.0).answer_wall_s) == (3.0, 5.0)
    for wrong in ({"wall_s": 0.0}, {"answer_s": -1.0}, {"answer_s": float("nan")}):
        with pytest.raises(ValueError, match="limits of time"):
            Limits(**wrong)
