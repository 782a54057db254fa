r"""Unit vectors and determinants: 2\hat{i} - 5\hat{j} + \hat{k} is (2, -5, 1), and a vmatrix of numbers is a number.

Hats and arrows on i, j, k mark unit vectors; bold letters do where at least two of them are bold, since a bold i alone
may be the imaginary unit.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

from h1r.mathematics.parse import Node, variables
from h1r.mathematics.value import same_value

_STYLES = r"(?P<style>hat|widehat|vec|overrightarrow|mathbf|boldsymbol|textbf|bm|bf)"
_AXIS = r"\\?(?P<axis>imath|jmath|[ijkxyz])(?![A-Za-z])"
_MARKED = re.compile(
    rf"\\{_STYLES}(?![A-Za-z]) ?\{{? ?"
    rf"(?:\\(?P<inner>hat|vec|mathbf|boldsymbol|bm|bf|rm|mathrm)(?![A-Za-z]) ?\{{? ?)?{_AXIS} ?\}}{{0,2}}"
)
_HINT = re.compile("hat|vec|bf|bold|arrow|bm|[îĵ]")
_BOLD = frozenset(("mathbf", "boldsymbol", "textbf", "bm", "bf"))
_HATS = str.maketrans({"î": r"\hat{i}", "ĵ": r"\hat{j}"})
_NAMES = {"i": "i", "imath": "i", "x": "i", "j": "j", "jmath": "j", "y": "j", "k": "k", "z": "k"}
_PREFIX = "V_!"
AXES = tuple(f"{_PREFIX}{axis}" for axis in "ijk")
MAX_DETERMINANT = 4


def mark_unit_vectors(text: str) -> str:
    """The text with its unit vectors as unknowns of their own, which `components` finds again."""
    if not _HINT.search(text):
        return text
    text = text.translate(_HATS).replace("k\u0302", r"\hat{k}")
    found = list(_MARKED.finditer(text))
    axes = {_NAMES[match["axis"]] for match in found}
    hats = [match for match in found if match["style"] not in _BOLD or match["inner"]]
    coordinates = [match for match in found if match["axis"] in "xyz"]
    if not found or (len(axes) < 2 and (not hats or coordinates)):
        return text
    return _MARKED.sub(lambda match: rf" V_{{!{_NAMES[match['axis']]}}} ", text)


def components(node: Node) -> tuple[Node, ...] | None:
    """The coefficients of a sum of multiples of unit vectors: two, or three where the third axis occurs; else None."""
    names = variables(node)
    if names.isdisjoint(AXES):
        return None
    axes = AXES if AXES[2] in names else AXES[:2]
    found = tuple(_put(node, {axis: int(axis == one) for axis in axes}) for one in axes)
    total = _put(node, dict.fromkeys(axes, 1))
    tripled = _put(node, dict.fromkeys(axes, 3))
    nothing = _put(node, dict.fromkeys(axes, 0))
    added = found[0]
    for component in found[1:]:
        added = ("add", added, component)
    zero: Node = ("num", Fraction(0))
    is_linear = (
        same_value(nothing, zero) is True
        and same_value(total, added) is True
        and same_value(tripled, ("mul", ("num", Fraction(3)), added)) is True
    )
    return found if is_linear else None


def _put(node: Node, values: dict[str, int]) -> Node:
    if node[0] == "var":
        return ("num", Fraction(values[node[1]])) if node[1] in values else node
    return tuple(_put(part, values) if isinstance(part, tuple) else part for part in node)


def determinant(rows: Sequence[Sequence[Node]]) -> Node | None:
    """The determinant of a square array of at most MAX_DETERMINANT rows, by its first row; None for another shape."""
    size = len(rows)
    if not 1 <= size <= MAX_DETERMINANT or any(len(row) != size for row in rows):
        return None
    if size == 1:
        return rows[0][0]
    total: Node | None = None
    for column, entry in enumerate(rows[0]):
        minor = determinant([[*row[:column], *row[column + 1 :]] for row in rows[1:]])
        assert minor is not None
        term: Node = ("mul", entry, minor)
        if column % 2:
            term = ("neg", term)
        total = term if total is None else ("add", total, term)
    return total
