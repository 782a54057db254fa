"""The thread that owns the worker processes: it hands them jobs, collects verdicts, and replaces what hangs or dies.

Callers of any thread, or of an event loop, submit batches of jobs and hold a future per job. Batches take turns, one
job each, so that a long batch does not stand before a short one. A job over its time limit costs its worker, and only
that: when a job has taken SUSPICION of its limit a spare worker is started, so that the replacement is usually ready
before the limit is reached.

A worker loads all verifiers that were asked for so far, gives up its rights, and only then sees an answer. A verifier
that it lacks is loaded by a fresh worker in its place, with the others; so one that comes late costs a worker once.
Verifiers that keep their rights (`confined=False`) have workers of their own, as many again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import queue
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from h1r.errors import UserError
from h1r.records import Reason, Verdict
from h1r.verify.registry import Verifier
from h1r.verify.workers.child import LOAD_LIMIT_S, Child, Job, origin_of, start_child
from h1r.verify.workers.isolation import AUTO, LEVEL_VARIABLE, WorkerIsolation, note_level
from h1r.verify.workers.worker import checked_verdict, send_frame

SUSPICION = 0.1
SEND_LIMIT_S = 5.0


class Dispatcher:
    """At most `count` jobs at once, each within `time_limit_s` seconds of wall time (or its verifier's own fewer)."""

    def __init__(self, count: int, time_limit_s: float, memory_limit_bytes: int) -> None:
        self._count = count
        self._time_limit_s = time_limit_s
        self._memory_limit_bytes = memory_limit_bytes
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._ears, self._bell = socket.socketpair()
        self._ears.setblocking(False)
        self._bell.setblocking(False)
        self._batches: deque[deque[Job]] = deque()
        self._workers: list[Child] = []
        self._known: dict[tuple[str, bool], Verifier] = {}
        self._isolation = os.environ.get(LEVEL_VARIABLE) or AUTO
        self.isolation: WorkerIsolation | None = None
        self._sequence = 0
        self._closing = False
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._ears, selectors.EVENT_READ, None)
        self._thread = threading.Thread(target=self._main, name="h1r-verify", daemon=True)
        self._thread.start()

    def submit(self, jobs: Iterable[Job]) -> None:
        """Queues a batch; each job's future gets its verdict, or the exception that is the caller's mistake."""
        batch = deque(jobs)
        self._call(lambda: self._queue(batch))

    def cancel(self, jobs: Iterable[Job]) -> None:
        """Drops jobs that have not begun, and ends the workers of those that have."""
        unwanted = set(jobs)
        for job in unwanted:
            job.future.cancel()
        self._call(lambda: self._abandon(unwanted))

    def close(self) -> None:
        """Ends the workers and the thread; jobs without a verdict are cancelled."""
        if self._thread.is_alive():
            self._call(self._stop)
            self._thread.join()

    def pids(self) -> list[int]:
        """The process ids of the workers there are now."""
        return [worker.process.pid for worker in list(self._workers)]

    def _call(self, command: Callable[[], None]) -> None:
        if not self._thread.is_alive():
            raise RuntimeError("the verifier pool has ended; make another")
        self._commands.put(command)
        with contextlib.suppress(BlockingIOError):  # full: the thread has enough to wake up for
            self._bell.send(b"!")

    def _queue(self, batch: deque[Job]) -> None:
        self._batches.append(batch)
        for job in batch:
            self._known.setdefault((str(job.verifier.grade), job.verifier.confined), job.verifier)

    def _stop(self) -> None:
        self._closing = True

    def _abandon(self, jobs: set[Job]) -> None:
        for worker in [worker for worker in self._workers if worker.job in jobs]:
            assert worker.job is not None
            worker.job.future.set_exception(RuntimeError("the answer was given up"))
            self._drop(worker)

    def _main(self) -> None:
        try:
            while not self._closing:
                self._assign()
                self._collect()
        finally:
            self._closing = True
            self._listen()
            for worker in list(self._workers):
                if worker.job:
                    worker.job.future.set_exception(RuntimeError("the verifier pool was closed"))
                self._drop(worker)
            for batch in self._batches:
                for job in batch:
                    job.future.cancel()
            self._selector.close()
            self._ears.close()

    def _next_job(self) -> Job | None:
        """The next job that is still wanted: batches take turns."""
        while self._batches:
            batch = self._batches.popleft()
            while batch:
                job = batch.popleft()
                if job.retried or job.future.set_running_or_notify_cancel():
                    if batch:
                        self._batches.append(batch)
                    return job
        return None

    def _assign(self) -> None:
        while sum(worker.job is not None for worker in self._workers) < self._count:
            job = self._next_job()
            if job is None:
                return
            worker = self._free_worker(job)
            worker.job = job
            self._send(worker)

    def _of_kind(self, verifier: Verifier) -> list[Child]:
        return [worker for worker in self._workers if worker.confined == verifier.confined]

    def _free_worker(self, job: Job) -> Child:
        """A worker for the job: a fresh one for a second try, else the one that has loaded most of what is needed."""
        if not job.retried:
            for worker in self._workers:
                if worker.job is None and worker.is_ready(job.verifier):
                    return worker
        free = [worker for worker in self._of_kind(job.verifier) if worker.job is None]
        able = [worker for worker in free if worker.can_take(job.verifier) and not (job.retried and worker.served)]
        if able:
            return min(able, key=lambda worker: (not worker.is_ready(job.verifier), worker.loading is not None))
        if free:
            self._drop(free[0])
        return self._start(job.verifier.confined)

    def _send(self, worker: Child) -> None:
        """Sends the worker its job, or first the order to import what is missing, unless it is importing now."""
        job = worker.job
        if worker.loading is not None:
            return
        if job and worker.is_ready(job.verifier):
            self._grade(worker, job)
            return
        missing = self._missing(worker)
        if job and not missing and worker.confined and not worker.closed:
            missing = [job.verifier]  # nothing is graded before the rights are gone, whatever else failed to load
        if missing:
            self._load(worker, missing[0], seal=worker.confined and len(missing) == 1)
        elif job:
            self._grade(worker, job)

    def _missing(self, worker: Child) -> list[Verifier]:
        """What the worker has to load: for its job, and while it can, for those that may come."""
        known = [] if worker.closed else [item for item in self._known.values() if item.confined == worker.confined]
        wanted = {item.grade: item for item in (*known, *([worker.job.verifier] if worker.job else []))}
        return [item for item in wanted.values() if item.grade not in worker.loaded]

    def _grade(self, worker: Child, job: Job) -> None:
        self._sequence += 1
        worker.request = self._sequence
        problem = {item.name: getattr(job.problem, item.name) for item in dataclasses.fields(job.problem)}
        message = {"id": worker.request, "grade": job.verifier.grade, "problem": problem, "answer": job.answer}
        worker.limit_s = self._limit(job.verifier)
        self._write(worker, message | {"time_limit_s": worker.limit_s}, worker.limit_s)

    def _limit(self, verifier: Verifier) -> float:
        return min(self._time_limit_s, verifier.time_limit_s or self._time_limit_s)

    def _load(self, worker: Child, verifier: Verifier, seal: bool) -> None:
        worker.loading, worker.limit_s, worker.closed = verifier, LOAD_LIMIT_S, worker.closed or seal
        self._write(worker, {"load": verifier.grade, "warm": verifier.warm, "seal": seal}, LOAD_LIMIT_S)

    def _write(self, worker: Child, message: dict[str, Any], limit_s: float) -> None:
        worker.started = time.monotonic()
        worker.deadline = worker.started + limit_s
        worker.connection.settimeout(SEND_LIMIT_S)
        try:
            send_frame(worker.connection, message)
        except OSError:
            worker.deadline = 0.0  # dead or deaf: the collector reads its end of file, or lets it time out
        except (TypeError, ValueError) as error:  # metadata that is no JSON
            job, worker.job = worker.job, None
            if job:
                job.future.set_exception(UserError(f"problem `{job.problem.id}` cannot be written as JSON: {error}"))

    def _collect(self) -> None:
        """Waits for the first event and deals with all that are due."""
        busy = [worker for worker in self._workers if worker.job or worker.loading]
        moments = [worker.deadline for worker in busy]
        for worker in busy:
            if worker.job and not worker.loading and self._lacks_spare(worker.job):
                moments.append(worker.started + SUSPICION * worker.limit_s)
        now = time.monotonic()
        wait = max(min(moments) - now, 0.0) if moments else None
        for key, _ in self._selector.select(wait):
            if key.data is None:
                self._listen()
            elif key.data in self._workers:
                self._receive(key.data)
        now = time.monotonic()
        for worker in busy:
            if worker in self._workers and (worker.job or worker.loading) and worker.deadline <= now:
                self._fail(worker, f"time limit of {worker.limit_s:g} s exceeded", retry=False, reason="time")
            elif worker.job and not worker.loading and now - worker.started >= SUSPICION * worker.limit_s:
                self._provide_spare(worker.job)

    def _listen(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._ears.recv(4096):
                pass
        while True:
            try:
                self._commands.get_nowait()()
            except queue.Empty:
                return

    def _lacks_spare(self, job: Job) -> bool:
        return len(self._workers) <= self._count or len(self._of_kind(job.verifier)) <= self._count

    def _provide_spare(self, job: Job) -> None:
        if self._lacks_spare(job):
            self._send(self._start(job.verifier.confined))

    def _receive(self, worker: Child) -> None:
        job = worker.job
        try:
            reply = worker.replies.take()
            if reply is None:
                return
            if worker.loading:
                self._loaded(worker, reply)
                return
            verdict = checked_verdict(reply.get("verdict"))
            if job is None or reply.get("id") != worker.request:
                raise ValueError("a reply to another request")
        except (OSError, EOFError, ValueError, RecursionError):
            self._fail(worker, "worker died", retry=True)
            return
        if reply.get("exhausted"):
            self._fail(worker, verdict.error or "the answer left too few files to open", retry=True)
            return
        worker.job = None
        worker.served += 1
        job.future.set_result(verdict)

    def _loaded(self, worker: Child, reply: dict[str, Any]) -> None:
        verifier, worker.loading = worker.loading, None
        assert verifier is not None
        assert verifier.grade is not None
        key = (verifier.grade, verifier.confined)
        if "error" not in reply:
            worker.loaded.add(verifier.grade)
            worker.origins.add(origin_of(verifier))
            if reply.get("isolation") and not worker.served:  # afterwards it may lie
                self._tell(*reply["isolation"])
            self._send(worker)
            return
        worker.closed = False
        self._known.pop(key, None)
        if worker.job and worker.job.verifier.grade == verifier.grade:
            job, worker.job = worker.job, None
            why = f"verifier `{verifier.name}` cannot be loaded ({reply['error']}); install what it needs"
            job.future.set_exception(UserError(str(reply.get("refused") or why)))
        if "refused" in reply or worker.served:
            self._drop(worker)
        else:
            self._send(worker)

    def _tell(self, name: str, why: str) -> None:
        """Notes once what confines the workers, or the weakest of them."""
        level, order = WorkerIsolation(name), list(WorkerIsolation)
        if self.isolation is None or order.index(level) < order.index(self.isolation):
            self.isolation = level
            note_level(level, why)

    def _fail(self, worker: Child, why: str, retry: bool, reason: Reason = "crash") -> None:
        """Replaces the worker; its job gets reward 0, or another try when this worker was not fresh."""
        job, loading, served = worker.job, worker.loading, worker.served
        self._drop(worker)
        if loading and not (job and loading.grade == job.verifier.grade):
            self._known.pop((str(loading.grade), loading.confined), None)
            if job:
                self._try_again(job)
        elif job is None:
            return
        elif loading:
            job.future.set_exception(
                RuntimeError(
                    f"a worker for verifier `{loading.name}` could not start or import it: {why}; "
                    "`python -c 'import h1r.verify.workers.worker'` may say more, or its memory limit is too low"
                )
            )
        elif retry and served and not job.retried:
            self._try_again(job)
        else:
            job.future.set_result(Verdict(0.0, error=why, reason=reason))

    def _try_again(self, job: Job) -> None:
        job.retried = True
        self._batches.appendleft(deque((job,)))

    def _drop(self, worker: Child) -> None:
        self._selector.unregister(worker.connection)
        worker.kill()
        self._workers.remove(worker)

    def _start(self, confined: bool) -> Child:
        worker = start_child(confined, self._isolation, self._memory_limit_bytes)
        self._selector.register(worker.connection, selectors.EVENT_READ, worker)
        self._workers.append(worker)
        return worker
