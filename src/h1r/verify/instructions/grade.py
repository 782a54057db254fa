"""Instruction following: the checkers of IFEval (arXiv 2311.07911) and IFBench (arXiv 2507.02833).

    strict   an instruction holds for the answer as it is
    loose    it holds for one of eight variants: without "*", without the first line, the last line, or both
    reward   1 if all instructions of the problem hold, else 0

`problem.metadata` has `instruction_id_list` and `kwargs`, one object of arguments per instruction, as both data sets
do; the prompt is `problem.question`. The checkers come from the package `if-verifiable`; what it fetches at import is
replaced by `languages`, and what its upstream has mended since by `corrections`, unless `problem.metadata` says
`"checkers": "library"`. Against its own loop, this one fails closed: an instruction it does not know, or one
whose argument is missing (which it would draw at random), makes the whole problem unusable instead of being passed
over, and a checker that raises has not been satisfied. Some checkers have no bound on their time: workers only.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import sys
import tempfile
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from h1r.records import Problem, Verdict
from h1r.verify.instructions.corrections import NEEDED, corrected
from h1r.verify.instructions.languages import language

_PACKAGE = "if_verifiable"
_FAMILIES = ("ifeval", "ifbench")
MAX_EXTRACTED_CHARS = 2_000


@dataclass(frozen=True, slots=True)
class Followed:
    """Whether an answer follows one instruction; `error` when its checker raised."""

    instruction: str
    strict: bool
    loose: bool
    error: str | None = None


class InstructionError(ValueError):
    """The problem's instructions cannot be checked."""


def warm() -> None:
    """Imports the checkers and the language data."""
    checkers()
    words = language()
    words.pos_tag(words.word_tokenize("Load all of it."))
    _detect_reproducibly()


def grade(problem: Problem, answer: str) -> Verdict:
    """1 when every instruction is followed strictly. May hang on hostile text; never raises on it."""
    return _grade(problem, answer, loose=False)


def grade_loose(problem: Problem, answer: str) -> Verdict:
    """1 when every instruction is followed loosely."""
    return _grade(problem, answer, loose=True)


def _grade(problem: Problem, answer: str, loose: bool) -> Verdict:
    answer = answer.lstrip()  # the blank lines after the thinking are nobody's answer; a trailing one may be
    if not answer:
        return Verdict(0.0, error="the answer is empty", reason="not_extracted")
    try:
        results = follow(problem.metadata, problem.question, answer)
    except InstructionError as error:
        return Verdict(0.0, error=str(error), reason="unscored")
    parts = {
        "instructions_strict": sum(item.strict for item in results) / len(results),
        "instructions_loose": sum(item.loose for item in results) / len(results),
    }
    unmet = [item for item in results if not (item.loose if loose else item.strict)]
    why = None
    if unmet:
        named = (item.instruction + (f" ({item.error})" if item.error else "") for item in unmet)
        why = f"not followed: {', '.join(named)}"[:500]
    return Verdict(float(not unmet), parts, extracted=answer[:MAX_EXTRACTED_CHARS], error=why, reason="wrong")


def follow(metadata: Mapping[str, Any], prompt: str, answer: str) -> list[Followed]:
    """What became of each instruction, in order. Raises `InstructionError` for a problem that cannot be checked."""
    names, arguments = metadata.get("instruction_id_list"), metadata.get("kwargs")
    if not isinstance(names, list) or not names or not isinstance(arguments, list) or len(names) != len(arguments):
        raise InstructionError("metadata needs `instruction_id_list` and as many objects in `kwargs`")
    which = metadata.get("checkers", "corrected")
    if which not in ("corrected", "library"):
        raise InstructionError(f'`checkers` in metadata is {str(which)[:40]!r}, not "corrected" or "library"')
    known = checkers() if which == "library" else corrected_checkers()
    tried = variants(answer)
    results = []
    for name, given in zip(names, arguments, strict=True):
        checker = _checker(known, name, given, prompt)
        errors: list[str] = []
        possible = which == "library" or name not in NEEDED or NEEDED[name](answer)
        strict = possible and _holds(checker, answer, errors)
        loose = strict or (possible and any(_holds(checker, variant, errors) for variant in tried))
        results.append(Followed(name, strict, loose, errors[0] if errors else None))
    return results


