"""Test code that shares more with the tested code than calls and their results.

Tested code runs in a process of its own. What test code patches there, and files that it makes, do not exist for it; a
right solution would fail such tests, so they are refused before anything is graded.
"""

from __future__ import annotations

import ast

_PATCHES = frozenset(("patch", "monkeypatch", "mocker"))
_FILES = frozenset(("tempfile", "shutil", "pyfakefs"))
_MAKES = frozenset(("mkdir", "makedirs", "write_text", "write_bytes", "mkstemp", "mkdtemp", "chdir"))
_FIXTURES = frozenset(("monkeypatch", "mocker", "tmp_path", "tmpdir", "capsys", "capfd", "caplog"))


def shared_state(tree: ast.Module) -> str | None:
    """What test code wants to share with the tested code: a phrase for a message, or None."""
    for node in ast.walk(tree):
        if isinstance(node, ast.arg) and node.arg in _FIXTURES:
            return f"a fixture that both would share ({node.arg})"
        if isinstance(node, ast.Call) and (name := _name(node.func)):
            head, _, last = name.rpartition(".")
            if head.split(".")[0] in _PATCHES or last in _PATCHES or ".patch." in f".{head}.":
                return f"a patch of what the tested code uses ({name})"
            if name == "open" and _writes(node):
                return "files that the tested code is to find (open)"
            if last in _MAKES or head.split(".")[0] in _FILES:
                return f"files that the tested code is to find ({name})"
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            for decorator in node.decorator_list:
                name = _name(decorator.func if isinstance(decorator, ast.Call) else decorator)
                if name and _PATCHES & set(name.split(".")):
                    return f"a patch of what the tested code uses ({name})"
    return None


def _name(node: ast.expr) -> str:
    """The dotted name of what is called, or ''."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else (parts[0] if parts else "")


def _writes(call: ast.Call) -> bool:
    modes = [call.args[1]] if len(call.args) > 1 else [word.value for word in call.keywords if word.arg == "mode"]
    return any(isinstance(mode, ast.Constant) and set(str(mode.value)) & set("wax+") for mode in modes)
