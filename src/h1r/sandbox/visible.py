"""Whether a test may see that a call changed its arguments and returned something as well.

A function that returns nothing works through its arguments, and what it changed is the result. Where a call has a
result, an argument that changes with it can satisfy a comparison that the result alone would not:

    r = f(xs); assert r == sum(xs)        an f that empties xs and returns 0 would pass

So these changes are shown only if the test compares what it passed with constants: `assert xs[:k] == [1, 2]`.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator

_EQUAL = ("assertEqual", "assertListEqual", "assertEquals", "assertNotEqual")
_BUILTIN = frozenset(dir(builtins))


def shows_changes(tree: ast.AST) -> bool:
    passed = {
        node.id
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and not _is_plain(call)
        for node in [*call.args, *(keyword.value for keyword in call.keywords)]
        if isinstance(node, ast.Name)
    }
    constants = _constants(tree) - passed
    return bool(passed) and all(_anchored(sides, passed, constants) for sides in _assertions(tree))


def compares_objects(tree: ast.AST, names: list[str]) -> bool:
    """Whether a test compares something with an instance that it makes, or with an attribute of a tested name."""
    sides: list[ast.expr] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and any(isinstance(sign, (ast.Eq, ast.NotEq)) for sign in node.ops):
            sides += node.comparators
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _EQUAL:
            sides += node.args[1:2]
    made = {node.id for side in sides for node in ast.walk(side) if isinstance(node, ast.Name)}
    for node in ast.walk(tree):  # names that were given such an instance before
        if isinstance(node, ast.Assign) and any(isinstance(one, ast.Name) and one.id in made for one in node.targets):
            made |= {one.id for one in ast.walk(node.value) if isinstance(one, ast.Name)}
    return any(name in made and name[:1].isupper() for name in names)


def _constants(tree: ast.AST) -> set[str]:
    """The names that are given nothing but constants."""
    given: dict[str, bool] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            given.setdefault(node.id, True)
    for node in ast.walk(tree):
        plain = isinstance(node, ast.Assign) and _is_constant(node.value, set())
        for target in ast.walk(node) if isinstance(node, ast.stmt) and not plain else ():
            if isinstance(target, ast.Name) and isinstance(target.ctx, ast.Store) and not _inside_plain(target, node):
                given[target.id] = False
    return {name for name, is_constant in given.items() if is_constant}


def _inside_plain(target: ast.Name, node: ast.AST) -> bool:
    """Whether a block only contains the plain assignment of that name."""
    inner = [one for one in ast.walk(node) if isinstance(one, ast.Assign) and one is not node]
    return any(target in ast.walk(one) and _is_constant(one.value, set()) for one in inner)


def _is_constant(side: ast.expr, constants: set[str]) -> bool:
    nodes = list(ast.walk(side))
    return not any(isinstance(node, (ast.Call, ast.Lambda)) for node in nodes) and all(
        node.id in constants for node in nodes if isinstance(node, ast.Name)
    )


def _assertions(tree: ast.AST) -> Iterator[list[ast.expr]]:
    """The sides of each comparison that a test asserts; a single one for an assertion of another form."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert):
            for part in node.test.values if isinstance(node.test, ast.BoolOp) else [node.test]:
                yield [part.left, *part.comparators] if isinstance(part, ast.Compare) else [part]
        elif (
            isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr.startswith("assert")
        ):
            yield list(node.args[:2])


def _anchored(sides: list[ast.expr], passed: set[str], constants: set[str]) -> bool:
    """Whether every side that mentions what was passed stands against constants alone."""
    mentions = [any(isinstance(node, ast.Name) and node.id in passed for node in ast.walk(side)) for side in sides]
    if not any(mentions):
        return True
    if sum(mentions) != 1 or len(sides) != 2:
        return False
    subject, other = (sides if mentions[0] else sides[::-1])[:2]
    return _is_subject(subject) and _is_constant(other, constants)


def _is_subject(side: ast.expr) -> bool:
    """The argument itself, an item or stretch of it, a plain function of it, or a call that is given it."""
    if isinstance(side, ast.Call) and _is_plain(side):
        return len(side.args) == 1 and _is_subject(side.args[0])
    if isinstance(side, ast.Call):
        return all(isinstance(part, (ast.Name, ast.Constant)) for part in side.args)
    return isinstance(side, ast.Name) or (isinstance(side, (ast.Subscript, ast.Attribute)) and _is_subject(side.value))


def _is_plain(call: ast.Call) -> bool:
    return _is_assertion(call) or (isinstance(call.func, ast.Name) and call.func.id in _BUILTIN)


def _is_assertion(call: ast.Call) -> bool:
    return isinstance(call.func, ast.Attribute) and call.func.attr.startswith("assert")
