"""Verdicts on hostile output: every answer is graded where it can be killed, and costs only its own verdict.

    verdict.parts = {"correct": 0 or 1, "format": 0 or 1, ...}      verdict.reward = parts["correct"]

An answer over its time limit gets reward 0 and an error. An answer whose worker dies, or runs out of memory, is graded
once more by a fresh worker, so that no answer pays for what its predecessors left behind; then it gets reward 0 too.
"""

from __future__ import annotations

import atexit
import dataclasses
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from h1r.errors import UserError
from h1r.records import Problem, Verdict
from h1r.verify.extract import split_response
from h1r.verify.format import check_format
from h1r.verify.registry import Verifier, require, resolve
from h1r.verify.worker import checked_verdict, receive_frame, send_frame

MAX_ANSWER_CHARS = 1_000_000
LOAD_LIMIT_S = 120.0
"""Seconds a worker may take to start and to import a verifier; not charged to any answer."""

_BOOTSTRAP = (
    "import sys, json; arguments = json.loads(sys.argv[1]); sys.path[:] = arguments.pop(); "
    "from h1r.verify.worker import main; main(*arguments)"
)
_PASSED_ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "SYSTEMROOT")


@dataclass(slots=True)
class _Job:
    index: int
    verifier: Verifier
    problem: Problem
    answer: str
    retried: bool = False


@dataclass(slots=True)
class _Worker:
    """A child process and the job it has now."""

    process: subprocess.Popen[bytes]
    connection: socket.socket
    loaded: set[str] = field(default_factory=set)
    served: int = 0
    job: _Job | None = None
    loading: bool = False
    request: int = 0
    deadline: float = 0.0

    def kill(self) -> None:
        self.connection.close()
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            self.process.kill()
        self.process.wait()
        assert self.process.stdin is not None
        self.process.stdin.close()


