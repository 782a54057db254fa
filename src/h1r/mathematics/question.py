r"""The formulas of a question: between dollars, in displays, and in plain text (Add 1/3 and 1/4; Factor x^2 - 9).

Listed options, (A) ... (B) ... (C) ..., are none of them: one is the answer. Linear in the text.
"""

from __future__ import annotations

import re
from functools import lru_cache

from h1r.mathematics.worded import worded_formulas

MAX_QUESTION_CHARS = 20_000
MAX_FORMULAS = 64

_DELIMITER = re.compile(
    r"\\\\|\\\[|\\\]|\\\(|\\\)|\$\$|\$|\\(?:begin|end) ?\{(?:align|equation|gather|multline|eqnarray)\*?\}|\\.",
    re.DOTALL,
)
_CLOSING = {r"\[": r"\]", r"\(": r"\)", "$$": "$$", "$": "$"}
_DRAWING = re.compile(r"\[asy\]|\[/asy\]")
_OPTION = re.compile(r"(?<!\w)(?:\\text(?:bf|rm)? ?\{ ?)?\(([A-E])\)|(?:^|\n) ?([A-E])[.):] ")
_LINE = re.compile(r"\\\\(?:\[[^\[\]\n]{0,20}\])?")
_BLANK_TO_FILL = re.compile(
    r"\\hspace ?\{[^{}]{0,20}\}|\\(?:underline|boxed|text|quad|qquad|hspace|square|Box)(?![A-Za-z])"
)
_PROSE = re.compile(r"(?<![\\A-Za-z])[a-z]{3,}")
_NAMES_OF_FUNCTIONS = frozenset(("sqrt", "sin", "cos", "tan", "log", "ln", "exp", "pi", "cot", "sec", "csc"))
_PRODUCTS = frozenset(("xy", "yz", "xz", "xyz", "ab", "bc", "ac", "abc", "mn", "pq", "rs", "st"))
_OPERATIONS = {"times": "*", "plus": "+", "minus": "-", "divided by": "/", "multiplied by": "*", "x": "*"}
_OPERATION = re.compile(r"(?<=\d) (times|plus|minus|divided by|multiplied by|x) (?=-?[\d(])")
_TOKEN = re.compile(
    r"(?P<number>\d{1,3}(?:,\d{3}){1,12}+(?![\d,])(?:\.\d++)?|\d++(?:\.\d++)?|\.\d++)|(?P<word>[A-Za-z]++)"
    r"|(?P<sign>\*\*|[-+*/^(){}=!:×÷·−⋅√²³π|⌊⌋⌈⌉])|(?P<blank>[ \t]++)|(?P<other>.)",
    re.DOTALL,
)
_OPERATORS = frozenset(("+", "-", "*", "/", "^", "**", "×", "÷", "·", "−", "⋅", "√", "!", "²", "³", "=", ":"))
_OPERATOR = re.compile(r"[-+*/^×÷·−⋅√!²³=:]")
_COMMAND = re.compile(r"\\[A-Za-z]{2}")
_PIECE = re.compile(r"\S++")
_WORD = re.compile(r"[(\"'“]?[A-Za-z]{2,}+[^\w\\({^=+*/-]*+\Z|[aAI]\Z")
_TRAILING_OPERATORS = "+-*/^×÷·−⋅√=(: "


@lru_cache(maxsize=2048)
def question_formulas(question: str) -> tuple[str, ...]:
    """The formulas of a question as they stand there, in order, without their delimiters and without repetitions."""
    return _distinct(_split(question)[0])


@lru_cache(maxsize=512)
def option_formulas(question: str) -> tuple[str, ...]:
    """The formulas of the listed options of a question, as they stand there."""
    return _distinct(_split(question)[1])


def _distinct(text: str) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for formula in _formulas(text):
        formula = _trimmed(formula)
        if formula:
            found[formula] = None
        if len(found) == MAX_FORMULAS:
            break
    return tuple(found)


def _split(question: str) -> tuple[str, str]:
    """The question up to the first of its listed options, and the options, both without drawings."""
    question = " ".join(_DRAWING.split(question[:MAX_QUESTION_CHARS])[::2])
    first = None
    for match in _OPTION.finditer(question):
        letter = match[1] or match[2]
        if letter == "A":
            first = match.start()
        elif letter == "B" and first is not None:
            return question[:first], question[first:]
    return question, ""


