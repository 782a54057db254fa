r"""LaTeX or plain formulas to expression trees, by recursive descent, in time linear in the text.

    sum    = term (("+" | "-") term)*
    term   = factor (["*" | "/"] factor)*
    factor = atom ["^" exponent | "!" | degree]*

Trees are tuples: ("num", Fraction), ("var", name), ("const", name), ("add" | "mul" | "div" | "pow" | "binom", left,
right), ("root", degree, operand), ("log", base, operand), and ("neg" | a function, operand).

A juxtaposition is a product (`1/2x` is x/2), an integer before a proper fraction of integers is a mixed number, `e`
and `i` are the constants. Left out, as `UnreadableError`: words, sums and integrals, limits, ellipses, matrices.
"""

from __future__ import annotations

import re
from fractions import Fraction
from itertools import islice
from typing import Any

Node = tuple[Any, ...]

MAX_TOKENS = 400
MAX_DEPTH = 40
MAX_DIGITS = 1_000
WORD_OPEN, WORD_CLOSE = "\ue000", "\ue001"
"""Private marks around what stood in `\\text{}` and its relatives: words, no product of letters."""

_TOKEN = re.compile(r"\s*(\d+(?:\.\d+)?|\.\d+|\\(?:[A-Za-z]+|.)|[A-Za-z]'*|\*\*|\S)", re.DOTALL)

FUNCTIONS = {
    **{name: name for name in ("sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh", "ln", "exp")},
    **{f"arc{name}": f"a{name}" for name in ("sin", "cos", "tan", "cot", "sec", "csc")},
}
_INVERSE = {name: f"a{name}" for name in ("sin", "cos", "tan", "cot", "sec", "csc")}
_GREEK = frozenset(
    f"\\{name}"
    for name in (
        *("alpha", "beta", "gamma", "delta", "epsilon", "varepsilon", "zeta", "eta", "theta", "vartheta", "iota"),
        *("kappa", "lambda", "mu", "nu", "xi", "rho", "sigma", "tau", "phi", "varphi", "chi", "psi", "omega", "ell"),
        *("Gamma", "Delta", "Theta", "Lambda", "Xi", "Pi", "Sigma", "Phi", "Psi", "Omega", "hbar"),
    )
)
_CLOSERS = {"(": ")", "[": "]", "{": "}", r"\lfloor": r"\rfloor", r"\lceil": r"\rceil", r"\lvert": r"\rvert"}
_BEFORE_NUMBER = frozenset((")", "]", "}", r"\pi"))
"""After these a number is a factor (`(n-2) 2^n`); after a number or a letter it is more likely a slip."""
_ROUNDED = {r"\lfloor": "floor", r"\lceil": "ceil", r"\lvert": "abs"}
_ATOM_COMMANDS = (
    frozenset((r"\frac", r"\binom", r"\sqrt", r"\log", r"\lg", r"\pi", r"\infty", r"\exp"))
    | frozenset(f"\\{name}" for name in FUNCTIONS)
    | _GREEK
    | frozenset(_ROUNDED)
)


class UnreadableError(ValueError):
    """The text is no formula that this parser knows."""


def parse(text: str) -> Node:
    """The tree of a formula; `UnreadableError` for anything else. Never raises another error on a string."""
    parser = _Parser(text)
    node = parser.sum(0)
    if parser.position != len(parser.tokens):
        raise UnreadableError(f"unexpected `{parser.tokens[parser.position]}`")
    return node


def variables(node: Node) -> frozenset[str]:
    """The names of the unknowns in a tree."""
    if node[0] == "var":
        return frozenset((node[1],))
    return frozenset().union(*(variables(part) for part in node[1:] if isinstance(part, tuple)))


def mentions(node: Node, name: str) -> bool:
    """Whether the constant `name` occurs in a tree."""
    if node[0] == "const":
        return bool(node[1] == name)
    return any(mentions(part, name) for part in node[1:] if isinstance(part, tuple))