class VerifierPool:
    """Grades answers in `workers` child processes, started when first needed. Usable from any thread, in turn.

    `time_limit_s` is the wall time of one answer, `memory_limit_bytes` the address space of a worker. Use it as a
    context manager, or call `close`; children also end when this process does, however it ends.
    """

    def __init__(self, workers: int = 1, time_limit_s: float = 5.0, memory_limit_bytes: int = 2 << 30) -> None:
        if workers < 1 or time_limit_s <= 0:
            raise ValueError("VerifierPool needs workers >= 1 and time_limit_s > 0")
        self._count = workers
        self._time_limit_s = time_limit_s
        self._memory_limit_bytes = memory_limit_bytes
        self._workers: list[_Worker] = []
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._sequence = 0

    def __enter__(self) -> VerifierPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the workers. The pool may be used again afterwards."""
        with self._lock:
            if os.getpid() == self._pid:
                for worker in self._workers:
                    worker.kill()
            self._workers.clear()

    def verify_many(self, problems: Sequence[Problem], texts: Sequence[str]) -> list[Verdict]:
        """One verdict per (problem, text), in order. Raises for the caller's mistakes only, never for a text.

        `UserError`: an unknown verifier, or one that cannot be imported. `ValueError`: lists of different length.
        """
        if len(problems) != len(texts):
            raise ValueError(f"{len(problems)} problems but {len(texts)} texts")
        verifiers = [require(problem.verifier) for problem in problems]
        verdicts: list[Verdict] = [Verdict(0.0, error="not graded")] * len(texts)
        jobs: deque[_Job] = deque()
        for index, (problem, verifier, text) in enumerate(zip(problems, verifiers, texts, strict=True)):
            answer = split_response(text).answer
            verdict = _decide_here(verifier, problem, answer)
            if verdict is not None:
                verdicts[index] = verdict
            elif answer is not None:
                jobs.append(_Job(index, verifier, problem, answer))
        if jobs:
            self._run(jobs, verdicts)
        return [_with_format(verdict, text) for verdict, text in zip(verdicts, texts, strict=True)]

    def _run(self, jobs: deque[_Job], verdicts: list[Verdict]) -> None:
        if os.getpid() != self._pid:
            raise RuntimeError("a VerifierPool does not work in a forked process; make one there")
        with self._lock:
            try:
                while jobs or any(worker.job for worker in self._workers):
                    self._assign(jobs)
                    self._collect(jobs, verdicts)
            except BaseException:
                for worker in [worker for worker in self._workers if worker.job]:
                    self._drop(worker)
                raise

    def _assign(self, jobs: deque[_Job]) -> None:
        while jobs:
            worker = next((worker for worker in self._workers if worker.job is None), None)
            if worker is not None and jobs[0].retried and worker.served:
                self._drop(worker)
                continue
            if worker is None:
                if len(self._workers) == self._count:
                    return
                worker = self._start()
            worker.job = jobs.popleft()
            self._send(worker)

    def _send(self, worker: _Worker) -> None:
        """Sends the worker its job, or first the order to import what the job needs."""
        job = worker.job
        assert job is not None
        assert job.verifier.grade is not None
        worker.loading = job.verifier.grade not in worker.loaded
        limit = LOAD_LIMIT_S if worker.loading else self._time_limit_s
        worker.deadline = time.monotonic() + limit
        if worker.loading:
            message: dict[str, Any] = {"load": job.verifier.grade, "warm": job.verifier.warm}
        else:
            self._sequence += 1
            worker.request = self._sequence
            problem = {item.name: getattr(job.problem, item.name) for item in dataclasses.fields(job.problem)}
            message = {"id": worker.request, "grade": job.verifier.grade, "problem": problem, "answer": job.answer}
        worker.connection.settimeout(limit)
        try:
            send_frame(worker.connection, message)
        except OSError:
            worker.deadline = 0.0  # dead or deaf: the collector reads its end of file, or lets it time out

    def _collect(self, jobs: deque[_Job], verdicts: list[Verdict]) -> None:
        """Waits for the first event among the busy workers and deals with all that are due."""
        busy = [worker for worker in self._workers if worker.job]
        with selectors.DefaultSelector() as selector:
            for worker in busy:
                selector.register(worker.connection, selectors.EVENT_READ, worker)
            wait = min(worker.deadline for worker in busy) - time.monotonic()
            ready = [key.data for key, _ in selector.select(max(wait, 0.0))]
        for worker in ready:
            self._receive(worker, jobs, verdicts)
        now = time.monotonic()
        for worker in busy:
            if worker not in ready and worker.job and worker.deadline <= now:
                self._fail(worker, jobs, verdicts, f"time limit of {self._time_limit_s:g} s exceeded", retry=False)

    def _receive(self, worker: _Worker, jobs: deque[_Job], verdicts: list[Verdict]) -> None:
        job = worker.job
        assert job is not None
        worker.connection.settimeout(max(worker.deadline - time.monotonic(), 0.01))
        try:
            reply = receive_frame(worker.connection)
            if worker.loading:
                self._loaded(worker, job, reply)
                return
            verdict = checked_verdict(reply.get("verdict"))
            if reply.get("id") != worker.request:
                raise ValueError("a reply to another request")
        except (OSError, EOFError, ValueError, RecursionError):
            self._fail(worker, jobs, verdicts, "worker died", retry=True)
            return
        if reply.get("exhausted"):
            self._fail(worker, jobs, verdicts, verdict.error or "MemoryError", retry=True)
            return
        verdicts[job.index] = verdict
        worker.job = None
        worker.served += 1

    def _loaded(self, worker: _Worker, job: _Job, reply: dict[str, Any]) -> None:
        if "error" in reply:
            raise UserError(
                f"verifier `{job.verifier.name}` cannot be loaded ({reply['error']}); install what it needs"
            )
        assert job.verifier.grade is not None
        worker.loaded.add(job.verifier.grade)
        self._send(worker)

    def _fail(self, worker: _Worker, jobs: deque[_Job], verdicts: list[Verdict], why: str, retry: bool) -> None:
        """Replaces the worker; its job gets reward 0, or another try when this worker was not fresh."""
        job, loading, served = worker.job, worker.loading, worker.served
        assert job is not None
        self._drop(worker)
        if loading:
            raise RuntimeError(
                f"a worker for verifier `{job.verifier.name}` could not start or import it: {why}; "
                "`python -c 'import h1r.verify.worker'` may say more, or its memory limit is too low"
            )
        if retry and served and not job.retried:
            jobs.appendleft(dataclasses.replace(job, retried=True))
        else:
            verdicts[job.index] = Verdict(0.0, error=why)

    def _drop(self, worker: _Worker) -> None:
        worker.kill()
        self._workers.remove(worker)

    def _start(self) -> _Worker:
        ours, theirs = socket.socketpair()
        arguments = json.dumps([theirs.fileno(), self._time_limit_s, self._memory_limit_bytes, sys.path])
        environment = {name: os.environ[name] for name in _PASSED_ENVIRONMENT if name in os.environ}
        environment |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-c", _BOOTSTRAP, arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=environment,
                start_new_session=True,
            )
        worker = _Worker(process, ours)
        self._workers.append(worker)
        return worker


def verify(problem: Problem, text: str) -> Verdict:
    """The verdict on one response, by a pool of one worker that all callers of this process share.

    Never raises on `text` and never hangs; `UserError` for an unknown verifier.
    """
    return _shared_pool().verify_many([problem], [text])[0]


def reference_scores(problem: Problem, pool: VerifierPool | None = None) -> bool:
    r"""Whether the problem's own reference, as `\boxed{reference}`, scores 1.0 under its own verifier."""
    return (pool or _shared_pool()).verify_many([problem], [rf"\boxed{{{problem.answer}}}"])[0].reward == 1.0


_shared: dict[int, VerifierPool] = {}
_shared_lock = threading.Lock()


def _shared_pool() -> VerifierPool:
    with _shared_lock:
        if os.getpid() not in _shared:
            _shared[os.getpid()] = VerifierPool()
            atexit.register(_shared[os.getpid()].close)
        return _shared[os.getpid()]


def _decide_here(verifier: Verifier, problem: Problem, answer: str | None) -> Verdict | None:
    """The verdict when no worker is needed for it, else None."""
    if answer is None:
        return Verdict(0.0, error="the thinking is not closed, so there is no answer")
    if len(answer) > MAX_ANSWER_CHARS:
        return Verdict(0.0, error=f"the answer part is longer than {MAX_ANSWER_CHARS} characters")
    if verifier.quick is None:
        return None
    try:
        verdict: Verdict | None = resolve(verifier.quick)(problem, answer)
    except Exception as error:
        verdict = Verdict(0.0, error=f"{type(error).__name__}: {error}"[:300])
    if verdict is None and verifier.grade is None:
        return Verdict(0.0, error=f"verifier `{verifier.name}` cannot read the answer")
    return verdict


def _with_format(verdict: Verdict, text: str) -> Verdict:
    parts = {"correct": verdict.reward, **check_format(text), **verdict.parts}
    return dataclasses.replace(verdict, parts=parts)
