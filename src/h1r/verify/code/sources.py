"""What is run of a solution and of its prompt, before any test."""

from __future__ import annotations

import re

_HEAD = re.compile(r":[ \t]*(?:#.*)?$")
SOLUTION_CLASS = re.compile(r"^class\s+Solution\b", re.MULTILINE)


def parts(setup: str, code: str, entry: str | None) -> list[str]:
    """What is run before the tests: the prompt's own code, then the solution, or both as one if it goes on there."""
    goes_on = entry is not None and bool(setup) and not defines(code, entry) and not SOLUTION_CLASS.search(code)
    return [setup + code] if goes_on else [complete(setup), code]


def complete(setup: str) -> str:
    """A prompt that runs without the solution: one that stops at the head of a function gets a body for it."""
    text = setup.rstrip()
    last = text[text.rfind("\n") + 1 :]
    if not _HEAD.search(last):
        return setup
    return f"{text}\n{last[: len(last) - len(last.lstrip())]}    pass\n"


def defines(code: str, name: str) -> bool:
    """Whether a line of the code begins to define that name at the top level."""
    return (
        re.search(rf"^(?:(?:async\s+)?def|class)\s+{re.escape(name)}\b|^{re.escape(name)}\s*[:=]", code, re.M)
        is not None
    )
