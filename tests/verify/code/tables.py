"""Reads the table files of this folder and of `tests/sandbox/attacks`.

    === name -> reward
    tests: JSON, or the lines of one piece of test code behind "> "
    metadata: JSON, where there is any
    the answer: whole if it has a fence, else Python

A reward of 0 is written as the reason of its verdict.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from h1r.records import Problem


@dataclass
class Row:
    name: str
    expected: str
    tests: Any = None
    metadata: dict[str, Any] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)

    @property
    def answer(self) -> str:
        text = "\n".join(self.lines)
        return text if "```" in text or "~~~" in text else f"```python\n{text}\n```"

    @property
    def problem(self) -> Problem:
        return Problem("p", "", "", "code", metadata={**self.metadata, "tests": self.tests})


def read_rows(path: Path) -> list[Row]:
    rows: list[Row] = []
    code: list[str] = []
    for line in path.read_text().splitlines():
        if line.startswith("=== "):
            name, _, expected = line[4:].rpartition(" -> ")
            rows.append(Row(name, expected))
            code = []
        elif not rows:
            continue
        elif line.startswith("tests: "):
            rows[-1].tests = json.loads(line[7:])
        elif line.startswith(">") and not rows[-1].lines:
            code.append(line[2:])
            rows[-1].tests = ["\n".join(code)]
        elif line.startswith("metadata: "):
            rows[-1].metadata = json.loads(line[10:])
        else:
            rows[-1].lines.append(line)
    return rows
