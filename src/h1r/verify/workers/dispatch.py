"""The thread that owns the worker processes: it hands them jobs, collects verdicts, and replaces what hangs or dies.

Callers of any thread, or of an event loop, submit batches of jobs and hold a future per job. Batches take turns, one
job each, so that a long batch does not stand before a short one.

A worker loads all verifiers that were asked for so far, gives up its rights, and only then is handed answers, one at a
time: each is graded by a fork of the worker (`worker`), whose socket this thread made and reads. A job over its time
limit (`clock`), one whose process dies and one that is given up cost that process and nothing else. A verifier that a
confined worker lacks is loaded by a fresh worker in its place, with the others; so one that comes late costs a worker
once. Verifiers that keep their rights (`confined=False`) or grade in the worker itself (`keeps_state`, or no safe fork)
have workers of their own, as many again; of the latter a job that hangs or dies takes the worker with it.

A worker that fails itself, and a process that the machine ended for want of memory, cost a job one more try, and then
the verdict is "unscored".
"""

from __future__ import annotations

import contextlib
import os
import queue
import select
import selectors
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from h1r.errors import UserError
from h1r.records import Reason, Verdict
from h1r.verify.registry import Verifier
from h1r.verify.workers.clock import wall_limit_s
from h1r.verify.workers.frames import checked_verdict
from h1r.verify.workers.handles import START_LIMIT_S, Grading, Job, Kind, Worker, kind_of, origin_of
from h1r.verify.workers.isolation import AUTO, LEVEL_VARIABLE, WorkerIsolation, note_level

OWN_END_S = 0.2
"""Seconds for a process without a verdict to end by itself, so that it shows how."""
_MIN_CHECK_S = 0.02


