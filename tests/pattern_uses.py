"""Every regular expression of the package, and by which methods the code uses it.

Found twice: as objects, in the globals, classes, containers, closures and caches of every module that imports here; and
in the source of every module, as calls of `re`, with those in modules that do not import here.
"""

from __future__ import annotations

import ast
import importlib
import re
import types
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import h1r

PACKAGE = Path(h1r.__file__).parent
METHODS = frozenset(("match", "search", "fullmatch", "finditer", "findall", "sub", "subn", "split"))


@dataclass
class Used:
    """An expression, where it stands, and the methods it is used by."""

    pattern: re.Pattern[str]
    places: list[str] = field(default_factory=list)
    methods: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Call:
    """`re.method(argument, ...)` in a source. `literal` is None where the argument is computed.

    `deferred`: it stands in a function, so that importing the module does not make the expression.
    """

    place: str
    method: str
    literal: str | None
    flags: int
    source: str
    deferred: bool


def names_of_modules() -> list[str]:
    """The modules whose text mentions an engine of expressions, without importing or parsing any."""
    mention = re.compile(r"^\s*(?:import|from)\b.*\b(?:re|regex|re2)\b", re.MULTILINE)
    return [_module(path) for path in _paths() if mention.search(path.read_text(encoding="utf-8"))]


@cache
def modules() -> dict[str, types.ModuleType | None]:
    """The modules that use `re`; None for one that does not import here (an engine or a compiler is missing)."""
    found: dict[str, types.ModuleType | None] = {}
    for path, nodes in _files():
        if path.stem == "__main__" or not any(map(_imports_re, nodes)):
            continue
        name = f"h1r.{_module(path)}".removesuffix(".")
        try:
            found[name] = importlib.import_module(name)
        except ImportError:
            found[name] = None
    return found


def _imports_re(node: ast.AST) -> bool:
    """Any way to get at an engine of expressions; `test_patterns` refuses those that hide its calls."""
    names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
    return bool({"re", "regex", "re2"} & {*names, getattr(node, "module", None)})


def live() -> dict[str, Used]:
    """The compiled expressions of all modules, by the place each was first found at; those on bytes as on Latin-1."""
    found: dict[re.Pattern[str], Used] = {}
    seen: set[int] = set()
    for name, module in modules().items():
        for attribute, value in list(vars(module).items()) if module else ():
            for place, pattern in _patterns(value, f"{name.removeprefix('h1r.')}:{attribute}", seen, 0):
                found.setdefault(pattern, Used(pattern)).places.append(place)
    uses = _uses()
    for used in found.values():
        for place in used.places:
            used.methods |= uses.get(place.partition("[")[0], set())
        used.methods = used.methods or {"search"}
    return {used.places[0]: used for used in found.values()}


def _patterns(value: Any, place: str, seen: set[int], depth: int) -> Iterator[tuple[str, re.Pattern[str]]]:
    if isinstance(value, re.Pattern):
        is_bytes = isinstance(value.pattern, bytes)
        yield place, re.compile(value.pattern.decode("latin-1"), value.flags | re.ASCII) if is_bytes else value
        return
    if id(value) in seen or depth > 6:
        return
    seen.add(id(value))
    inner: list[tuple[str, Any]] = []
    if isinstance(value, dict):
        inner = [(f"[{name!r}]", item) for name, item in value.items()] + [("[]", name) for name in value]
    elif isinstance(value, (list, tuple, set, frozenset)):
        inner = [(f"[{index}]", item) for index, item in enumerate(value)]
    elif isinstance(value, type) and value.__module__.startswith("h1r"):
        inner = [(f".{name}", item) for name, item in vars(value).items()]
    elif isinstance(value, types.FunctionType) and value.__module__.startswith("h1r"):
        cells = zip(value.__code__.co_freevars, value.__closure__ or (), strict=True)
        inner = [(f"({name})", cell.cell_contents) for name, cell in cells if cell != types.CellType()]
        inner += [("()", item) for item in value.__defaults__ or ()]
    elif type(value).__module__.startswith("h1r"):
        names = [*getattr(value, "__dict__", ()), *getattr(type(value), "__slots__", ())]
        inner = [(f".{name}", getattr(value, name)) for name in names if hasattr(value, name)]
    for suffix, item in inner:
        yield from _patterns(item, place + suffix, seen, depth + 1)


@cache
def _uses() -> dict[str, set[str]]:
    """Methods called on a global name, by its place, imported names included; one used in another way is searched."""
    found: dict[str, set[str]] = {}
    for path, nodes in _files():
        own = _module(path)
        home = {
            alias.asname or alias.name: f"{node.module.removeprefix('h1r.')}:{alias.name}"
            for node in nodes
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("h1r")
            for alias in node.names
        }
        called: set[int] = set()
        for node in nodes:
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                called.add(id(node.value))
                if node.attr in METHODS:
                    place = home.get(node.value.id, f"{own}:{node.value.id}")
                    found.setdefault(place, set()).add(node.attr)
        for node in nodes:
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and id(node) not in called:
                place = home.get(node.id, f"{own}:{node.id}")
                found.setdefault(place, set()).add("search")
    return found


@cache
def calls() -> list[Call]:
    """Every call of the module `re` in the sources that gives an expression."""
    found = []
    for path, nodes in _files():
        for node, deferred in nodes.items():
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args):
                continue
            owner, method = node.func.value, node.func.attr
            if not (isinstance(owner, ast.Name) and owner.id == "re" and method in METHODS | {"compile"}):
                continue
            argument = node.args[0]
            literal = argument.value if isinstance(argument, ast.Constant) and isinstance(argument.value, str) else None
            found.append(Call(_module(path), method, literal, _flags(node), ast.unparse(argument), deferred))
    return found


def _flags(call: ast.Call) -> int:
    given = [keyword.value for keyword in call.keywords if keyword.arg == "flags"]
    named = [
        str(node.attr)
        for value in (*given, *call.args[1:])
        for node in ast.walk(value)
        if isinstance(node, ast.Attribute) and _is_flag(node)
    ]
    return sum({int(getattr(re, name)) for name in named})


def _is_flag(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and ast.unparse(node.value) == "re" and node.attr.isupper()


def hidden_engines() -> list[str]:
    """Imports that would keep a call of `re` out of `calls`, and other engines."""
    found = []
    for path, nodes in _files():
        for node in nodes:
            if isinstance(node, ast.ImportFrom) and node.module in ("re", "regex", "re2"):
                found.append(f"{_module(path)}: {ast.unparse(node)}")
            if isinstance(node, ast.Import):
                names = [alias for alias in node.names if alias.name in ("re", "regex", "re2")]
                found += [
                    f"{_module(path)}: {ast.unparse(node)}" for alias in names if alias.name != "re" or alias.asname
                ]
    return found


@cache
def _files() -> list[tuple[Path, dict[ast.AST, bool]]]:
    """Each file, and its nodes in the order of `ast.walk`: whether each stands in a function."""
    return [(path, _nodes(ast.parse(path.read_text(encoding="utf-8")))) for path in _paths()]


def _nodes(tree: ast.AST) -> dict[ast.AST, bool]:
    found = {tree: False}
    waiting = deque(found)
    while waiting:
        node = waiting.popleft()
        deferred = found[node] or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for child in ast.iter_child_nodes(node):
            found[child] = deferred
            waiting.append(child)
    return found


def _paths() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def _module(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
