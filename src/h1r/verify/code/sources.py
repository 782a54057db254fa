"""What is run of a solution and of its prompt, before any test."""

from __future__ import annotations

import re

_HEAD = re.compile(r":[ \t]*(?:#.*)?$")
_DEFINING = (("def",), ("async", "def"), ("class",))
_MAX_GAP = 100
"""Characters that are looked at before a name and behind it."""
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
    at = code.find(name)
    while at >= 0:
        if at == 0 or code[at - 1].isspace():
            head, after = code[max(0, at - _MAX_GAP) : at], code[at + len(name) : at + len(name) + _MAX_GAP]
            line = head.rpartition("\n")[2]
            if "\n" in head or at <= _MAX_GAP:  # the beginning of the line is seen
                ends = not (after[:1].isalnum() or after[:1] == "_")
                if not line and after.lstrip()[:1] in (":", "="):
                    return True
                if line and ends and not line[0].isspace() and tuple(line.split()) in _DEFINING:
                    return True
        at = code.find(name, at + 1)
    return False
