"""What the parsers of all forms are given beside the tests, and how its options are read."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, get_args

from h1r.common.syntax import parse
from h1r.verify.code.kinds import Layout, TestsError
from h1r.verify.code.sources import complete

_ENTRY_KEYS = ("entry_point", "fn_name", "func_name", "function_name", "method_name")
_STUB_KEYS = ("starter_code", "stub", "code_stub", "signature", "starter")
_ENTRY = re.compile(r"\A[A-Za-z_]\w*+(?:\(\))?(?:\.[A-Za-z_]\w*+)*+", re.ASCII)


@dataclass(slots=True)
class Given:
    """`known` is the problem's metadata with the tests' own keys over it. `stub`: the head of the wanted function."""

    known: dict[str, Any]
    entry: str | None = None
    prompt: str = ""
    stub: str = ""
    tolerance: float | None = None
    layout: Layout = "lines"
    ignore_case: bool = False

    @classmethod
    def read(cls, known: dict[str, Any]) -> Given:
        """`TestsError` for a name or an option that cannot be."""
        entry = next((str(known[key]) for key in _ENTRY_KEYS if known.get(key)), None)
        if entry is not None and not _ENTRY.fullmatch(entry):
            raise TestsError(f"`{entry[:60]}` is no name of a function")
        stub = next((str(known[key]) for key in _STUB_KEYS if known.get(key)), "")
        prompt = _code(str(known.get("prompt") or known.get("code_prompt") or ""))
        found = cls(known, entry, prompt, stub, _tolerance(known.get("tolerance")))
        found._compare(known.get("compare"))
        return found

    def required_entry(self) -> str:
        if not self.entry:
            raise TestsError("function tests without the function's name (`entry_point`)")
        return self.entry

    def _compare(self, wanted: Any) -> None:
        for option in wanted if isinstance(wanted, list) else [wanted] if wanted is not None else []:
            if option == "case_insensitive":
                self.ignore_case = True
            elif isinstance(option, dict) and option.keys() == {"tolerance"}:
                self.tolerance = _tolerance(option["tolerance"])
            elif isinstance(option, str) and option in get_args(Layout):
                self.layout = option  # type: ignore[assignment]
            else:
                raise TestsError(f"`compare` knows no {option!r}"[:200])


def _code(prompt: str) -> str:
    """A prompt that is code, whole or up to where the solution goes on; nothing of one in words."""
    try:
        parse(complete(prompt))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        begins = ("def ", "class ", "import ", "from ", "@")
        return prompt if any(line.startswith(begins) for line in prompt.splitlines()) else ""
    return prompt


def _tolerance(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1 or math.isnan(value):
        raise TestsError("`tolerance` is a number from 0 up and below 1")
    return float(value)
