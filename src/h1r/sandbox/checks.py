"""Test code with assertions, run apart from the code it tests.

The test code runs here, in a sandbox of its own, and the tested names are stand-ins (`stand_ins.py`): calling one asks
the parent to have the call made in the other sandbox, and brings back plain data. So an assertion compares data with
data, in an interpreter that the tested code never entered, and the expected values never leave it.

Every report carries the nonce that only the parent and this process know, and whether the test used the tested code at
all: one that did not says nothing of it.
"""

from __future__ import annotations

import ast
import builtins
import sys
import types
from typing import Any

from h1r.sandbox import pytest_names, structures
from h1r.sandbox.collected import run_collected
from h1r.sandbox.prelude import prelude
from h1r.sandbox.raised import expected_names
from h1r.sandbox.stand_ins import Link, StandIn
from h1r.sandbox.values import CHANNEL, FrameReader, OneShot, dump_frame, write_all
from h1r.sandbox.visible import compares_objects, shows_changes


def run_checks(job: dict[str, Any], reader: FrameReader) -> None:
    """Runs `setup`, then each of `tests` in turn, and reports `{"test", "passed", "used", "error", "nonce"}` for each.

    `names` are the tested names that the test code uses. They are put in place after `setup`, which may hold stubs of
    them, and again before each test, since test code may define them too. `modules` are the names by which test code
    imports the tested code. A test that ends in a call of `run_collected` runs one test function or case of its own.
    """
    link = Link(reader)
    sys.modules["pytest"] = pytest_names.module()
    scope: dict[str, Any] = {**prelude(), **structures.NAMES, "__name__": "checks", "__builtins__": builtins}
    scope["run_collected"] = lambda name: run_collected(scope, name)
    sys.modules["checks"] = module = types.ModuleType("checks")
    module.__dict__.update(scope)
    module.__dict__["run_collected"] = lambda name: run_collected(module.__dict__, name)
    scope = module.__dict__
    error: str | None = None
    try:
        exec(compile(job["setup"], "setup.py", "exec", dont_inherit=True), scope)
    except BaseException as failure:
        error = f"setup: {type(failure).__name__}: {failure}"
    for index, test in enumerate(job["tests"]):
        link.used = False
        why = error or _run(link, job, test, scope)
        report = {"test": index, "passed": why is None, "used": link.used, "error": why, "nonce": job["nonce"]}
        write_all(CHANNEL, dump_frame(report))
        if why is not None and job["stop"]:
            return


def _run(link: Link, job: dict[str, Any], test: str, scope: dict[str, Any]) -> str | None:
    """Why a test fails, or None."""
    try:
        tree = ast.parse(test)
        link.exceptions.expected = expected_names(tree)
        link.shows_changes = shows_changes(tree)
        link.shows_states = link.shows_states or compares_objects(tree, job["names"])
        tested = {name: link.named(name) for name in job["names"]}
        for name in job.get("modules", ()):
            sys.modules[name] = _Tested(name, link)
        scope |= tested
        exec(compile(test, "test.py", "exec", dont_inherit=True), scope)
    except BaseException as failure:
        if isinstance(failure, pytest_names.SkippedError):
            link.used = False
        return f"{type(failure).__name__}: {failure}"[:500]
    return None


class _Tested(types.ModuleType):
    """The tested code, as a module that test code imports names from."""

    def __init__(self, name: str, link: Link) -> None:
        super().__init__(name)
        self._link = link

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._link.named(name)


__all__ = ["OneShot", "StandIn", "run_checks"]
