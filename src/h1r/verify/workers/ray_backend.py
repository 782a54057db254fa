"""Grading on a Ray cluster: the same calls and the same verdicts as `VerifierPool`, by actors on many machines.

    caller --pieces of PIECE answers--> decide: the cheap tier                          actor 1, 2, ... on any machine
           --one answer, if undecided-> grade: by one of the actor's worker processes

Whatever is next goes to the actor with the least to do: fewest pieces, or fewest answers being graded, of which it
never has more than workers. So nothing waits behind a hung answer while a worker is free anywhere (round-robin would
let every n-th answer wait for it), a slow machine takes less instead of holding its share, and batches take turns. A
hung or crashing answer costs its own verdict after its own limit, by the rules of the actor's pool.

An actor that dies is restarted by Ray. What it had not answered is graded once more, each answer alone on an actor that
has nothing else to do: the one that brings that down too gets reward 0, and no other pays for it.
"""

from __future__ import annotations

import contextlib
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Any, Self

from h1r.errors import UserError
from h1r.records import Problem, Verdict
from h1r.verify.registry import Verifier, require
from h1r.verify.workers.ray_actor import GradingActor, Reply
from h1r.verify.workers.ray_cluster import RayCluster

PIECE, MAX_PIECES = 32, 2
"""Answers in a piece, and pieces that an actor has at once: one that it decides, and the next."""
START_LIMIT_S = 120.0
CALL_LIMIT_S = 180.0
"""Seconds, beyond an answer's own limit, after which an actor that owes a reply is taken for dead and killed."""
CHECK_S, RESTART_CHECK_S = 5.0, 0.5


