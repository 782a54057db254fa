"""The names that a solution finds without importing them, as LeetCode gives them."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from h1r.sandbox import structures

# fmt: off
PRELUDE_MODULES = (
    "bisect", "collections", "copy", "datetime", "decimal", "fractions", "functools", "heapq", "io", "itertools",
    "json", "math", "operator", "random", "re", "statistics", "string", "sys", "time", "typing",
)
_STARRED = (
    "string", "re", "datetime", "collections", "heapq", "bisect", "copy", "math", "random", "statistics", "itertools",
    "functools", "operator", "typing", "builtins",  # builtins last: `pow` is the built-in one again
)
# fmt: on


@lru_cache(maxsize=1)
def prelude() -> dict[str, Any]:
    """The names that LeetCode gives a solution: common modules, what is in them, `ListNode` and `TreeNode`."""
    names: dict[str, Any] = {}
    for name in PRELUDE_MODULES:
        names[name] = __import__(name)
    modules = dict(names)
    for name in _STARRED:
        module = __import__(name)
        public = getattr(module, "__all__", None) or [item for item in dir(module) if not item.startswith("_")]
        names |= {item: getattr(module, item) for item in public}
    return names | modules | {"ListNode": structures.ListNode, "TreeNode": structures.TreeNode}
