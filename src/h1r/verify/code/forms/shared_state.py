"""Test code that shares more with the tested code than calls, their results and what is printed.

Tested code runs in a process of its own. What test code patches there, and files that it makes, do not exist for it; a
right solution would fail such tests, so they are refused before anything is graded. What tested code prints is printed
where the test runs, so that capturing it works.
"""

from __future__ import annotations

import ast

_PATCHES = frozenset(("patch", "monkeypatch", "mocker"))
_FILES = frozenset(("tempfile", "shutil", "pyfakefs"))
_MAKES = frozenset(("mkdir", "makedirs", "write_text", "write_bytes", "mkstemp", "mkdtemp", "chdir"))
_NOT_GIVEN = frozenset(("mocker", "tmpdir", "capfd", "caplog"))
"""Fixtures that test code finds in pytest, and not here (`h1r.sandbox.pytest_names`)."""


def shared_state(tree: ast.Module) -> str | None:
    """What test code wants to share with the tested code: a phrase for a message, or None."""
    for node in ast.walk(tree):
        if isinstance(node, ast.arg) and node.arg in _NOT_GIVEN:
            return f"a fixture that both would share ({node.arg})"
        if isinstance(node, ast.Call) and (name := _name(node.func)):
            parts = name.split(".")
            if _PATCHES & set(parts) and not _of_output(node):
                return f"a patch of what the tested code uses ({name})"
            if parts[-1] in _MAKES or parts[0] in _FILES or (name == "open" and _writes(node)):
                return f"files that the tested code is to find ({name})"
    return None


def _name(node: ast.expr) -> str:
    """The dotted name of what is called, or ''."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else (parts[0] if parts else "")


def _of_output(call: ast.Call) -> bool:
    """Whether a patch is of standard output or error: `patch("sys.stdout")`, `patch.object(sys, "stdout")`."""
    texts = [one.value for one in call.args[:2] if isinstance(one, ast.Constant) and isinstance(one.value, str)]
    return any(text.rpartition(".")[2] in ("stdout", "stderr") for text in texts)


def _writes(call: ast.Call) -> bool:
    modes = [call.args[1]] if len(call.args) > 1 else [word.value for word in call.keywords if word.arg == "mode"]
    return any(isinstance(mode, ast.Constant) and set(str(mode.value)) & set("wax+") for mode in modes)