class RayBackend:
    """`actors` Ray actors of `workers` processes each. Joins the Ray that runs, or `address`, or starts one here.

    `time_limit_s`, `memory_limit_bytes` and `format_checks` are those of `VerifierPool`; `cpus` is what one actor asks
    of the cluster (default: one per worker). `UserError`: Ray is missing, or actors did not start in `start_limit_s`.
    """

    def __init__(
        self,
        actors: int = 2,
        workers: int = 1,
        time_limit_s: float = 5.0,
        memory_limit_bytes: int = 2 << 30,
        address: str | None = None,
        cpus: float | None = None,
        start_limit_s: float = START_LIMIT_S,
        format_checks: bool = True,
    ) -> None:
        if actors < 1 or workers < 1 or time_limit_s <= 0:
            raise ValueError("RayBackend needs actors >= 1, workers >= 1 and time_limit_s > 0")
        self._cluster = _join(address)
        self._ray = self._cluster.ray
        self._workers = workers
        self._call_limit_s = CALL_LIMIT_S + time_limit_s
        self._batches: deque[_Batch] = deque()
        self._again: deque[_Item] = deque()
        self._calls: set[_Call] = set()
        self._events: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._closing, self._next_check = False, 0.0
        options = {"num_cpus": workers if cpus is None else cpus, "max_restarts": -1}
        actor = self._ray.remote(**options)(GradingActor)
        arguments = (workers, time_limit_s, memory_limit_bytes, sys.path, format_checks)
        self._actors = [_Actor(actor.remote(*arguments)) for _ in range(actors)]
        self._await_start(start_limit_s)
        self._thread = threading.Thread(target=self._main, name="h1r-verify-ray", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the actors, and Ray if it was started here; answers without a verdict get an exception."""
        if self._closing:
            return
        self._call(self._stop)
        self._thread.join()
        self._end()

    def verify_many(self, problems: Sequence[Problem], texts: Sequence[str]) -> list[Verdict]:
        """As `VerifierPool.verify_many`."""
        batch = self.submit_many(problems, texts)
        try:
            return batch.verdicts()
        except BaseException:
            batch.cancel()
            raise

    def submit_many(self, problems: Sequence[Problem], texts: Sequence[str]) -> RayBatch:
        """Starts what `verify_many` waits for; returns at once."""
        if len(problems) != len(texts):
            raise ValueError(f"{len(problems)} problems but {len(texts)} texts")
        verifiers = [require(problem.verifier) for problem in problems]
        batch = _Batch()
        items = [_Item(batch, *item) for item in zip(verifiers, problems, texts, strict=True)]
        for item in items:
            (batch.fresh if item.verifier.quick else batch.undecided).append(item)
        self._call(partial(self._batches.append, batch))
        return RayBatch(items, self)

    def cancel(self, items: Sequence[_Item]) -> None:
        """Gives up what has no verdict yet."""
        for item in items:
            item.future.cancel()
        self._call(partial(self._abandon, set(items)))

    def _call(self, event: Callable[[], None]) -> None:
        if self._closing or not self._thread.is_alive():
            raise RuntimeError("the Ray backend has ended; make another")
        self._events.put(event)

    def _await_start(self, limit_s: float) -> None:
        waiting = [actor.handle.ready.remote() for actor in self._actors]
        ready, late = self._ray.wait(waiting, num_returns=len(waiting), timeout=limit_s)
        reason = "the cluster has too few free CPUs"
        try:
            self._ray.get(ready)
        except self._ray.exceptions.RayError as error:
            late, reason = waiting, str(error).splitlines()[0]
        if late:
            self._end()
            raise UserError(
                f"{len(late)} of {len(waiting)} grading actors did not start in {limit_s:g} s: {reason}; "
                "ask for fewer actors or workers, or look at `ray status`"
            )

    def _end(self) -> None:
        for actor in self._actors:
            self._ray.kill(actor.handle)
        self._cluster.leave()

    def _stop(self) -> None:
        self._closing = True

    def _main(self) -> None:
        try:
            while not self._closing:
                self._assign()
                with contextlib.suppress(queue.Empty):
                    self._events.get(timeout=CHECK_S if self._calls else None)()
                self._end_the_deaf()
        finally:
            self._closing = True
            asked = [item for call in self._calls for item in call.items]
            queued = [item for batch in self._batches for item in (*batch.fresh, *batch.undecided)]
            for item in (*asked, *self._again, *queued):
                item.settle(RuntimeError("the Ray backend was closed"))

    def _assign(self) -> None:
        """Hands out work while an actor has room for some."""
        free = [actor for actor in self._actors if actor.up and not actor.alone]
        if self._again and free:  # the least busy actor gets nothing more, and this answer once it is idle
            actor = min(free, key=lambda actor: actor.pieces + actor.graded)
            if actor.pieces + actor.graded == 0:
                actor.alone = True
                self._ask_grade(actor, self._again.popleft())
            free.remove(actor)
        while free:
            actor = min(free, key=lambda actor: actor.graded)
            if actor.graded >= self._workers or not (item := self._next_undecided()):
                break
            self._ask_grade(actor, item)
        while free:
            actor = min(free, key=lambda actor: actor.pieces)
            if actor.pieces >= MAX_PIECES or not (items := self._next_piece()):
                break
            self._ask_decide(actor, items)

    def _next_undecided(self) -> _Item | None:
        """The next answer for a worker; batches take turns."""
        for _ in range(len(self._batches)):
            self._batches.rotate(-1)
            undecided = self._batches[-1].undecided
            while undecided:
                item = undecided.popleft()
                if not item.future.done() and (item.future.running() or item.future.set_running_or_notify_cancel()):
                    return item
        return None

    def _next_piece(self) -> list[_Item]:
        """The next answers for the cheap tier; batches take turns, and leave when nothing of them waits."""
        for _ in range(len(self._batches)):
            batch = self._batches.popleft()
            items: list[_Item] = []
            while batch.fresh and len(items) < PIECE:
                item = batch.fresh.popleft()
                if item.future.set_running_or_notify_cancel():
                    items.append(item)
            batch.waits = bool(batch.fresh or batch.undecided)
            if batch.waits:
                self._batches.append(batch)
            if items:
                return items
        return []

    def _leave_undecided(self, item: _Item) -> None:
        item.batch.undecided.append(item)
        if not item.batch.waits:
            item.batch.waits = True
            self._batches.append(item.batch)

    def _ask_decide(self, actor: _Actor, items: list[_Item]) -> None:
        actor.pieces += 1
        wanted = [(item.verifier, item.problem, item.text) for item in items]
        self._ask(_Call(actor, items, True, self._deadline()), lambda: actor.handle.decide.remote(wanted))

    def _ask_grade(self, actor: _Actor, item: _Item) -> None:
        actor.graded += 1
        wanted = (item.verifier, item.problem, item.text)
        self._ask(_Call(actor, [item], False, self._deadline()), lambda: actor.handle.grade.remote(*wanted))

    def _deadline(self) -> float:
        return time.monotonic() + self._call_limit_s

    def _ask(self, call: _Call, ask: Callable[[], Any]) -> None:
        self._calls.add(call)
        try:
            call.reference = ask()
        except Exception as error:  # metadata that cannot be sent: whose, shows when each is graded by itself
            self._forget(call)
            for item in call.items:
                if call.decides:
                    self._leave_undecided(item)
                else:
                    item.settle(UserError(f"problem `{item.problem.id}` cannot be sent to a grading actor: {error}"))
        else:
            self._when_done(call.reference, partial(self._on_reply, call))

    def _when_done(self, reference: Any, then: Callable[[Future[Any]], None]) -> None:
        reference.future().add_done_callback(lambda future: self._events.put(partial(then, future)))

    def _on_reply(self, call: _Call, reply: Future[Any]) -> None:
        if call not in self._calls:  # given up
            return
        self._forget(call)
        error = reply.exception()
        if isinstance(error, self._ray.exceptions.RayTaskError):  # a defect, which the callers are to see
            for item in call.items:
                item.settle(RuntimeError(f"a grading actor failed: {error}"))
        elif error is not None:
            self._lose(call)
        elif call.decides:
            for item, verdict in zip(call.items, reply.result(), strict=True):
                if verdict is None:
                    self._leave_undecided(item)
                else:
                    item.settle(verdict)
        else:
            call.items[0].settle(reply.result())

    def _forget(self, call: _Call) -> None:
        self._calls.discard(call)
        call.actor.alone = False
        if call.decides:
            call.actor.pieces -= 1
        else:
            call.actor.graded -= 1

    def _lose(self, call: _Call) -> None:
        """The actor is gone: what it was asked is asked again, once."""
        for item in call.items:
            if item.retried:
                item.settle(Verdict(0.0, error="the grading actor died", reason="unscored"))
            elif not item.future.done():
                item.retried = True
                self._again.append(item)
        if call.actor.up:
            call.actor.up = False
            self._await_restart(call.actor)

    def _await_restart(self, actor: _Actor) -> None:
        self._when_done(actor.handle.ready.remote(), partial(self._on_restart, actor))

    def _on_restart(self, actor: _Actor, reply: Future[bool]) -> None:
        actor.up = reply.exception() is None
        if not actor.up:
            timer = threading.Timer(RESTART_CHECK_S, self._events.put, [partial(self._await_restart, actor)])
            timer.daemon = True
            timer.start()

    def _end_the_deaf(self) -> None:
        """Kills actors that owe a reply for too long; Ray restarts them."""
        now = time.monotonic()
        if now < self._next_check:
            return
        self._next_check = now + CHECK_S
        for actor in [call.actor for call in self._calls if call.deadline < now]:
            self._ray.kill(actor.handle, no_restart=False)
            for call in [call for call in self._calls if call.actor is actor]:
                self._forget(call)
                self._lose(call)

    def _abandon(self, unwanted: set[_Item]) -> None:
        for item in unwanted:
            item.settle(RuntimeError("the answer was given up"))
        for call in [call for call in self._calls if unwanted.issuperset(call.items)]:
            self._forget(call)
            self._ray.cancel(call.reference)


@dataclass(slots=True, eq=False)
class _Batch:
    """What one caller asked for: answers for the cheap tier, and answers for a worker. `waits` while it is in turn."""

    fresh: deque[_Item] = field(default_factory=deque)
    undecided: deque[_Item] = field(default_factory=deque)
    waits: bool = True


@dataclass(slots=True, eq=False)
class _Item:
    """An answer, and where its verdict goes; `retried` once its actor died."""

    batch: _Batch
    verifier: Verifier
    problem: Problem
    text: str
    future: Future[Verdict] = field(default_factory=Future)
    retried: bool = False

    def settle(self, found: Reply) -> None:
        if self.future.done():
            return
        if isinstance(found, Verdict):
            self.future.set_result(found)
        else:
            self.future.set_exception(found)


@dataclass(slots=True, eq=False)
class _Actor:
    """`up` while it answers, `alone` while it grades one answer that may bring it down."""

    handle: Any
    pieces: int = 0
    graded: int = 0
    up: bool = True
    alone: bool = False


@dataclass(slots=True, eq=False)
class _Call:
    """What an actor was asked: to decide a piece, or to grade one answer."""

    actor: _Actor
    items: list[_Item]
    decides: bool
    deadline: float
    reference: Any = None


class RayBatch:
    """Answers that are being graded: a future per answer, in order."""

    def __init__(self, items: list[_Item], backend: RayBackend) -> None:
        self._items = items
        self._backend = backend
        self.futures = [item.future for item in items]

    def verdict(self, index: int) -> Verdict:
        """Waits for one verdict; `UserError` when its verifier cannot be loaded."""
        return self.futures[index].result()

    def verdicts(self) -> list[Verdict]:
        """Waits for all verdicts."""
        return [self.verdict(index) for index in range(len(self.futures))]

    def cancel(self) -> None:
        """Gives up what has no verdict yet."""
        self._backend.cancel([item for item in self._items if not item.future.done()])


def _join(address: str | None) -> RayCluster:
    try:
        return RayCluster(address)
    except ImportError:
        raise UserError(
            'Ray is not installed; `pip install "open-h1r[ray]"`, or grade in processes of this machine'
        ) from None
