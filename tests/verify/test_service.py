"""One suite for both backends of the reward service: processes of this machine, and Ray actors."""

import asyncio
import os
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from h1r.config.verify import VerifySection
from h1r.errors import UserError
from h1r.records import Problem, Verdict
from h1r.verify import RewardService, Verifier, VerifierPool, open_backend, register
from h1r.verify.workers.ray_backend import RayBackend
from h1r.verify.workers.ray_cluster import RayCluster
from h1r.verify.workers.service import Backend
from machine import bound

LIMIT_S = 2.0
PATIENT_S = 20.0
"""The limit of an answer that is to hang until all others have their verdicts, however busy the machine is."""
BOUND_S = 50.0
"""Of wall time for one answer with LIMIT_S of processor time, on a busy machine; the limit of wall time comes later."""
BEHAVIOURS = {
    "sleep": lambda: time.sleep(1000),
    "hang": lambda: [None for _ in iter(int, 1)],
    "exit": lambda: os._exit(1),
    "memory": lambda: bytearray(1 << 40),
}


def misbehave(problem: Problem, answer: str) -> Verdict:
    BEHAVIOURS.get(answer.strip(), lambda: None)()
    return Verdict(1.0, extracted=answer)


def kill_the_actor(problem: Problem, answer: str) -> Verdict:
    """A defect of the cheap tier, which runs in the actor itself."""
    if answer == "exit":
        os._exit(1)
    return Verdict(1.0)


register(Verifier("test-service", grade=f"{__name__}:misbehave", time_limit_s=LIMIT_S))
register(Verifier("test-service-patient", grade=f"{__name__}:misbehave", time_limit_s=60.0))
register(Verifier("test-service-missing", grade="no_such_module:grade"))
register(Verifier("test-service-killer", grade=None, quick=f"{__name__}:kill_the_actor"))


def problem(verifier: str = "test-service", answer: str = "", **metadata: object) -> Problem:
    return Problem(id="p", question="", answer=answer, verifier=verifier, metadata=metadata)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    try:
        cluster = RayCluster(num_cpus=4, object_store_memory=80 << 20)
    except ImportError:
        pytest.skip("Ray is not installed")
    yield
    cluster.leave()


@pytest.fixture(scope="module", params=["processes", "ray"])
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    if request.param == "ray":
        request.getfixturevalue("cluster")
        found: Backend = RayBackend(actors=2, workers=1, time_limit_s=PATIENT_S)
    else:
        found = VerifierPool(workers=2, time_limit_s=PATIENT_S)
    found.verify_many([problem()] * 2, ["fine"] * 2)
    yield found
    found.close()


def test_verdicts_are_those_of_the_pool_in_order(backend):
    problems, texts = [], []
    for number in range(150):
        problems += [problem("math", answer=f"{number}/2"), problem("exact", answer="alice"), problem()]
        texts += [rf"<think>x</think>\boxed{{\frac{{{number}}}{{2}}}}", r"\boxed{bob}", f"answer {number}"]
    with VerifierPool() as pool:
        assert backend.verify_many(problems, texts) == pool.verify_many(problems, texts)


@pytest.mark.parametrize("behaviour", ["sleep", "hang", "exit", "memory"])
def test_an_answer_that_misbehaves_costs_its_own_verdict_and_nothing_is_lost(backend, behaviour):
    texts = [behaviour if number == 7 else f"{number}" for number in range(40)]
    start = time.monotonic()
    found = backend.verify_many([problem()] * 40, texts)
    assert [verdict.reward for verdict in found] == [0.0 if number == 7 else 1.0 for number in range(40)]
    assert found[7].error
    assert time.monotonic() - start < BOUND_S


def test_other_answers_do_not_wait_for_one_that_hangs(backend):
    batch = backend.submit_many([problem("test-service-patient")] * 60, ["sleep", *["fine"] * 59])
    assert [future.result().reward for future in batch.futures[1:]] == [1.0] * 59
    assert not batch.futures[0].done()
    batch.cancel()


