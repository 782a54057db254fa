"""The isolation level that this machine gives, tried once, and a pool of sandboxes at that level."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from h1r.errors import UserError
from h1r.sandbox.answer import Answer, whole_answer
from h1r.sandbox.fusion import LANGUAGES as REMOTE_LANGUAGES
from h1r.sandbox.fusion import URL_VARIABLE, FusionServers, FusionSlot
from h1r.sandbox.levels import choose_level, make_sandbox
from h1r.sandbox.limits import Isolation, Limits
from h1r.sandbox.programs import RUNNABLE, Program, prepare
from h1r.sandbox.slots import Runnable, Slot, Talk


class LocalSlot:
    """Two sandboxes of this machine: one for tested code, one for test code."""

    def __init__(self, level: Isolation) -> None:
        self.level = level
        self._tested = make_sandbox(level)
        self._checker = make_sandbox(level)

    def answer(self, limits: Limits) -> AbstractContextManager[Answer]:
        """The block is one answer, to which `answer_s` and `total_s` apply, and which is stopped when it is over."""
        return whole_answer((self._tested, self._checker), limits.answer_wall_s, limits.total_s)

    def program(self, code: str, language: str, limits: Limits) -> AbstractContextManager[Runnable]:
        return prepare(self._tested, code, language, limits)

    def calls(self, job: dict[str, Any], limits: Limits) -> AbstractContextManager[Talk]:
        return self._tested.open(job, limits)

    def checks(self, job: dict[str, Any], limits: Limits) -> AbstractContextManager[Talk]:
        return self._checker.open(job, limits)

    def referee(
        self, code: str, language: str, limits: Limits, included: dict[str, str]
    ) -> AbstractContextManager[Program]:
        return prepare(self._checker, code, language, limits, included)

    def close(self) -> None:
        self._tested.close()
        self._checker.close()


class SandboxPool:
    """Up to `workers` slots, lent to one thread each. Slots start when first needed and live until `close`.

    Whatever tested code does costs its own run: a fork server that dies is replaced at the next one. `url` is a
    SandboxFusion server, or several with commas between them, that run the tested code in place of this machine;
    `UserError` when this machine confines too little.
    """

    def __init__(self, workers: int = 1, level: str | None = None, url: str | None = None) -> None:
        if workers < 1:
            raise ValueError("SandboxPool needs workers >= 1")
        self.level = Isolation.REMOTE if url else choose_level(level)
        self.workers = workers
        self._make: Callable[[], Slot] = partial(LocalSlot, self.level)
        if url:
            addresses = [one.strip() for one in url.split(",") if one.strip()]
            if not all(one.startswith(("http://", "https://")) for one in addresses):
                raise UserError(f"{URL_VARIABLE}={url} holds no http:// address; give one, or several with commas")
            self._make = partial(FusionSlot, FusionServers(addresses), level)
        self._free: list[Slot] = []
        self._permits = threading.BoundedSemaphore(workers)
        self._closed = 0
        self._lock = threading.Lock()

    def runs(self, language: str) -> bool:
        """Whether programs of that language can be run, where its tools are installed."""
        known = REMOTE_LANGUAGES if self.level == Isolation.REMOTE else RUNNABLE
        return language in known or re.fullmatch(r"cpp\d\d", language) is not None

    @contextlib.contextmanager
    def lease(self) -> Iterator[Slot]:
        """A slot of one's own for the block; waits for one."""
        with self._permits:
            with self._lock:
                slot, closed = self._free.pop() if self._free else self._make(), self._closed
            try:
                yield slot
            finally:
                with self._lock:
                    if kept := closed == self._closed:
                        self._free.append(slot)
                if not kept:
                    slot.close()

    def close(self) -> None:
        """Ends every fork server, those on loan when they come back. The pool may be used again."""
        with self._lock:
            slots, self._free = self._free, []
            self._closed += 1
        for slot in slots:
            slot.close()

    def __enter__(self) -> SandboxPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
