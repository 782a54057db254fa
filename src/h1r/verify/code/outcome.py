"""How the tests of one solution ended: which failed, why, and by which reason of a verdict."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from h1r.records import Reason
from h1r.sandbox.session import Ending
from h1r.sandbox.values import Digest, decode


class Fault(NamedTuple):
    """Why a test did not pass: in words, and by the reason of the verdict that follows from it."""

    why: str
    reason: Reason


class Failure(NamedTuple):
    """A test that did not pass, by its number from 0."""

    number: int
    why: str
    reason: Reason


WRONG = Fault("wrong answer", "wrong")
FAULTS: dict[Ending, Fault] = {
    "time": Fault("time limit exceeded", "time"),
    "output": Fault("output limit exceeded", "crash"),
    "failed": Fault("the process ended before its result", "crash"),
    "finished": WRONG,
}


@dataclass(frozen=True, slots=True)
class Result:
    """How many tests passed, of how many. Of the `failures` there is one, unless all tests were run.

    `idle`: how many of those that passed used nothing of the tested code.
    """

    passed: int
    total: int
    failures: list[Failure]
    idle: int = 0

    @property
    def pass_rate(self) -> float:
        """The share of the tests that passed, of those that used the tested code."""
        return max(self.passed - self.idle, 0) / max(self.total - self.idle, 1)

    @property
    def correct(self) -> bool:
        return self.passed == self.total > 0 and not self.failures


def before(what: str, fault: Fault) -> Fault:
    return Fault(f"before the first {what}: {fault.why}", fault.reason)


def value_of(message: dict[str, Any] | None, ending: Ending, may_be_large: bool = False) -> tuple[Any, Fault | None]:
    """What a frame of the tested code says: (value, None), or (None, fault) for anything that is no value."""
    if message is None:
        return None, FAULTS[ending]
    if "value" in message:
        form = message["value"]
        if may_be_large and isinstance(form, dict) and form.get("!") == "digest":
            return Digest(str(form.get("v"))[:64]), None
        try:
            return decode(form), None
        except ValueError as error:
            return None, Fault(f"a result that is {error}", "not_readable")
    raised, text = (value if isinstance(value, str) else "" for value in (message.get("raised"), message.get("text")))
    return None, Fault(f"{raised[:100]}: {text[:200]}", "crash")
