"""Test functions and cases that test code defines for a runner to find.

    def test_f(): assert f(1) == 2                        pytest's kind, KodCode: functions, and classes of them
    class TestF(unittest.TestCase): ...                   BigCodeBench

Each becomes a piece of its own: the whole text, then the call of that one (`h1r.sandbox.collected`).
"""

from __future__ import annotations

import ast

_RUNNERS = frozenset(("main", "run", "runtests"))


def collected(test: str, tree: ast.Module) -> list[str]:
    """A piece for each test function or method of the text; none where it has none, or calls them itself."""
    names = [name for node in tree.body for name in _tests_of(node)]
    body = [node for node in tree.body if not _is_guard(node) and not isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    called = {node.id for part in body for node in ast.walk(part) if isinstance(node, ast.Name)}
    if not names or any(name.partition(".")[0] in called for name in names):
        return []
    text = without_guard(test, tree, run=False)
    return [f"{text}\n\nrun_collected({name!r})\n" for name in names]


def _tests_of(node: ast.stmt) -> list[str]:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return [node.name] if node.name.startswith("test") and not _is_fixture(node) else []
    if not isinstance(node, ast.ClassDef):
        return []
    bases = {base.attr if isinstance(base, ast.Attribute) else getattr(base, "id", "") for base in node.bases}
    if not any(base.endswith("TestCase") for base in bases) and not node.name.startswith("Test"):
        return []
    inner = [one.name for one in node.body if isinstance(one, (ast.FunctionDef, ast.AsyncFunctionDef))]
    return [f"{node.name}.{name}" for name in inner if name.startswith("test")]


def _is_fixture(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any("fixture" in ast.unparse(decorator) for decorator in node.decorator_list)


def _is_guard(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.If)
        and isinstance(node.test, ast.Compare)
        and any(isinstance(part, ast.Name) and part.id == "__name__" for part in ast.walk(node.test))
    )


def _is_runner(node: ast.stmt) -> bool:
    """`unittest.main()` and the like, in place of which each test is run by itself."""
    call = node.value if isinstance(node, ast.Expr) else None
    called = call.func if isinstance(call, ast.Call) else None
    return isinstance(called, ast.Attribute) and called.attr in _RUNNERS and ast.unparse(called.value) in (
        "unittest", "pytest")  # fmt: skip


def without_guard(test: str, tree: ast.Module, run: bool) -> str:
    """The text with its main guards run as if it were the program, or left out; runners of tests always are."""
    lines = test.split("\n")
    for node in tree.body:
        end = node.end_lineno or node.lineno
        if _is_guard(node) and isinstance(node, ast.If):
            if run:
                first, last = node.test.lineno - 1, (node.test.end_lineno or node.test.lineno) - 1
                head = lines[first].encode()[: node.test.col_offset].decode()
                tail = lines[last].encode()[node.test.end_col_offset or 0 :].decode()
                lines[first : last + 1] = [f"{head}True{tail}"] + [""] * (last - first)
            else:
                lines[node.lineno - 1 : end] = [""] * (end - node.lineno + 1)
        elif _is_runner(node):
            lines[node.lineno - 1 : end] = [""] * (end - node.lineno + 1)
    return "\n".join(lines)
