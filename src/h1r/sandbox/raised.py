"""Exceptions of the tested code, as test code that runs apart from it meets them.

An exception comes as the names of its class and of the classes above. Those of installed modules are raised as what
they are; those that the tested code defines are classes made here, below the known one that they derive from, so that
`except TooSmall` and `except ValueError` both hold. What steers a program rather than reports an error (`StopIteration`
and the like: one out of a function ends the `map` that called it, and a test's loop with it) is raised only in a test
that names it, and otherwise ends the test.
"""

from __future__ import annotations

import ast
import builtins
import sys
from typing import Any

STEERING = frozenset(("StopIteration", "StopAsyncIteration", "GeneratorExit", "KeyboardInterrupt", "SystemExit"))
_NEVER = frozenset(("asyncio", "bdb", "concurrent", "doctest", "h1r", "pdb", "pytest", "_pytest", "unittest"))
"""Packages whose exceptions end or skip tests."""
_RAISERS = frozenset(("raises", "assertRaises", "assertRaisesRegex"))


class TestedCodeEndedError(BaseException):
    """The tested code's process is gone; no later call can succeed."""


class TestedCodeEscapeError(BaseException):
    """The tested code raised what no test of it expects, and no `except Exception` is to catch."""


def expected_names(tree: ast.AST) -> set[str]:
    """The names that stand where exceptions do: in `except`, `raises` and `assertRaises`."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler) and node.type is not None:
            found |= _names(node.type)
        elif isinstance(node, ast.Call) and node.args and _last_name(node.func) in _RAISERS:
            found |= _names(node.args[0])
    return found


def _names(node: ast.expr) -> set[str]:
    parts = node.elts if isinstance(node, ast.Tuple) else [node]
    return {name for part in parts if (name := _last_name(part))}


def _last_name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _instance(kind: type[BaseException], args: list[Any]) -> BaseException:
    try:
        return kind(*args)
    except TypeError:  # a constructor with parameters of its own: the message is known, and not what it was made of
        error = kind.__new__(kind)
        error.args = tuple(args)
        return error


class Exceptions:
    """The classes by name. `expected`: the names in exception position of the test under way."""

    def __init__(self) -> None:
        self.own: dict[str, type[BaseException]] = {}
        self.expected: set[str] = set()

    def define(self, name: str, kinds: list[list[str]]) -> type[BaseException]:
        """The class that stands for one of the tested code, of which `kinds` are the (module, name)s upwards."""
        if name not in self.own:
            above = [[str(part) for part in pair] for pair in kinds if len(pair) == 2][:32]
            while above and above[0][1] == name and self._known(*above[0]) is None:
                above = above[1:]
            base: type[BaseException] = self._of(above) if above else Exception
            self.own[name] = type(name, (base,), {})
        return self.own[name]

    def make(self, reply: dict[str, Any], args: list[Any], attributes: dict[str, Any]) -> BaseException:
        """The exception that a reply of the tested side stands for."""
        name, text = str(reply.get("raised"))[:200], str(reply.get("text"))
        kinds = [pair for pair in reply.get("kinds") or [] if isinstance(pair, list) and len(pair) == 2]
        said = f"the tested code raised {name}: {text}"
        steering = {str(kind) for _, kind in kinds} & STEERING
        if not kinds or (steering and not (steering | {name}) & self.expected):
            return TestedCodeEscapeError(said)
        try:
            kind = self._of([[str(module), str(one)] for module, one in kinds])
            error = _instance(kind, args)
        except Exception:
            return TestedCodeEscapeError(said)
        for key, value in attributes.items():
            if key.isidentifier() and not key.startswith("__"):
                try:
                    setattr(error, key, value)
                except Exception:
                    continue
        return error

    def _of(self, kinds: list[list[str]]) -> type[BaseException]:
        known = self._known(*kinds[0])
        if known is not None:
            return known
        if kinds[0][1] in self.own:
            return self.own[kinds[0][1]]
        return self.define(kinds[0][1], kinds) if len(kinds) > 1 else TestedCodeEscapeError

    def _known(self, module: str, name: str) -> type[BaseException] | None:
        """The exception of that name in a module that is loaded here and whose exceptions steer nothing."""
        if name in STEERING and name not in self.expected:
            return None
        package = module.partition(".")[0]
        known = package in ("builtins", "numpy", "pandas") or package in sys.stdlib_module_names
        if package in _NEVER or not known:
            return None
        home = builtins if module == "builtins" else sys.modules.get(module)
        kind = vars(home).get(name) if home is not None and module != "__main__" else None
        if not isinstance(kind, type) or not issubclass(kind, BaseException):
            return None
        return kind if issubclass(kind, Exception) or name in STEERING else None