def variants(answer: str) -> list[str]:
    """The seven other forms in which loose checking tries an answer, without repetitions."""
    lines = answer.split("\n")
    cut = ["\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1])]
    return list(dict.fromkeys([answer.replace("*", ""), *cut, *(text.replace("*", "") for text in cut)]))


@lru_cache(maxsize=1)
def checkers() -> dict[str, Any]:
    """Instruction id -> checker class, of both data sets; raises `ImportError` where the package is missing."""
    found: dict[str, Any] = {}
    with _without_downloads():
        words = language()
        for family in _FAMILIES:
            registry = importlib.import_module(f"{_PACKAGE}.{family}.instructions_registry")
            for module in ("instructions", "instructions_util"):
                vars(importlib.import_module(f"{_PACKAGE}.{family}.{module}"))["nltk"] = words
            found |= registry.INSTRUCTION_DICT
    return found


@lru_cache(maxsize=1)
def corrected_checkers() -> dict[str, Any]:
    """As `checkers`, with those of `corrections` in their places."""
    return corrected(checkers())


def _checker(known: Mapping[str, Any], name: Any, given: Any, prompt: str) -> Any:
    kind = known.get(name) if isinstance(name, str) else None
    if kind is None:
        raise InstructionError(f"unknown instruction {str(name)[:80]!r}")
    if not isinstance(given, Mapping | None):
        raise InstructionError(f"the arguments of {name} are no object")
    arguments = {key: _whole(value) for key, value in (given or {}).items() if value is not None}
    checker = kind(name)
    try:
        checker.build_description(**arguments)
        needed = checker.get_instruction_args() or {}
        if "prompt" in needed:
            checker.build_description(prompt=prompt)
    except Exception as error:
        raise InstructionError(f"the arguments of {name} cannot be used: {error}"[:300]) from None
    _keep_zero(checker, name, arguments)
    missing = [key for key in needed if key not in arguments and key != "prompt"]
    if missing:
        raise InstructionError(f"{name} lacks its argument {missing[0]!r}")
    needed = checker.get_instruction_args() or {}
    drawn = [
        k for k, v in arguments.items() if isinstance(v, int) and isinstance(needed.get(k), int) and v != needed[k]
    ]
    if drawn:
        raise InstructionError(f"{name} cannot take {drawn[0]} = {arguments[drawn[0]]}")
    return checker


def _keep_zero(checker: Any, name: Any, arguments: Mapping[str, Any]) -> None:
    """A span from word 0 starts there: the library draws a random start in its place (IFBench 25)."""
    if name == "repeat:repeat_span" and arguments.get("n_start") == 0:
        checker._n_start = 0


def _whole(value: Any) -> Any:
    """Integers that a table with gaps has turned into floating-point numbers, as the hub's copies have."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _holds(checker: Any, text: str, errors: list[str]) -> bool:
    if not text.strip():
        return False
    try:
        return bool(checker.check_following(text))
    except Exception as error:
        errors.append(f"{type(error).__name__}: {error}"[:100])
        return False


@contextlib.contextmanager
def _without_downloads() -> Iterator[None]:
    """Imports of the package's checkers find no `nltk.download`, and not its top level, which imports `datasets`."""
    try:
        tempfile.gettempdir()
    except FileNotFoundError:  # a worker may write no file, and NLTK only asks where they would go
        tempfile.tempdir = os.path.abspath(os.sep)
    import nltk

    package = importlib.util.find_spec(_PACKAGE)
    if package is None:
        raise ImportError(f"{_PACKAGE} is not installed: pip install 'open-h1r[instructions]'")
    if _PACKAGE not in sys.modules:
        stand_in = types.ModuleType(_PACKAGE)
        stand_in.__path__ = list(package.submodule_search_locations or ())
        sys.modules[_PACKAGE] = stand_in
    download, nltk.download = nltk.download, lambda *_, **__: False
    try:
        yield
    finally:
        nltk.download = download


def _detect_reproducibly() -> None:
    """Language detection draws random numbers unless it has a seed."""
    import langdetect

    langdetect.DetectorFactory.seed = 0