def test_a_verifier_that_cannot_be_used_is_the_callers_mistake(backend):
    with pytest.raises(UserError, match="unknown verifier"):
        backend.submit_many([problem("mth")], ["x"])
    with pytest.raises(UserError, match="cannot be loaded"):
        backend.verify_many([problem("test-service-missing")], ["x"])
    with pytest.raises(ValueError, match="2 problems but 1 texts"):
        backend.submit_many([problem()] * 2, ["x"])


@pytest.mark.parametrize("unsendable", [object(), threading.Lock()])
def test_a_problem_that_cannot_be_sent_to_a_worker_is_the_callers_mistake(backend, unsendable):
    good, bad = backend.submit_many([problem(), problem(extra=unsendable)], ["x", "x"]).futures
    with pytest.raises(UserError, match="problem `p` cannot be"):
        bad.result()
    assert good.result().reward == 1.0


def test_the_loop_goes_on_while_many_tasks_ask_at_once(backend):
    async def run() -> tuple[list[float], int, float]:
        service = RewardService(backend)
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.02)
                ticks += 1

        ticking = asyncio.create_task(tick())
        texts = ["sleep" if number == 3 else "exit" if number == 7 else "fine" for number in range(20)]
        start = time.monotonic()
        found = await asyncio.gather(*(service.verify(problem(), text) for text in texts))
        ticking.cancel()
        return [verdict.reward for verdict in found], ticks, time.monotonic() - start

    rewards, ticks, seconds = asyncio.run(run())
    assert rewards == [0.0 if number in (3, 7) else 1.0 for number in range(20)]
    assert ticks > 10
    assert seconds < BOUND_S


def test_a_cancelled_task_gives_its_answers_up(backend):
    async def run() -> float:
        service = RewardService(backend)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(service.verify_many([problem()] * 60, ["sleep"] * 60), 0.3)
        start = time.monotonic()
        assert (await service.verify(problem(), "fine")).reward == 1.0
        return time.monotonic() - start

    assert asyncio.run(run()) < 10 * LIMIT_S  # sixty hung answers would take thirty times the limit


@pytest.mark.parametrize("kind", ["processes", "ray"])
def test_the_format_is_left_unread_where_nobody_asks(kind, request):
    if kind == "ray":
        request.getfixturevalue("cluster")
    with open_backend(VerifySection(backend=kind, workers=1), format_checks=False) as backend:
        found = backend.verify_many([problem("exact", answer="1"), problem()], [r"\boxed{1}", "fine"])
    assert [verdict.parts for verdict in found] == [{"correct": 1.0}] * 2


@pytest.mark.parametrize("kind", ["processes", "ray"])
def test_closing_leaves_no_one_waiting(kind, request):
    if kind == "ray":
        request.getfixturevalue("cluster")
    backend = open_backend(VerifySection(backend=kind, workers=1, time_limit_s=60.0))
    backend.verify_many([problem()], ["fine"])
    waiting = backend.submit_many([problem()] * 3, ["sleep"] * 3)
    time.sleep(0.2)
    backend.close()
    for future in waiting.futures:
        assert isinstance(future.exception() if not future.cancelled() else RuntimeError(), RuntimeError)


def test_an_actor_that_dies_loses_nothing_and_the_answer_that_killed_it_is_found(cluster):
    with RayBackend(actors=2, workers=1, cpus=0.1) as backend:
        texts = ["exit" if number == 20 else "fine" for number in range(100)]
        found = backend.verify_many([problem("test-service-killer")] * 100, texts)
    assert [verdict.reward for verdict in found] == [0.0 if number == 20 else 1.0 for number in range(100)]
    assert found[20].error == "the grading actor died"


def test_actors_that_find_no_room_are_a_users_mistake_in_bounded_time(cluster):
    start = time.monotonic()
    with pytest.raises(UserError, match="1 of 1 grading actors did not start"):
        RayBackend(actors=1, workers=1, cpus=1000, start_limit_s=1.0)
    assert time.monotonic() - start < bound(10)


def test_without_ray_the_user_reads_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install .open-h1r\[ray\]"):
        open_backend(VerifySection(backend="ray"))