def _formulas(question: str) -> list[str]:
    """Pieces between delimiters, in order, and the plain formulas of what stands between them."""
    found: list[str] = []
    plain = start = 0
    closing = ""
    for match in _DELIMITER.finditer(question):
        token = match[0]
        if not closing:
            if token in _CLOSING:
                closing = _CLOSING[token]
            elif token.startswith(r"\begin"):
                closing = r"\end" + token.removeprefix(r"\begin")
            else:
                continue
            found += _plain_formulas(question[plain : match.start()])
            start = match.end()
        elif token == closing or (closing == "$" and token == "$$"):
            content = question[start : match.start()]
            if closing == "$" and len(_PROSE.findall(content)) > 1 and "text" not in content:
                found += _plain_formulas(content)  # two sums of money
            else:
                found += _lines(content)
            closing, plain = "", match.end()
    return found + _plain_formulas(question[start if closing else plain :])


def _lines(content: str) -> list[str]:
    """The lines of a formula that is set over several, unless these are the rows of a matrix or of cases."""
    if r"\\" not in content or "matrix" in content or "array" in content or "cases" in content:
        return [content]
    return [line.replace("&", "") for line in _LINE.split(re.sub(r"\\(?:begin|end) ?\{[a-z]{1,12}\*?\}", "", content))]


def _trimmed(formula: str) -> str:
    r"""A formula without the end that asks for its value: 23 \cdot 47 = ?"""
    formula = formula.strip(" \t\r\n.,;:?~")
    head, sign, tail = formula.rpartition("=")
    if (
        sign
        and head.strip()
        and not head.endswith(("<", ">", "!", "="))
        and not any(map(str.isalnum, _BLANK_TO_FILL.sub("", tail)))
    ):
        formula = head
    return formula.removeprefix("=").strip(" \t\r\n.,;:?~")


def _plain_formulas(text: str) -> list[str]:
    """Runs of numbers, single letters and operators in prose, of which two at least are operands."""
    found, text = _latex_formulas(text)
    found += worded_formulas(text)
    text = _OPERATION.sub(lambda match: f" {_OPERATIONS[match[1]]} ", text)
    if not _OPERATOR.search(text) and not any(name in text for name in _NAMES_OF_FUNCTIONS):
        return found  # prose, as most of a question is
    run: list[str] = []
    operand = blank = False
    for match in _TOKEN.finditer(text):
        kind, token = match.lastgroup, match[0]
        if kind == "blank":
            blank = True
            continue
        is_operand = kind == "number" or (
            kind == "word" and (len(token) == 1 or token in _PRODUCTS or token in _NAMES_OF_FUNCTIONS)
        )
        if kind != "sign" and not is_operand:
            found += _run(run)
            run, operand = [], False
        else:
            if run and is_operand and operand and blank:
                found += _run(run)
                run = []
            if blank and run:
                run.append(" ")
            run.append(token)
            operand = is_operand
        blank = False
    return found + _run(run)


def _latex_formulas(text: str) -> tuple[list[str], str]:
    r"""Formulas with commands that no delimiters enclose (Compute \binom{7}{2}), and the text without them."""
    if not _COMMAND.search(text):
        return [], text
    found: list[str] = []
    rest: list[str] = []
    run: list[str] = []
    for piece in [*_PIECE.findall(text), "end"]:
        if _COMMAND.search(piece) or not _WORD.match(piece):
            run.append(piece)
            continue
        formula = " ".join(run)
        if _COMMAND.search(formula) and formula.count("{") == formula.count("}"):
            found.append(formula)
            rest.append(";")
        else:
            rest += run
        rest.append(piece)
        run = []
    return found, " ".join(rest[:-1])


def _run(tokens: list[str]) -> list[str]:
    text = "".join(tokens).strip().rstrip(_TRAILING_OPERATORS).lstrip("+*/^×÷·⋅=): ")
    if text.startswith(("- ", "− ")):
        text = text[1:].lstrip()
    if text.count("(") != text.count(")"):
        text = text.lstrip("( ").rstrip(") ")
    operands = sum(token[0].isalnum() for token in tokens)
    operated = any(token in _NAMES_OF_FUNCTIONS or (token in _OPERATORS and token in text) for token in tokens)
    if not operated or not (operands > 1 or set(text) & set("!√²³")):
        return []
    return [text] if text.count("(") == text.count(")") and text.count("{") == text.count("}") else []
