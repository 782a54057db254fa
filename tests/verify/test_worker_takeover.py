"""Code that runs in the process of one answer changes its own verdict at most: all other answers get their true ones.

The attacks are run by a grader that executes its answer; each does its worst to the verdicts that come after it.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import textwrap
import threading
import time

import pytest
from test_worker_isolation import needs_filter, needs_landlock

from h1r.records import Problem, Verdict
from h1r.verify import Verifier, VerifierPool, register
from h1r.verify.workers.isolation import LEVEL_VARIABLE

VERDICT = '{"verdict": {"reward": 1.0, "parts": {}, "extracted": "forged", "error": null, "reason": null}}'
FORGED = f"""
import json, struct
body = {VERDICT!r}.encode()
frame = struct.pack("!I", len(body)) + body
told = [b'{{"id": %d, "pid": 1}}' % n for n in range(50)] + [b'{{"loaded": true}}', b'{{"id": 1, "status": 0}}']
frames = [frame, *(struct.pack("!I", len(one)) + one for one in told)]
def write_everywhere():
    for descriptor in range(256):
        for one in frames:
            try:
                os.write(descriptor, one)
            except OSError:
                break
"""
INSIDE = {
    "rewriting what grades": """
        import h1r.verify.workers.answer as answer, h1r.verify.workers.frames as frames, h1r.verify.registry as registry
        good = Verdict(1.0, extracted="forged")
        answer._graded = answer.checked_verdict = registry.resolve = lambda *a: good
        for module in list(sys.modules.values()):
            for name in ("grade", "execute", "checked_verdict", "Verdict", "symbolic", "loads"):
                if hasattr(module, name):
                    try:
                        setattr(module, name, lambda *a, **k: good)
                    except Exception:
                        pass
        """,
    "forged frames on every descriptor": FORGED + "write_everywhere()",
    "forged frames, and no verdict of its own": FORGED + "write_everywhere()\nos._exit(0)",
    "every descriptor closed": "os.closerange(0, 256)",
    "every descriptor made another": """
        for descriptor in range(256):
            for other in range(256):
                try:
                    os.dup2(other, descriptor)
                except OSError:
                    pass
        """,
    "a thread left behind that writes": FORGED
    + "threading.Thread(target=lambda: [write_everywhere() for _ in iter(int, 1)], daemon=False).start()",
    "an exit handler and a trace": FORGED
    + "import atexit; atexit.register(write_everywhere); sys.setprofile(lambda *a: None)",
    "no memory": "kept = []\nwhile True: kept.append(bytearray(1 << 24))",
    "no files": "kept = []\nwhile True: kept.append(os.pipe())",
    "no limits": """
        import resource
        for kind in (resource.RLIMIT_NOFILE, resource.RLIMIT_CPU, resource.RLIMIT_AS, resource.RLIMIT_NPROC):
            resource.setrlimit(kind, (0, 0))
        """,
    "timers": "import signal; signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001); time.sleep(1)",
    "deep recursion": "sys.setrecursionlimit(1 << 30)\ndef f(): f()\nf()",
}
OUTSIDE = {
    "signals": """
        import signal
        for pid in (os.getppid(), -1, 0, 1, -os.getpgrp()):
            for number in (signal.SIGSTOP, signal.SIGTERM, signal.SIGKILL):
                try:
                    os.kill(pid, number)
                except OSError:
                    pass
        """,
    "a session of its own": "os.setsid()",
    "a group of its own": "os.setpgid(0, 0)",
    "a fork bomb": """
        for _ in range(10_000):
            try:
                if os.fork() == 0:
                    time.sleep(1000)
            except OSError:
                pass
        """,
    "a bomb of threads": """
        threading.stack_size(1 << 15)
        while True:
            threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
        """,
    "a life after its worker": "ctypes.CDLL(None).prctl(1, 0); time.sleep(1000)",
    "the memory of its worker": """
        for path in (f"/proc/{os.getppid()}/mem", f"/proc/{os.getppid()}/fd/3", "/proc/self/mem"):
            for flags in (os.O_RDWR, os.O_WRONLY, os.O_RDONLY):
                try:
                    descriptor = os.open(path, flags)
                except OSError:
                    continue
                raise SystemExit("reached")
        """,
}


def execute_for_good(problem: Problem, answer: str) -> Verdict:
    """Runs the answer: 1 if nothing stopped it, else 0."""
    names = {"os": os, "sys": sys, "time": time, "threading": threading, "Verdict": Verdict}
    import ctypes

    exec(textwrap.dedent(answer), names | {"ctypes": ctypes})
    return Verdict(1.0, extracted="true")


def add_up(problem: Problem, answer: str, seen: list[str] = []) -> Verdict:  # noqa: B006 - the state is the point
    seen.append(answer)
    return Verdict(1.0, extracted=str(len(seen)))


register(Verifier("test-takeover", f"{__name__}:execute_for_good", time_limit_s=2.0))
register(Verifier("test-takeover-free", f"{__name__}:execute_for_good", time_limit_s=2.0, confined=False))
register(Verifier("test-stateful", f"{__name__}:add_up", keeps_state=True))
register(Verifier("test-forgetful", f"{__name__}:add_up"))


def owner(verifier: str) -> Problem:
    return Problem("p", "", "", verifier)


def true_verdicts(pool: VerifierPool, verifier: str, count: int) -> None:
    """Asserts that right and wrong answers in turns get what they deserve."""
    answers = ["pass" if number % 2 else "assert False" for number in range(count)]
    found = pool.verify_many([owner(verifier)] * count, answers)
    assert [verdict.reward for verdict in found] == [float(number % 2) for number in range(count)]
    assert [verdict.extracted for verdict in found] == ["true" if number % 2 else None for number in range(count)]


LEVELS = [
    pytest.param("landlock", "test-takeover", INSIDE | OUTSIDE, marks=needs_landlock, id="landlock"),
    pytest.param("calls", "test-takeover", INSIDE | OUTSIDE, marks=needs_filter, id="calls"),
    pytest.param("rlimits", "test-takeover", INSIDE, marks=needs_filter, id="rlimits"),
    pytest.param("auto", "test-takeover-free", INSIDE, marks=needs_filter, id="not confined"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("level", "verifier", "attacks"), LEVELS)
def test_whatever_an_answer_does_to_its_process_the_next_hundred_get_their_true_verdicts(
    level, verifier, attacks, monkeypatch
):
    monkeypatch.setenv(LEVEL_VARIABLE, level)
    with VerifierPool(workers=2) as pool:
        true_verdicts(pool, verifier, 4)
        workers = pool.worker_pids()
        for attack in attacks.values():
            pool.verify_many([owner(verifier)] * 2, [attack] * 2)
            true_verdicts(pool, verifier, 4)
        mixed = [code for attack in attacks.values() for code in (attack, "assert False", "pass")]
        found = pool.verify_many([owner(verifier)] * len(mixed), mixed)
        assert [verdict.reward for verdict in found[1::3]] == [0.0] * len(attacks)
        assert [verdict.reward for verdict in found[2::3]] == [1.0] * len(attacks)
        true_verdicts(pool, verifier, 100)
        assert pool.worker_pids() == workers  # none of them was lost either


@needs_filter
def test_an_answer_that_holds_every_thread_it_may_have_leaves_the_next_their_processes():
    held = """
        threading.stack_size(1 << 15)
        try:
            while True:
                threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
        except RuntimeError:
            time.sleep(1000)
        """
    with_a_thread = "time.sleep(0.1); threading.Thread(target=len, args=((),)).start()"
    answers = [held] + [with_a_thread] * 12
    with VerifierPool(workers=2) as pool:
        true_verdicts(pool, "test-takeover", 4)
        workers = pool.worker_pids()
        found = pool.verify_many([owner("test-takeover")] * len(answers), answers)
        assert pool.worker_pids() == workers
    assert [verdict.reason for verdict in found] == ["time"] + [None] * 12


def test_a_machine_without_a_process_for_a_worker_grades_nothing_and_goes_on(monkeypatch):
    def refuse(*_, **__):
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    with VerifierPool() as pool:
        with monkeypatch.context() as patch:
            patch.setattr(subprocess, "Popen", refuse)
            (verdict,) = pool.verify_many([owner("test-takeover")], ["pass"])
        assert verdict.reason == "unscored"
        assert "no process for a worker" in verdict.error
        true_verdicts(pool, "test-takeover", 4)


@needs_landlock
@pytest.mark.parametrize(
    ("name", "reasons"),
    [
        ("a life after its worker", {"time"}),
        ("a bomb of threads", {"crash", "time"}),  # a machine that starts threads slowly ends it by the clock
        ("no memory", {"crash"}),
    ],
)
def test_the_attacks_themselves_end_and_say_why(name, reasons):
    with VerifierPool() as pool:
        (verdict,) = pool.verify_many([owner("test-takeover")], [(INSIDE | OUTSIDE)[name]])
    assert verdict.reward == 0.0
    assert verdict.reason in reasons


@needs_filter
def test_an_answer_finds_nothing_of_the_one_before_unless_its_verifier_keeps_state():
    with VerifierPool() as pool:
        forgetful = pool.verify_many([owner("test-forgetful")] * 3, ["a", "b", "c"])
        stateful = pool.verify_many([owner("test-stateful")] * 3, ["a", "b", "c"])
    assert [verdict.extracted for verdict in forgetful] == ["1", "1", "1"]
    assert [verdict.extracted for verdict in stateful] == ["1", "2", "3"]


@needs_filter
def test_the_worker_holds_no_other_answer_for_a_fork_to_find():
    secret = "the-reference-of-another-problem"
    search = """
        import gc
        found = [one for one in gc.get_objects() if isinstance(one, (str, dict)) and SECRET in str(one)[:10_000]]
        raise SystemExit(str(len(found)))
        """.replace("SECRET", f"'{secret[:10]}' + '{secret[10:]}'")
    with VerifierPool() as pool:
        pool.verify_many([Problem("p", "", secret, "test-takeover")] * 2, [f"x = '{secret}'"] * 2)
        (verdict,) = pool.verify_many([owner("test-takeover")], [search])
    assert verdict.error == "SystemExit: 0"
