"""LeetCode's linked lists and binary trees, which its tests build and its solutions expect to find defined.

`list_node([1, 2, 3])` and `tree_node([1, None, 2])` (level order) make them; `is_same_list` and `is_same_tree` compare.
Between processes a list travels as its values and a tree as its level order, with a bound on their size so that a cycle
ends.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

MAX_NODES = 200_000


class ListNode:
    """A node of a linked list."""

    def __init__(self, val: Any = 0, next: ListNode | None = None) -> None:
        self.val = val
        self.next = next


class TreeNode:
    """A node of a binary tree."""

    def __init__(self, val: Any = 0, left: TreeNode | None = None, right: TreeNode | None = None) -> None:
        self.val = val
        self.left = left
        self.right = right


def list_node(values: list[Any], node: Callable[..., Any] = ListNode) -> Any:
    """The linked list of these values; None for none."""
    head = None
    for value in reversed(values):
        head = node(value, head)
    return head


def list_values(head: Any) -> list[Any]:
    """The values of a linked list; `ValueError` beyond `MAX_NODES`."""
    values = []
    while head is not None:
        values.append(head.val)
        head = head.next
        if len(values) > MAX_NODES:
            raise ValueError("a linked list without an end")
    return values


def tree_node(values: list[Any], node: Callable[..., Any] = TreeNode) -> Any:
    """The binary tree of this level order, in which None is a missing child."""
    if not values:
        return None
    root = node(values[0])
    parents, rest = deque([root]), deque(values[1:])
    while rest and parents:
        parent = parents.popleft()
        for side in ("left", "right"):
            value = rest.popleft() if rest else None
            if value is not None:
                child = node(value)
                setattr(parent, side, child)
                parents.append(child)
    return root


def tree_values(root: Any) -> list[Any]:
    """The level order of a binary tree, without the trailing Nones; `ValueError` beyond `MAX_NODES`."""
    values: list[Any] = []
    waiting = deque([root])
    while waiting:
        node = waiting.popleft()
        values.append(None if node is None else node.val)
        if node is not None:
            waiting += [node.left, node.right]
        if len(values) > MAX_NODES:
            raise ValueError("a tree without an end")
    while values and values[-1] is None:
        values.pop()
    return values


def is_same_list(one: Any, other: Any) -> bool:
    """Whether two linked lists have the same values."""
    return list_values(one) == list_values(other)


def is_same_tree(one: Any, other: Any) -> bool:
    """Whether two trees have the same shape and values."""
    return tree_values(one) == tree_values(other)


def array(values: Any, dtype: str) -> Any:
    """The numpy array of these values; they themselves where there is no numpy, or no such type."""
    try:
        return __import__("numpy").array(values, dtype=dtype)
    except (ImportError, TypeError, ValueError, OverflowError):
        return values


def drive(
    names: dict[str, Any], entry: str, arguments: tuple[Any, ...], kinds: list[str] | None, result_kind: str
) -> tuple[Any, ...]:
    """A call as LeetCode makes it: (result,), or (None, the first argument that can change) where nothing comes back.

    `kinds` are "ListNode", "TreeNode", either with an "s" for lists of them, or "", and stand for the annotations.
    """
    owner = names.get("Solution")
    function = getattr(owner(), entry) if isinstance(owner, type) and hasattr(owner, entry) else _dotted(names, entry)
    given, named = list(arguments), dict[str, Any]()
    if len(given) == 1 and isinstance(given[0], dict) and given[0].keys() == {"h1r_named"}:
        given, named = [], given[0]["h1r_named"]
    annotated = {name: _kind(note) for name, note in getattr(function, "__annotations__", {}).items()}
    by_position = kinds if kinds is not None else [kind for name, kind in annotated.items() if name != "return"]
    if kinds is None and len(by_position) != len(given):
        by_position = _positional(function, annotated)
    by_position = [*by_position, *[""] * len(given)][: len(given)]
    values = [_noded(names, value, kind) for value, kind in zip(given, by_position, strict=True)]
    keywords = {name: _noded(names, value, annotated.get(name, "")) for name, value in named.items()}
    result = function(*values, **keywords)
    if result is not None:
        return (plain(result),)
    if result_kind or annotated.get("return"):
        return ([],)
    changed = [value for value in [*values, *keywords.values()] if not isinstance(value, (int, float, str))]
    return (None, plain(changed[0])) if changed else (None,)


def drive_design(names: dict[str, Any], methods: list[str], arguments: list[list[Any]]) -> list[Any]:
    """The results of a class's methods, called in turn on an instance made by the first of them; None for that."""
    kind = names[methods[0]]
    instance = kind(*_converted(names, kind.__init__, arguments[0]))
    results: list[Any] = [None]
    for name, values in zip(methods[1:], arguments[1:], strict=True):
        method = getattr(instance, name)
        results.append(plain(method(*_converted(names, method, values))))
    return results


def plain(value: Any) -> Any:
    """Nodes as the lists that stand for them, and lists of nodes."""
    kind = type(value).__name__
    if kind == "ListNode":
        return list_values(value)
    if kind == "TreeNode":
        return tree_values(value)
    if isinstance(value, list) and any(type(item).__name__ in ("ListNode", "TreeNode") for item in value):
        return [[] if item is None else plain(item) for item in value]
    return value


def _dotted(names: dict[str, Any], entry: str) -> Any:
    first, *rest = entry.split(".")
    found = names[first[:-2]]() if first.endswith("()") else names[first]
    for name in rest:
        found = getattr(found, name)
    return found


def _kind(note: Any) -> str:
    text = str(note)
    found = "ListNode" if "ListNode" in text else "TreeNode" if "TreeNode" in text else ""
    return found + ("s" if found and "list[" in text.lower() else "")


def _positional(function: Any, annotated: dict[str, str]) -> list[str]:
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    names = list(code.co_varnames[: code.co_argcount]) if code is not None else []
    return [annotated.get(name, "") for name in names if name not in ("self", "cls")]


def _converted(names: dict[str, Any], function: Any, values: list[Any]) -> list[Any]:
    annotated = {name: _kind(note) for name, note in getattr(function, "__annotations__", {}).items()}
    kinds = _positional(function, annotated)
    return [_noded(names, value, kind) for value, kind in zip(values, [*kinds, *[""] * len(values)], strict=False)]


def _noded(names: dict[str, Any], value: Any, kind: str) -> Any:
    """The nodes that a list stands for, of the solution's own class where it has one."""
    if not kind or (value is not None and not isinstance(value, list)):
        return value
    if kind.endswith("s"):
        return [_noded(names, item, kind[:-1]) for item in value or []]
    if kind == "ListNode":
        return list_node(value or [], names.get("ListNode", ListNode))
    return tree_node(value or [], names.get("TreeNode", TreeNode))


NAMES = {
    "ListNode": ListNode,
    "TreeNode": TreeNode,
    "list_node": list_node,
    "tree_node": tree_node,
    "is_same_list": is_same_list,
    "is_same_tree": is_same_tree,
}
