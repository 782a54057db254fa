"""What one verdict needs of a sandbox, wherever that runs: on this machine or on a server."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Protocol

from h1r.sandbox.answer import Answer
from h1r.sandbox.limits import Isolation, Limits
from h1r.sandbox.programs import Program
from h1r.sandbox.session import Ending, RunResult


class Slot(Protocol):
    """What one verdict needs: runs of a program, a session of calls, and apart from them, where tested code never ran,
    a session of test code with assertions and runs of a problem's own programs."""

    level: Isolation

    def answer(self, limits: Limits) -> AbstractContextManager[Answer]: ...

    def program(self, code: str, language: str, limits: Limits) -> AbstractContextManager[Runnable]: ...

    def calls(self, job: dict[str, Any], limits: Limits) -> AbstractContextManager[Talk]: ...

    def checks(self, job: dict[str, Any], limits: Limits) -> AbstractContextManager[Talk]: ...

    def referee(
        self, code: str, language: str, limits: Limits, included: dict[str, str]
    ) -> AbstractContextManager[Program]: ...

    def close(self) -> None: ...


class Runnable(Protocol):
    """A program that was prepared, or the error that stopped it, and how its compilation then ended."""

    error: str | None
    ending: Ending

    def run(self, stdin: bytes, limits: Limits) -> RunResult: ...


class Talk(Protocol):
    """Frames to and from a job under way; see `session.Session`."""

    @property
    def spent_s(self) -> float: ...

    @property
    def waited_s(self) -> float: ...

    def send(self, message: dict[str, Any]) -> None: ...

    def receive(self, limit_s: float | None = None) -> tuple[dict[str, Any] | None, Ending]: ...

    def ask(self, message: dict[str, Any]) -> tuple[dict[str, Any] | None, Ending]: ...
