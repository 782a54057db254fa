r"""Where the answer stands in a response: after the last `</think>`, in the last `\boxed{}`.

    response = <think> thinking </think> answer          (arXiv 2601.02346, section 3.4)

Everything here takes time linear in the text, so it may run in any process on any model output. What is not certain is
no answer: an unclosed `<think>` has none, and a last `\boxed{` that never closes has none, whatever came before it.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass

THINK_OPEN = "<think>"
THINK_CLOSE = "</think>"
MAX_BOXED_CHARS = 10_000
MAX_BOXES = 16
_TEX_BLANKS = " \t\r\n"
_MAX_WRAPPERS = 4

_BOX = re.compile(r"\\f?boxed\s*+\{")
_BLANKS = r"(?:[\s$&~]|\\[\\,;:!\s\[\]()]|\\q?quad(?![a-z]))"
_NAMED = r"(?:[A-Za-z](?:_\{?\w++\}?)?\s*+=)"
_LISTS = re.compile(
    rf"{_BLANKS}*+(?:[,;]|\\text\s*+\{{\s*+(?:and|or)\s*+\}}|and|or)(?:{_BLANKS}|and|or|,)*+{_NAMED}?{_BLANKS}*+"
)
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_WRAPPER = re.compile(r"\\(?:text|textbf|textit|texttt|textrm|mathrm|mathbf|mathtt|mbox|operatorname)\s*+\{")


@dataclass(frozen=True, slots=True)
class Response:
    """`thinking` is None without think tags; `answer` is None while the thinking is not closed."""

    thinking: str | None
    answer: str | None


def split_response(text: str) -> Response:
    """Splits a response at its last `</think>`. Without any tag the whole text is the answer."""
    close = text.rfind(THINK_CLOSE)
    if text.rfind(THINK_OPEN) > close:
        return Response(text[text.find(THINK_OPEN) + len(THINK_OPEN) :], None)
    if close < 0:
        return Response(None, text)
    start = text.find(THINK_OPEN, 0, close)
    start = 0 if start < 0 else start + len(THINK_OPEN)
    return Response(text[start:close], text[close + len(THINK_CLOSE) :])


def last_boxed(text: str) -> str | None:
    r"""The content of the last `\boxed{}`, stripped; None when there is none, or it is unclosed, empty or too long.

    Boxes that only a comma, a semicolon, "and" or "or" stands between are one list: `\boxed{1}, \boxed{2}` is "1, 2".
    Escaped braces do not count, as in TeX. Of nested boxes the innermost last one is taken.
    """
    starts = deque((match.span() for match in _BOX.finditer(text)), maxlen=MAX_BOXES)
    contents: list[str] = []
    following = 0
    while starts:
        opening, start = starts.pop()
        end = closing_brace(text, start, start + MAX_BOXED_CHARS + 1)
        if contents and not (0 <= end < following and _LISTS.fullmatch(text[end + 1 : following])):
            break
        if end < 0 or not (content := text[start:end].strip(_TEX_BLANKS)):
            return ", ".join(reversed(contents)) or None
        contents.append(content)
        following = opening
        if starts and opening - starts[-1][1] > MAX_BOXED_CHARS:
            break
    return ", ".join(reversed(contents)) or None


def closing_brace(text: str, start: int, stop: int | None = None) -> int:
    """The index of the brace that closes the group whose content begins at `start`; -1 when none before `stop` does."""
    depth = 1
    for match in _BRACE.finditer(text, start, len(text) if stop is None else stop):
        if match[0] == "{":
            depth += 1
        elif match[0] == "}":
            depth -= 1
            if depth == 0:
                return match.start()
    return -1


def unwrap(answer: str) -> str:
    r"""Removes what only typesets a whole answer: outer `$ $`, `\( \)`, `\text{ }` and its relatives, white space."""
    for _ in range(_MAX_WRAPPERS):
        answer = answer.strip()
        match = _WRAPPER.match(answer)
        if match and closing_brace(answer, match.end()) == len(answer) - 1:
            answer = answer[match.end() : -1]
        elif len(answer) > 2 and answer[0] == answer[-1] == "$":
            answer = answer.strip("$")
        elif len(answer) > 4 and answer.startswith(r"\(") and answer.endswith(r"\)"):
            answer = answer[2:-2]
        else:
            break
    return answer.strip()