class _Parser:
    def __init__(self, text: str) -> None:
        self.tokens = [match[1].strip() for match in islice(_TOKEN.finditer(text), MAX_TOKENS + 1)]
        if len(self.tokens) > MAX_TOKENS:
            raise UnreadableError("the formula is too long")
        if len(text) > MAX_DIGITS and any(len(token) > MAX_DIGITS and _is_number(token) for token in self.tokens):
            raise UnreadableError("a number is too long")
        self.position = 0
        self.bars = 0

    def peek(self) -> str:
        return self.tokens[self.position] if self.position < len(self.tokens) else ""

    def take(self) -> str:
        if self.position == len(self.tokens):
            raise UnreadableError("the formula ends too early")
        self.position += 1
        return self.tokens[self.position - 1]

    def expect(self, token: str) -> None:
        if self.take() != token:
            raise UnreadableError(f"`{token}` is missing")

    def sum(self, depth: int) -> Node:
        if depth > MAX_DEPTH:
            raise UnreadableError("the formula is nested too deeply")
        node = self.term(depth + 1)
        while self.peek() in ("+", "-"):
            sign = self.take()
            right = self.term(depth + 1)
            node = ("add", node, right if sign == "+" else ("neg", right))
        return node

    def term(self, depth: int) -> Node:
        sign = 1
        while self.peek() in ("+", "-"):
            sign = -sign if self.take() == "-" else sign
        node = self.factor(depth)
        mixed = node[0] == "num" and node[1].denominator == 1
        while True:
            token = self.peek()
            if token in ("*", r"\cdot", r"\times"):
                self.take()
                node = ("mul", node, self.signed_factor(depth))
            elif token in ("/", r"\div"):
                self.take()
                node = ("div", node, self.signed_factor(depth))
            elif self.starts_atom(token):
                if token[0] in ".0123456789" and self.tokens[self.position - 1] not in _BEFORE_NUMBER:
                    raise UnreadableError("a number follows a factor with no sign between")
                right = self.factor(depth)
                node = ("add" if mixed and _is_proper(token, right) else "mul", node, right)
            else:
                return ("neg", node) if sign < 0 else node
            mixed = False

    def signed_factor(self, depth: int) -> Node:
        if self.peek() in ("+", "-"):
            sign = self.take()
            node = self.factor(depth)
            return ("neg", node) if sign == "-" else node
        return self.factor(depth)

    def starts_atom(self, token: str) -> bool:
        if not token:
            return False
        if token == "|":
            return self.bars == 0
        return token[0].isalnum() or token[0] == "." or token in "([{" or token in _ATOM_COMMANDS

    def factor(self, depth: int) -> Node:
        node = self.atom(depth + 1)
        while True:
            token = self.peek()
            if token in ("^", "**"):
                self.take()
                node = ("pow", node, self.exponent(depth + 1))
                if self.peek() in ("^", "**"):
                    raise UnreadableError("a double exponent")
            elif token == "!":
                self.take()
                node = ("factorial", node)
            elif token == r"\degree":
                self.take()
                node = ("mul", node, ("div", ("const", "pi"), ("num", Fraction(180))))
            else:
                return node

    def exponent(self, depth: int) -> Node:
        if self.peek() in ("+", "-"):
            return ("neg", self.exponent(depth + 1)) if self.take() == "-" else self.exponent(depth + 1)
        if depth > MAX_DEPTH:
            raise UnreadableError("the formula is nested too deeply")
        return self.atom(depth + 1)

    def argument(self, depth: int) -> Node:
        r"""A braced group or, as in TeX, a single token: `\frac12` is one half."""
        token = self.peek()
        if token.isdigit() and len(token) > 1:
            self.tokens[self.position] = token[1:]
            return ("num", Fraction(int(token[0])))
        return self.atom(depth)

    def atom(self, depth: int) -> Node:
        if depth > MAX_DEPTH:
            raise UnreadableError("the formula is nested too deeply")
        token = self.take()
        if (token[0].isdecimal() and token.isascii()) or (token[0] == "." and len(token) > 1):
            return ("num", Fraction(int(token) if token.isdecimal() else token))  # a text costs twice as much
        if token in _CLOSERS:
            node = self.sum(depth + 1)
            self.expect(_CLOSERS[token])
            return (_ROUNDED[token], node) if token in _ROUNDED else node
        if token == "|":
            self.bars += 1
            node = self.sum(depth + 1)
            self.expect("|")
            self.bars -= 1
            return ("abs", node)
        if token[0] == "\\":
            return self.command(token, depth)
        if token[0].isalpha() and token[0].isascii():
            return self.name(token)
        raise UnreadableError(f"unexpected `{token}`")

    def name(self, token: str) -> Node:
        if self.peek() == "_":
            self.take()
            return ("var", f"{token}_{self.subscript()}")
        return ("const", token) if token in ("e", "i") else ("var", token)

    def subscript(self) -> str:
        if self.peek() != "{":
            return self.take()
        start, level = self.position, 0
        while True:
            level += {"{": 1, "}": -1}.get(self.take(), 0)
            if level == 0:
                return "".join(self.tokens[start + 1 : self.position - 1])

    def command(self, token: str, depth: int) -> Node:
        if token in (r"\pi", r"\infty"):
            return ("const", token[1:])
        if token == r"\frac":
            return ("div", self.argument(depth + 1), self.argument(depth + 1))
        if token == r"\binom":
            return ("binom", self.argument(depth + 1), self.argument(depth + 1))
        if token == r"\sqrt":
            degree: Node = ("num", Fraction(2))
            if self.peek() == "[":
                self.take()
                degree = self.sum(depth + 1)
                self.expect("]")
            return ("root", degree, self.argument(depth + 1))
        if token in (r"\log", r"\lg"):
            base: Node | None = ("num", Fraction(10)) if token == r"\lg" else None
            if self.peek() == "_":
                self.take()
                base = self.argument(depth + 1)
            power = self.function_power(depth)
            operand = self.operand(depth + 1)
            logarithm = ("log", base, operand) if base else ("log10", operand)
            return ("pow", logarithm, power) if power else logarithm
        if token[1:] in FUNCTIONS:
            name = FUNCTIONS[token[1:]]
            power = self.function_power(depth)
            operand = self.operand(depth + 1)
            if power == ("neg", ("num", Fraction(1))):
                if name not in _INVERSE:
                    raise UnreadableError(f"the inverse of `{name}`")
                return (_INVERSE[name], operand)
            return ("pow", (name, operand), power) if power else (name, operand)
        if token in _GREEK:
            return self.name(token)
        raise UnreadableError(f"unknown command `{token}`")

    def function_power(self, depth: int) -> Node | None:
        if self.peek() != "^":
            return None
        self.take()
        return self.exponent(depth + 1)

    def operand(self, depth: int) -> Node:
        r"""What a function without brackets applies to: `\sin 2x \cos x` is sin(2x) cos(x)."""
        if self.peek() in ("(", "{", "["):
            return self.atom(depth)
        node = self.factor(depth)
        while (token := self.peek()) and self.starts_atom(token) and token[1:] not in FUNCTIONS:
            if token in (r"\log", r"\lg", "(") or token[0].isdigit():
                break
            node = ("mul", node, self.factor(depth))
        return node


def _is_number(token: str) -> bool:
    return token[0] == "." or token[0].isdecimal()


def _is_proper(token: str, node: Node) -> bool:
    """Whether a factor is a literal fraction of positive integers below one, as in a mixed number."""
    if token != r"\frac" or node[0] != "div" or node[1][0] != "num" or node[2][0] != "num":
        return False
    return 0 < node[1][1] < node[2][1]
