"""The processes in which benchmarks have their engines."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

CHILD = """
import json, os, sys
print(json.dumps([os.environ.get("ONE"), os.environ.get("TWO")]), flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    if asked is None:
        sys.exit(3)
    print(json.dumps({"asked": asked}), flush=True)
"""


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    monkeypatch.setenv("TWO", "2")
    return importlib.import_module("answering").Answering


def test_a_process_answers_line_by_line_and_one_that_ends_by_itself_is_said(answering: Any) -> None:
    one = answering("one", [sys.executable, "-c", CHILD], {"ONE": "1", "TWO": None}, hint="do this")
    assert one.ready == ["1", None]
    assert [one.ask(asked) for asked in ([[1, 2], 3], "step", 0.5)] == [
        {"asked": asked} for asked in ([[1, 2], 3], "step", 0.5)
    ]
    for _ in range(2):
        with pytest.raises(SystemExit, match="one ended with 3; do this"):
            one.ask(None)
    one.end()
    other = answering("other", [sys.executable, "-c", CHILD])
    assert other.ready == [None, "2"]
    other.end()
