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


NAMES = {
    "ListNode": ListNode,
    "TreeNode": TreeNode,
    "list_node": list_node,
    "tree_node": tree_node,
    "is_same_list": is_same_list,
    "is_same_tree": is_same_tree,
}
