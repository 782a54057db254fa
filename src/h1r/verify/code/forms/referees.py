"""Programs of the problem's own that decide about outputs.

    "checker": source, "checker_language", "checker_files": {"testlib.h": ...}     files of input, output, answer
    "generated_checker": Python source                                             open-r1's Codeforces: prints a score
    "interactor": source, "interactor_language"                                    talks with the solution

`checker_protocol` names another way to call a checker; see `kinds.Referee`.
"""

from __future__ import annotations

import ast
from typing import Any

from h1r.common.syntax import parse
from h1r.verify.code.extract import LANGUAGES, detect_language
from h1r.verify.code.forms.given import Given
from h1r.verify.code.kinds import Protocol, Referee, TestsError

RUNNABLE = ("python", "cpp", "c", "javascript", "java", "go", "rust")
_CHECKERS = ("testlib", "score", "function")


def referee(given: Given) -> Referee | None:
    """The problem's checker or interactor; None where it has none."""
    known = given.known
    if known.get("interactor"):
        return _referee(known, "interactor", "interactive")
    if known.get("generated_checker"):
        return _referee(known, "generated_checker", known.get("checker_protocol") or "score")
    if not known.get("checker"):
        return None
    wanted = known.get("checker_protocol")
    is_function = wanted is None and _defines_check(str(known["checker"]))
    return _referee(known, "checker", wanted or ("function" if is_function else "testlib"))


def _referee(known: dict[str, Any], key: str, protocol: Any) -> Referee:
    source, prefix = str(known[key]), "interactor" if key == "interactor" else "checker"
    if protocol not in (("interactive",) if key == "interactor" else _CHECKERS):
        raise TestsError(f"`checker_protocol` is one of {', '.join(_CHECKERS)}")
    wanted = known.get(f"{prefix}_language") or detect_language(source) or "python"
    language = LANGUAGES.get(str(wanted).lower())
    if language not in RUNNABLE or (protocol == "function" and language != "python"):
        raise TestsError(f"a {prefix} in {wanted}")
    files = known.get(f"{prefix}_files") or {}
    if not isinstance(files, dict) or not all(name and "/" not in name and name[0] != "." for name in map(str, files)):
        raise TestsError(f"`{prefix}_files` maps names to texts")
    typed: Protocol = protocol
    return Referee(source, language, typed, {str(name): str(text) for name, text in files.items()})


def _defines_check(source: str) -> bool:
    """Whether Python source has a function `check` that nothing in it calls: the caller is to."""
    try:
        tree = parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    defined = any(isinstance(node, ast.FunctionDef) and node.name == "check" for node in tree.body)
    called = any(isinstance(node, ast.Name) and node.id == "check" for node in ast.walk(tree))
    return defined and not called
