r"""Where the answer stands in a response: after the last `</think>`, in the last `\boxed{}`.

    response = <think> thinking </think> answer          (arXiv 2601.02346, section 3.4)

Everything here takes time linear in the text, so it may run in any process on any model output. What is not certain is
no answer: an unclosed `<think>` has none, and a last `\boxed{` that never closes has none, whatever came before it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

THINK_OPEN = "<think>"
THINK_CLOSE = "</think>"
MAX_BOXED_CHARS = 10_000
_MAX_WRAPPERS = 4

_BOX = re.compile(r"\\f?boxed\s*\{")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_WRAPPER = re.compile(r"\\(?:text|textbf|textit|texttt|textrm|mathrm|mathbf|mathtt|mbox|operatorname)\s*\{")


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

    Escaped braces do not count, as in TeX. Of nested boxes the innermost last one is taken.
    """
    start = -1
    for match in _BOX.finditer(text):
        start = match.end()
    if start < 0:
        return None
    end = closing_brace(text, start)
    if end < 0 or end - start > MAX_BOXED_CHARS:
        return None
    return text[start:end].strip() or None


def closing_brace(text: str, start: int) -> int:
    """The index of the brace that closes the group whose content begins at `start`; -1 when it is not closed."""
    depth = 1
    for match in _BRACE.finditer(text, start):
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
