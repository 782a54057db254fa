"""Texts that make a regular expression backtrack, from its own structure, and what looking at them costs.

    attack = prefix + pump * n + suffix

prefixes   nothing, and for each repeat of the expression a text that leads to it
pumps      texts that the body of each repeat takes, one for each branch; each beginning of the expression, which a
           search tries at every place; one character of each kind that the expression tells apart, and pairs of them
suffixes   a character that the expression does not expect there, so that all that was matched is given back

An expression that backtracks in more than one way (nested or adjacent repeats of the same characters, or a search that
restarts inside of what it has read) takes time that grows with n^2 or 2^n on one of these.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import signal
from collections.abc import Callable, Iterator
from re import _compiler, _parser  # type: ignore[attr-defined]
from re import _constants as sre  # type: ignore[attr-defined]
from typing import Any

MAX_PUMPS = 100
MAX_PREFIXES = 8
SUFFIXES = ("\x00", "!x\n")
_REPEATS = (sre.MAX_REPEAT, sre.MIN_REPEAT, sre.POSSESSIVE_REPEAT)
_ONE_CHARACTER = (sre.LITERAL, sre.NOT_LITERAL, sre.IN, sre.ANY)
_USUAL = "a1 _{\\A-.,éы\n"
_UNIVERSE = [
    *map(chr, range(9, 14)), *map(chr, range(32, 127)),
    *"\x00\xa0é²½ßыא中ア한①€“”«»「」《》\ue000\ue001\u200b\ud800😀",
]  # fmt: skip
Node = tuple[Any, Any]
"""What `re` parses an expression into: (kind, argument)."""


def attacks(pattern: re.Pattern[str]) -> Iterator[tuple[str, str, str]]:
    """(prefix, pump, suffix), the most telling pumps first."""
    tree = _parser.parse(pattern.pattern, pattern.flags)
    shape = _Shape(list(tree), tree.state.flags)
    parts = (1, 2, 3, 0.5, 0.99, 1.0)
    cuts = [(text, int(part if part in (1, 2, 3) else part * len(text))) for text in shape.whole for part in parts]
    beginnings = [*(text[:cut] for text, cut in cuts), *shape.whole]
    pairs = ["".join(pair) for pair in itertools.permutations(shape.kinds[:12], 2)]
    pumps = [pump for pump in dict.fromkeys([*shape.bodies, *beginnings, *shape.kinds, *pairs]) if pump]
    prefixes = list(dict.fromkeys(["", *shape.prefixes]))
    yield from itertools.product(prefixes[:MAX_PREFIXES], pumps[:MAX_PUMPS], SUFFIXES)


class _Shape:
    """Of an expression: texts that lead to each repeat, texts that the body of each takes, texts that the whole takes,
    and one character of each kind that it tells apart, those in most of its classes first."""

    def __init__(self, tree: list[Node], flags: int) -> None:
        self._flags = flags
        self._usual: dict[str, list[str]] = {}
        self._groups = {node[1][0]: list(node[1][3]) for node in _all(tree) if node[0] is sre.SUBPATTERN}
        self.prefixes: list[str] = []
        self.bodies: list[str] = []
        self._walk(tree, [""])
        self.whole = self._samples(tree, 4)
        self.kinds = self._kinds(tree)

    def _walk(self, nodes: list[Node], before: list[str]) -> None:
        for index, node in enumerate(nodes):
            lead = self._samples(nodes[:index], 2)
            here = [one + other for one in before for other in lead][:3]
            self.prefixes += here
            if node[0] in _REPEATS:
                self.bodies += self._samples(list(node[1][2]), 8)
            for inner in _inner(node):
                self._walk(inner, here)

    def _samples(self, nodes: list[Node], count: int) -> list[str]:
        """Some texts that a sequence takes; what only looks around takes none."""
        found = [""]
        for node in nodes:
            found = [one + other for other in self._sample(node, count) for one in found][:count]
        return found

    def _sample(self, node: Node, count: int) -> list[str]:
        kind, argument = node
        if kind in _REPEATS:
            low, high, body = argument
            times = [low] if low else [0, 1] if high else [0]
            return [text * time for time in times for text in self._samples(list(body), count)][: count + 1]
        if kind is sre.BRANCH:
            return [self._samples(branch, 1)[0] for branch in _inner(node)]
        if kind is sre.GROUPREF:
            return self._samples(self._groups.get(argument, []), 1)
        if kind in (sre.SUBPATTERN, sre.ATOMIC_GROUP):
            return self._samples(*_inner(node), count)
        if kind not in _ONE_CHARACTER:
            return [""]
        name = repr(node)
        if name not in self._usual:
            takes = self._matcher(node)
            usual = list(itertools.islice((sign for sign in (*_USUAL, *_UNIVERSE) if takes(sign)), 2))
            self._usual[name] = usual or _named(node)[:2] or [""]
        return self._usual[name]

    def _kinds(self, tree: list[Node]) -> list[str]:
        single = list({repr(node): node for node in _all(tree) if node[0] in _ONE_CHARACTER}.values())
        matchers = [self._matcher(node) for node in single]
        found: dict[tuple[bool, ...], str] = {}
        for sign in dict.fromkeys([*_UNIVERSE, *(sign for node in single for sign in _named(node))]):
            found.setdefault(tuple(takes(sign) for takes in matchers), sign)
        return [found[sort] for sort in sorted(found, key=sum, reverse=True)]

    def _matcher(self, node: Node) -> Callable[[str], bool]:
        state = _parser.State()
        state.flags, state.str = self._flags, ""
        compiled = _compiler.compile(_parser.SubPattern(state, [node]), self._flags)
        return lambda sign: compiled.match(sign) is not None


def _inner(node: Node) -> list[list[Node]]:
    """The sequences in a node."""
    kind, argument = node
    if kind in _REPEATS:
        return [list(argument[2])]
    if kind is sre.BRANCH:
        return [list(branch) for branch in argument[1]]
    if kind is sre.SUBPATTERN:
        return [list(argument[3])]
    if kind is sre.ATOMIC_GROUP:
        return [list(argument)]
    return [list(argument[1])] if kind in (sre.ASSERT, sre.ASSERT_NOT) else []


def _all(nodes: list[Node]) -> Iterator[Node]:
    for node in nodes:
        yield node
        for inner in _inner(node):
            yield from _all(inner)


def _named(node: Node) -> list[str]:
    """The characters that a node names, the first of each range."""
    kind, argument = node
    if kind is sre.IN:
        return [
            chr(item[0] if isinstance(item, tuple) else item)
            for name, item in argument
            if name in (sre.LITERAL, sre.RANGE)
        ]
    return [chr(argument)] if kind is sre.LITERAL else []


class TooSlowError(Exception):
    """A search that was cut off."""


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """`TooSlowError` after so much processor time; expressions heed signals while they are matched."""

    def stop(*_: object) -> None:
        raise TooSlowError

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
