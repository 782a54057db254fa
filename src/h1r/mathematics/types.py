r"""What kind of answer a text is. Answers of different kinds differ, but for the readings that `compare` lists.

    Value      3/4, \frac{x+2}{7}, 12 \text{ cm}, 0.333333
    Group      (1,2), [0,1), \{1,2\}, and the bare lists 1,2 and x=1 or x=2
    Union      (-\infty,0) \cup \{1\}, \mathbb{R} \setminus \{2\}
    Relation   y=2x+1, 0<x<1
    Matrix     \begin{pmatrix}1&0\\0&1\end{pmatrix}
    Ratio      3:2
    Based      1101_2
    Words      \text{odd}, no solution
    Choice     (D), D. Alina
    Opaque     what is none of these: for `math-verify`

`read.read` makes them from text.
"""

from __future__ import annotations

from dataclasses import dataclass

from h1r.mathematics.parse import Node
from h1r.mathematics.units import Unit


@dataclass(frozen=True, slots=True)
class Answer:
    """`text` is the squeezed text, for comparison letter by letter."""

    text: str


@dataclass(frozen=True, slots=True)
class Value(Answer):
    """A formula, with the unit it is measured in and the most decimals that a number in it is written with."""

    node: Node
    unit: Unit | None = None
    decimals: int = 0


@dataclass(frozen=True, slots=True)
class Group(Answer):
    """Elements between brackets, both empty for a bare list. After `[` and `(` their order counts.

    `names` are those that the elements of a tuple were given, as in (x,y) = (1,2); `either`: an "or" joined the list.
    """

    opening: str
    items: tuple[Answer, ...]
    closing: str
    names: tuple[str, ...] = ()
    either: bool = False


@dataclass(frozen=True, slots=True)
class Relation(Answer):
    """`sides[0] signs[0] sides[1] ...`; the signs are among = < <= != and never point to the left.

    `rounded` is what stood after an \\approx behind the last side, when it is that side rounded.
    """

    sides: tuple[Answer, ...]
    signs: tuple[str, ...]
    rounded: Answer | None = None


@dataclass(frozen=True, slots=True)
class Union(Answer):
    """A union of intervals and finite sets, or, with `removed`, the real line (or an interval) without some points."""

    parts: tuple[Answer, ...]
    removed: Answer | None = None


@dataclass(frozen=True, slots=True)
class Matrix(Answer):
    rows: tuple[tuple[Answer, ...], ...]


@dataclass(frozen=True, slots=True)
class Ratio(Answer):
    parts: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Based(Answer):
    """Digits in a stated base."""

    digits: str
    base: int


@dataclass(frozen=True, slots=True)
class Words(Answer):
    """Text: case, punctuation and articles do not count."""

    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Choice(Answer):
    """A letter marked as a choice, and the text of that choice when it is repeated."""

    letter: str
    content: str


@dataclass(frozen=True, slots=True)
class Opaque(Answer):
    """No form that this reader knows. `readable` is False when no other reader should try either."""

    source: str
    readable: bool = True