class Dispatcher:
    """At most `count` jobs at once, each within `time_limit_s` seconds (`clock`), or its verifier's own fewer."""

    def __init__(self, count: int, time_limit_s: float, memory_limit_bytes: int) -> None:
        self._count = count
        self._time_limit_s = time_limit_s
        self._memory_limit_bytes = memory_limit_bytes
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._wake_receiver, self._wake_sender = socket.socketpair()
        self._wake_receiver.setblocking(False)
        self._wake_sender.setblocking(False)
        self._batches: deque[deque[Job]] = deque()
        self._workers: list[Worker] = []
        self._known: dict[tuple[str, Kind], Verifier] = {}
        self._isolation = os.environ.get(LEVEL_VARIABLE) or AUTO
        self.isolation: WorkerIsolation | None = None
        self._sequence = 0
        self._closing = False
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wake_receiver, selectors.EVENT_READ, self._run_commands)
        self._thread = threading.Thread(target=self._main, name="h1r-verify", daemon=True)
        self._thread.start()

    def submit(self, jobs: Iterable[Job]) -> None:
        """Queues a batch; each job's future gets its verdict, or the exception that is the caller's mistake."""
        batch = deque(jobs)
        self._call(lambda: self._queue(batch))

    def cancel(self, jobs: Iterable[Job]) -> None:
        """Drops jobs that have not begun, and ends those that have."""
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
            self._wake_sender.send(b"!")

    def _queue(self, batch: deque[Job]) -> None:
        self._batches.append(batch)
        for job in batch:
            self._known.setdefault(_key(job.verifier), job.verifier)

    def _stop(self) -> None:
        self._closing = True

    def _abandon(self, jobs: set[Job]) -> None:
        for worker in [worker for worker in self._workers if worker.job in jobs]:
            assert worker.job is not None
            worker.job.future.set_exception(RuntimeError("the answer was given up"))
            self._free(worker)

    def _main(self) -> None:
        try:
            while not self._closing:
                self._assign()
                self._collect()
        finally:
            self._closing = True
            self._run_commands()
            for worker in list(self._workers):
                if worker.job:
                    worker.job.future.set_exception(RuntimeError("the verifier pool was closed"))
                self._drop(worker)
            for batch in self._batches:
                for job in batch:
                    job.future.cancel()
            self._selector.close()
            self._wake_receiver.close()

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
            try:
                worker = self._free_worker(job)
            except OSError as error:  # the machine is out of processes, memory or files
                why = f"no process for a worker: {error}"
                job.future.set_result(Verdict(0.0, error=why, reason="unscored"))
                continue
            worker.job = job
            self._send(worker)

    def _free_worker(self, job: Job) -> Worker:
        """A worker for the job: the one that has loaded most of what is needed, else a fresh one."""
        for worker in self._workers:
            if worker.job is None and not worker.ending and worker.is_ready(job.verifier):
                return worker
        kind = kind_of(job.verifier)
        free = [worker for worker in self._workers if worker.kind == kind and not worker.job and not worker.ending]
        able = [worker for worker in free if worker.can_take(job.verifier)]
        if able:
            return min(able, key=lambda worker: worker.loading is not None)
        if free:
            self._drop(free[0])
        return self._start(kind)

    def _send(self, worker: Worker) -> None:
        """Sends the worker its job, or first the order to import what is missing, unless it is importing now."""
        job = worker.job
        if worker.loading is not None:
            return
        if job and worker.is_ready(job.verifier):
            self._grade(worker, job)
            return
        missing = self._missing(worker)
        if job and not missing and worker.kind.confined and not worker.closed:
            missing = [job.verifier]  # nothing is graded before the rights are gone, whatever else failed to load
        if missing:
            worker.load(missing[0], seal=worker.kind.confined and len(missing) == 1)
        elif job:
            self._grade(worker, job)

    def _missing(self, worker: Worker) -> list[Verifier]:
        """What the worker has to load: for its job, and while it can, for those that may come."""
        known = [] if worker.closed else [item for item in self._known.values() if kind_of(item) == worker.kind]
        wanted = {item.grade: item for item in (*known, *([worker.job.verifier] if worker.job else []))}
        return [item for item in wanted.values() if item.grade not in worker.loaded]

    def _grade(self, worker: Worker, job: Job) -> None:
        self._sequence += 1
        limit_s = min(self._time_limit_s, job.verifier.time_limit_s or self._time_limit_s)
        try:
            grading = Grading(self._sequence, job, limit_s)
        except (TypeError, ValueError) as error:  # metadata that is no JSON
            worker.job = None
            job.future.set_exception(UserError(f"problem `{job.problem.id}` cannot be written as JSON: {error}"))
            return
        events = selectors.EVENT_READ | selectors.EVENT_WRITE
        self._selector.register(grading.connection, events, lambda: self._talk(worker, grading))
        worker.grade(grading)

    def _collect(self) -> None:
        """Waits for the first event and deals with all that are due."""
        now = time.monotonic()
        moments = [self._next_check(worker, now) for worker in self._workers if worker.is_busy]
        for key, _ in self._selector.select(max(min(moments) - now, 0.0) if moments else None):
            now_there = self._selector.get_map().get(key.fd)
            if now_there and now_there.fileobj is key.fileobj:  # an event before this one may have ended it
                key.data()
        for worker in [worker for worker in self._workers if worker.is_busy]:
            self._check(worker)

    def _next_check(self, worker: Worker, now: float) -> float:
        """When the worker can be over a limit at the earliest, threads apart."""
        grading = worker.grading
        if grading is None or grading.meter is None:
            return worker.deadline
        left = min(grading.limit_s - grading.meter.charged(), wall_limit_s(grading.limit_s) - grading.meter.wall_s)
        return now + max(left, _MIN_CHECK_S)

    def _check(self, worker: Worker) -> None:
        """Ends what is over a limit: an answer that of its processor time, or of wall time; a worker its deadline."""
        grading = worker.grading
        if grading is None or grading.meter is None:
            if worker.deadline <= time.monotonic():
                self._fail(worker, f"no sign of life in {START_LIMIT_S:g} s")
            return
        wall_s, why = wall_limit_s(grading.limit_s), ""
        reason: Reason = "time"
        if grading.meter.charged() >= grading.limit_s:
            why = _over(grading.limit_s)
        elif grading.meter.wall_s >= wall_s:
            why = f"time limit of {wall_s:g} s of wall time exceeded"
            if grading.meter.is_starved(grading.limit_s):
                why, reason = f"no verdict: the machine had no processor for it in {wall_s:g} s", "unscored"
        if not why:
            return
        if select.select([grading.connection], [], [], 0)[0]:  # this thread is what came late
            self._talk(worker, grading)
        if worker.grading is grading:
            self._settle(worker, Verdict(0.0, error=why, reason=reason))

    def _run_commands(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._wake_receiver.recv(4096):
                pass
        while True:
            try:
                self._commands.get_nowait()()
            except queue.Empty:
                return

    def _talk(self, worker: Worker, grading: Grading) -> None:
        """Sends an answer's process what is left to send, and reads what it says: one verdict, and then the end."""
        try:
            if not grading.is_sent:
                grading.send()
                if grading.is_sent:
                    grading.start()
                    data = self._selector.get_key(grading.connection).data
                    self._selector.modify(grading.connection, selectors.EVENT_READ, data)
            with contextlib.suppress(BlockingIOError):
                grading.replies.read()
            reply = grading.replies.next()
            if reply is not None:
                self._settle(worker, checked_verdict(reply.get("verdict")), is_whole=True)
        except (OSError, EOFError):
            if not worker.kind.forks:
                self._fail(worker, "it died")
                return
            self._selector.unregister(grading.connection)
            worker.ending = worker.end(OWN_END_S)
        except (ValueError, RecursionError) as error:
            self._settle(worker, Verdict(0.0, error=f"worker died: no reply but {error}"[:300], reason="crash"))

    def _settle(self, worker: Worker, verdict: Verdict, is_whole: bool = False) -> None:
        """The verdict on the answer at hand; its process has nothing more to say, and the worker is free."""
        assert worker.job is not None
        worker.job.future.set_result(verdict)
        worker.served += 1
        self._free(worker, is_whole)

    def _free(self, worker: Worker, is_whole: bool = False) -> None:
        """Takes the worker its job; one that grades by itself survives that only if it `is_whole`."""
        worker.job = None
        if worker.grading:
            self._selector.unregister(worker.grading.connection)
            worker.end()
            if not worker.kind.forks and not is_whole:
                self._drop(worker)

    def _receive(self, worker: Worker) -> None:
        """What the worker itself says: it has loaded something, begun an answer's process, or ended one."""
        try:
            worker.replies.read()
            while worker in self._workers and (reply := worker.replies.next()) is not None:
                if worker.loading:
                    self._loaded(worker, reply)
                elif worker.grading and reply.get("id") == worker.grading.number:
                    self._begun(worker, worker.grading, reply)
                elif worker.ending and reply.get("id") == worker.ending.number and "status" in reply:
                    self._ended(worker, worker.ending, reply)
        except (OSError, EOFError, ValueError, RecursionError):
            self._fail(worker, "it died")

    def _begun(self, worker: Worker, grading: Grading, reply: dict[str, Any]) -> None:
        if "pid" in reply:
            grading.pid = int(reply["pid"])
            grading.start()
        else:
            self._fail(worker, str(reply.get("failed")))

    def _ended(self, worker: Worker, grading: Grading, reply: dict[str, Any]) -> None:
        """Why an answer's process ended without a verdict."""
        worker.ending = None
        status = int(reply["status"])
        ended_by = signal.Signals(os.WTERMSIG(status)) if os.WIFSIGNALED(status) else None
        if reply["processor_s"] >= grading.limit_s:
            self._give(worker, Verdict(0.0, error=_over(grading.limit_s), reason="time"))
        elif ended_by == signal.SIGKILL and not reply["killed"]:
            self._again_or(worker, "the machine ended the answer's process; it may be short of memory")
        else:
            how = (
                "its connection was closed" if reply["killed"] else ended_by.name if ended_by else f"exit {status >> 8}"
            )
            self._give(worker, Verdict(0.0, error=f"worker died ({how})", reason="crash"))

    def _give(self, worker: Worker, verdict: Verdict) -> None:
        if worker.job:
            worker.job.future.set_result(verdict)
            worker.job = None
        worker.served += 1

    def _loaded(self, worker: Worker, reply: dict[str, Any]) -> None:
        verifier, worker.loading = worker.loading, None
        assert verifier is not None
        assert verifier.grade is not None
        if "error" not in reply:
            worker.loaded.add(verifier.grade)
            worker.origins.add(origin_of(verifier))
            if reply.get("isolation") and not worker.served:  # one that grades by itself may lie afterwards
                self._tell(*reply["isolation"])
            self._send(worker)
            return
        worker.closed = False
        self._known.pop(_key(verifier), None)
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

    def _fail(self, worker: Worker, why: str) -> None:
        """Replaces a worker that has failed. Its job gets another try if that may not be the answer's doing."""
        job, loading, served, forks = worker.job, worker.loading, worker.served, worker.kind.forks
        self._drop(worker)
        if loading and not (job and loading.grade == job.verifier.grade):
            self._known.pop(_key(loading), None)
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
        elif not job.retried and (forks or served):
            self._try_again(job)
        else:
            reason: Reason = "unscored" if forks else "crash"
            job.future.set_result(Verdict(0.0, error=f"worker died ({why})", reason=reason))

    def _again_or(self, worker: Worker, why: str) -> None:
        job, worker.job = worker.job, None
        if job and job.retried:
            job.future.set_result(Verdict(0.0, error=why, reason="unscored"))
        elif job:
            self._try_again(job)

    def _try_again(self, job: Job) -> None:
        job.retried = True
        self._batches.appendleft(deque((job,)))

    def _drop(self, worker: Worker) -> None:
        if worker.grading:
            self._selector.unregister(worker.grading.connection)
        self._selector.unregister(worker.connection)
        worker.kill()
        self._workers.remove(worker)

    def _start(self, kind: Kind) -> Worker:
        worker = Worker(kind, self._isolation, self._memory_limit_bytes)
        self._selector.register(worker.connection, selectors.EVENT_READ, lambda: self._receive(worker))
        self._workers.append(worker)
        return worker


def _key(verifier: Verifier) -> tuple[str, Kind]:
    return str(verifier.grade), kind_of(verifier)


def _over(limit_s: float) -> str:
    return f"time limit of {limit_s:g} s exceeded"
