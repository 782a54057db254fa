"""Pairs of questions that are the same, and pairs that are not: by rule, from a few dozen questions and rewritings."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

QUESTIONS = (
    r"Find the value of $\frac{1}{2} + \sqrt{3}$ when $x \leq 4$.",
    r"Let $f(x) = x^2 - 5x + 6$. What is $f'(2) \cdot f(3)$?",
    r"Compute $(8-2)\times 3$ and give $5!$ as well.",
    r"How many integers $n$ with $1 \le n \le 2,000$ have at least 3 prime factors?",
    r"In triangle $ABC$, $\angle ABC = 90^\circ$ and $AB = 12$. Find $BC$ if $AC = 13$.",
    r"Let $A \cup B$ have 10 elements and $A \cap B$ have 4. How many are in $A$ if $B$ has 7?",
    r"The roots of $z^{6}+z^{4}+z^{2}+1=0$ are vertices of a polygon. Find the sum of $|z|^2$.",
    r"A pump gives 12.5 litres a minute; how long does it take for 340 litres?",
    r"Evaluate $\sum_{k=1}^{10} \binom{10}{k} 2^k$.",
    r"If $\sin x + \cos x = \tfrac{1}{5}$, what is $\tan x$?",
    r"What is the probability $P(X \geq 3)$ for $X \sim B(5, 0.2)$?",
    r"Solve $2x + 3y = 7$ and $x - y = 1$ for $(x, y)$.",
    r"The ratio of boys to girls is 3:5. How many girls are there if 24 are boys?",
    r"What is $\log_2 8 - \ln e$ to the nearest whole number?",
    r"How far does a train go in 2 hours at 60 km/h, then in 3 hours at 80 km/h?",
    r"Determine $a_n$ for $a_1 = 1$ and $a_{n+1} = 2a_n + 1$.",
    r"For which $x$ is $\frac{x-1}{x+2} > 0$ and $x \ne 1$?",
    r"Let $xy + yz + zx = 20$ and $x + y + z = 9$. Find $x^2 + y^2 + z^2$.",
    r"A cube has edges of 4 cm. What is its volume in $\text{cm}^3$?",
    r"Let $a, b$ and $c$ be digits with $abc - cba = 396$. Find $a - c$ and $10a + b$.",
    r"What is $|3 - \pi| + |\pi - 4|$ and $(-2)^3$ in simplest form?",
    r"A bag has 6 red and 4 blue balls. What is the chance that both of 2 balls are red?",
    r"Let $S(n)$ be the sum of the digits of $n$. Find $S(S(2^{10}))$.",
    r"How many solutions has $x^2 \equiv 1 \pmod{8}$ with $0 \leq x < 8$?",
    r"Find $\lim_{x \to 0} \frac{\sin 3x}{x}$ and $f''(0)$ for $f(x) = \cos x$.",
    r"What is the area of a circle with radius $r = 2\sqrt{5}$ cm to 1 decimal?",
    r"Evaluate $\int_0^1 x e^{x} \, dx$ and compare it with $e - 2$.",
    r"Is $\forall x \in S: x^2 \neq 2$ true for $S = \{1, 2, 3\}$?",
)


def _replaced(*pairs: tuple[str, str]) -> Callable[[str], str]:
    def rewritten(text: str) -> str:
        for old, new in pairs:
            text = text.replace(old, new)
        return text

    return rewritten


def _outside_commands(text: str, change: Callable[[str], str]) -> str:
    return "".join(part if part.startswith("\\") else change(part) for part in re.split(r"(\\[A-Za-z]+)", text))


RESTYLED: dict[str, Callable[[str], str]] = {
    "spaces around operators": lambda text: _outside_commands(
        text, lambda part: re.sub(r"\s*([+=<>])\s*", r"  \1 ", part)
    ),
    "no space around operators": lambda text: re.sub(r"\s*([+=<>])\s*", r"\1", text),
    "parentheses as delimiters": lambda text: re.sub(r"\$([^$]*)\$", r"\\(\1\\)", text),
    "display as delimiters": lambda text: re.sub(r"\$([^$]*)\$", r"$$\1$$", text),
    "no delimiters": _replaced(("$", "")),
    "sized brackets": _replaced(("(", r"\left("), (")", r"\right)")),
    "display fractions": _replaced((r"\tfrac", r"\dfrac"), (r"\frac", r"\dfrac"), (r"\binom", r"\dbinom")),
    "other relations": _replaced((r"\leq", "≤"), (r"\le ", "≤ "), (r"\geq", r"\geqslant"), (r"\neq", r"\ne")),
    "braces round one token": lambda text: re.sub(r"([\^_])([0-9a-z])(?![0-9a-z])", r"\1{\2}", text),
    "thin spaces": lambda text: re.sub(r"(?<=\d) ?(?=[+=<>])", r"\\,", text),
    "another minus": _replaced(("-", "−")),
    "full-width digits": lambda text: text.translate(str.maketrans("0123456789", "０１２３４５６７８９")),
    "no mark at the end": lambda text: text.rstrip("?."),
    "lower case at the start": lambda text: text[0].lower() + text[1:],
    "lines broken at spaces": lambda text: re.sub(r" (?=[a-z]{3})", "\n", text),
    "a byte-order mark and zero-width spaces": lambda text: "\ufeff" + text.replace(" and ", " \u200band "),
}
"""Rewritings that change nothing of what is asked."""

CHANGED: dict[str, Callable[[str], str]] = {
    "another number": lambda text: re.sub(r"\d(?=\D*$)", lambda found: str((int(found[0]) + 1) % 10), text),
    "another first number": lambda text: re.sub(r"\d", lambda found: str((int(found[0]) + 3) % 10), text, count=1),
    "plus for minus": lambda text: text.replace("-", "+", 1) if "-" in text else text.replace("+", "-", 1),
    "a relation turned": lambda text: re.sub(
        r"\\le(?!f)q?|\\geq?|>|=", lambda found: "<" if found[0] != "<" else ">", text, count=1
    ),
    "most for least": _replaced(("at least", "at most")),
    "intersection for union": _replaced((r"\cup", r"\cap")),
    "no factorial": _replaced(("!", "")),
    "no prime": _replaced(("f'", "f")),
    "a prime": lambda text: re.sub(r"\b([fxz])(?=[(^ =])", r"\1'", text, count=1),
    "another bracket": _replaced(
        ("(8-2)\\times 3", "8-(2\\times 3)"), ("(x, y)", "[x, y]"), ("f(3)", "f3"), ("(5, 0.2)", "5, 0.2")
    ),
    "another case": lambda text: re.sub(
        r"(?<!^)(?<![A-Za-z\\])([xnzkABCSP])(?![A-Za-z])", lambda found: found[1].swapcase(), text, count=1
    ),
    "another power": lambda text: re.sub(
        r"\^\{?(\d)", lambda found: found[0].replace(found[1], str(int(found[1]) + 1)), text, count=1
    ),
    "a root less": lambda text: re.sub(r"\\sqrt\{(.)\}", r"\1", text),
    "other function": _replaced((r"\sin", r"\cos"), (r"\log", r"\exp"), (r"\sum", r"\prod")),
    "boys for girls": _replaced(
        ("boys to girls", "girls to boys"), ("train", "bus"), ("cube", "sphere"), ("pump", "tap")
    ),
    "a word more": lambda text: text.replace("Find", "Find twice").replace("What is", "What is half of"),
    "not": lambda text: text.replace(" is ", " is not ", 1),
    "per cent": lambda text: re.sub(r"(\d)(?=\D*$)", r"\1%", text),
    "no absolute value": _replaced(("|z|", "z")),
    "a decimal point": lambda text: re.sub(r"(?<![\d.])(\d)(\d)(?![\d.])", r"\1.\2", text, count=1),
    "numbers pulled together": lambda text: re.sub(r"(\d)([:/+-]) ?(\d)", r"\1\3", text, count=1),
}
"""Rewritings that ask something else, where they change the text."""


def same() -> Iterator[tuple[str, str, str]]:
    """(rewriting, question, the same question)."""
    yield from _pairs(RESTYLED)


def different() -> Iterator[tuple[str, str, str]]:
    """(rewriting, question, another question)."""
    yield from _pairs(CHANGED)


def _pairs(rewritings: dict[str, Callable[[str], str]]) -> Iterator[tuple[str, str, str]]:
    for question in QUESTIONS:
        for name, rewrite in rewritings.items():
            if (other := rewrite(question)) != question:
                yield name, question, other
