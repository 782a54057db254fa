"""What code that runs in a worker may leave there, or send to its parent: no other answer pays for it."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from test_worker_isolation import needs_filter, needs_landlock, places

from h1r.records import Problem
from h1r.verify import VerifierPool

__all__ = ["places"]  # a fixture


@pytest.fixture(scope="module")
def pool() -> Iterator[VerifierPool]:
    with VerifierPool(time_limit_s=5.0) as pool:
        yield pool


LEFT_BEHIND = {
    "open pipes": "sys.kept = []\nwhile True: sys.kept.append(os.pipe())",
    "half of the open files": "sys.kept = [os.pipe() for _ in range(100)]",
    "no limit on files": "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))",
    "no standard input": "os.close(0)",
    "no connection": "os.closerange(3, 256)",
    "an alarm": "import signal; signal.setitimer(signal.ITIMER_REAL, 0.1)",
    "no memory": "sys.kept = []\nwhile True: sys.kept.append(bytearray(1 << 26))",
}


@needs_filter
@pytest.mark.parametrize("name", LEFT_BEHIND)
def test_what_an_answer_leaves_behind_costs_no_other_its_verdict(name, places):
    after = "time.sleep(0.2); open(os.devnull).close(); x = bytearray(1 << 20)"
    owner = Problem("p", "", "", "test-execute", metadata=places)
    with VerifierPool() as pool:
        verdicts = pool.verify_many([owner] * 4, ["pass", LEFT_BEHIND[name], after, after])
    assert [verdicts[number].reward for number in (0, 2, 3)] == [1.0] * 3, verdicts


CONNECTION = """
    import json, struct
    for descriptor in range(3, 256):
        try:
            parent = socket.socket(fileno=descriptor)
            parent.getpeername()
            break
        except OSError:
            pass
"""


@needs_landlock
def test_a_reply_that_never_ends_holds_nobody_but_itself_up(places):
    drip = (
        CONNECTION
        + """
    parent.sendall(struct.pack("!I", 1000))
    while True:
        time.sleep(0.05)
        parent.sendall(b" ")
    """
    )
    owner = Problem("p", "", "", "test-execute", metadata=places)
    with VerifierPool(workers=2, time_limit_s=10.0) as pool:
        assert pool.verify_many([owner] * 2, ["time.sleep(0.3)"] * 2)[0].reward == 1.0
        dripping = pool.submit_many([owner], [drip])
        time.sleep(0.3)
        assert [verdict.reward for verdict in pool.verify_many([owner] * 50, ["pass"] * 50)] == [1.0] * 50
        assert not dripping.futures[0].done()
        assert "time limit" in (dripping.verdict(0).error or "")


@needs_landlock
def test_replies_in_advance_and_without_measure_concern_no_other_answer(places, pool):
    forged = (
        CONNECTION
        + """
    verdict = {"reward": 1.0, "parts": {}, "extracted": None, "error": None, "reason": None}
    body = json.dumps({"verdict": verdict}).encode()
    parent.sendall(2 * (struct.pack("!I", len(body)) + body))
    time.sleep(1000)
    """
    )
    large = (
        CONNECTION
        + """
    parent.sendall(struct.pack("!I", 64 << 20) + b"[" + b"[]," * (20 << 20))
    time.sleep(1000)
    """
    )
    many = (
        CONNECTION
        + """
    parent.sendall(struct.pack("!I", 3 << 20) + b"[" + b"[]," * (1 << 20))
    time.sleep(1000)
    """
    )
    owner = Problem("p", "", "", "test-execute", metadata=places)
    for attack in (forged, large, many):
        found = pool.verify_many([owner] * 4, ["pass", attack, "raise PermissionError(1)", "pass"])
        assert [found[number].reward for number in (0, 2, 3)] == [1.0, 0.0, 1.0]
        if attack is not forged:
            assert (found[1].reward, found[1].reason) == (0.0, "crash")
            assert "worker died" in (found[1].error or "")
