"""Prints, as JSON, the expressions of mathematics and of choice that no line of the tables matches.

Run in a process of its own: it replaces what makes expressions before the package is imported.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOMS = (str(Path("h1r", "mathematics")), str(Path("verify", "choice")))
METHODS = ("match", "search", "fullmatch", "finditer", "findall", "sub", "subn", "split")
seen: dict[str, Counted] = {}


class Counted:
    """Stands for an expression, and notes whether it ever matched."""

    def __init__(self, made: re.Pattern[str]) -> None:
        self.made, self.matched = made, False

    def __getattr__(self, name: str) -> Any:
        return partial(self.use, name) if name in METHODS else getattr(self.made, name)

    def use(self, name: str, *arguments: Any, **options: Any) -> Any:
        if not self.matched:
            text = arguments[1] if name in ("sub", "subn") else arguments[0]
            how = {"match": self.made.match, "fullmatch": self.made.fullmatch}.get(name, self.made.search)
            places = () if name in ("sub", "subn", "split") else arguments[1:]
            self.matched = how(text, *places) is not None
        return getattr(self.made, name)(*arguments, **options)


def counted(pattern: str, flags: int, caller: Any) -> Any:
    """The expression of a call, counted where the caller reads mathematics or a choice."""
    made = compile_(pattern, flags)
    path = Path(caller.f_code.co_filename)
    if not any(room in str(path.parent) for room in ROOMS):
        return made
    room = "/".join((*path.parts[-2:-1], path.name))
    return seen.setdefault(f"{room}: {pattern}", Counted(made))


def calling(name: str) -> Callable[..., Any]:
    def called(pattern: Any, *arguments: Any, **options: Any) -> Any:
        flags = options.pop("flags", 0)
        found = counted(pattern, flags, sys._getframe(1)) if isinstance(pattern, str) else pattern
        return getattr(found, name)(*arguments, **options)

    return called


compile_ = re.compile
re.compile = lambda pattern, flags=0: counted(pattern, int(flags), sys._getframe(1))  # type: ignore[assignment]
for method in METHODS:
    setattr(re, method, calling(method))

from h1r.mathematics import equivalent, grade, grade_lenient  # noqa: E402
from h1r.records import Problem  # noqa: E402
from h1r.verify.choice.grade import grade as grade_choice  # noqa: E402


def lines(folder: str, separator: str) -> list[list[str]]:
    """The fields of all lines of the tables in a folder of `math/`."""
    texts = [path.read_text(encoding="utf-8") for path in sorted((HERE / "math" / folder).glob("*.txt"))]
    rows = [line for text in texts for line in text.splitlines() if separator in line]
    return [row.split(separator) for row in rows if not row.startswith("# question")]


def read_all() -> None:
    for answer, reference, *_ in lines("pairs", " || "):
        equivalent(reference, answer)
        equivalent(answer, reference)
    for response, reference, *_ in lines("responses", " || ") + lines("boxed", " || "):
        grade_lenient(Problem("p", "", reference, "math_lenient"), response.replace(r"\n", "\n"))
    for question, reference, answer, *_ in lines("questions", " ;; "):
        grade(Problem("p", question, reference, "math"), rf"\boxed{{{answer}}}")
    for path in sorted((HERE / "choice").glob("*.jsonl")):
        for row in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
            problem = Problem("p", "", row["reference"], "choice", metadata={"options": row["options"]})
            grade_choice(problem, row["answer"])


if __name__ == "__main__":
    read_all()
    print(json.dumps({name: one.matched for name, one in seen.items()}))
