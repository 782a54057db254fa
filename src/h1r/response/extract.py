r"""Where the answer stands in a response: after the last `</think>`, in the last `\boxed{}`.

    response = <think> thinking </think> answer          (arXiv 2601.02346, section 3.4)

Everything here takes time linear in the text, so it may run in any process on any model output. What is not certain is
no answer: an unclosed `<think>` has none, and a last `\boxed{` that never closes has none, whatever came before it.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass

from h1r.response.withdrawn import is_withdrawn

THINK_OPEN = "<think>"
THINK_CLOSE = "</think>"
_TAG_END = "think>"
MAX_BOXED_CHARS = 10_000
MAX_BOXES = 16
MAX_OPENINGS = 64
"""Of these, the last in a text, some may be no boxes: a command that is named in prose."""
_TEX_BLANKS = " \t\r\n"
_MAX_WRAPPERS = 4

_MAX_BEFORE_BOX = len(r"\frame")
_OPENING = re.compile(r"\\(?:f?boxed|fbox|framebox)(?![A-Za-z])")
_BOX = re.compile(
    r"\\(?:f?boxed|fbox|framebox(?:\[[^\]\n]{0,20}\]){0,2})(?![A-Za-z])(?:\s*+\{|\s*+(?P<bare>(?![\s{])[^$\n]{1,60}?)(?=\s?(?:\$|\\\)|\\\]))"
    r"|\s++(?P<number>-?\d[\d,]{0,30}(?:\.\d{1,30})?(?:/\d{1,30})?))"
)
"""With braces, or in TeX's form without: what ends with the formula, or a number."""
_PROSE = re.compile(r"(?<![A-Za-z\\])[A-Za-z]{2,}+(?:\s|\Z)")
_PART = re.compile(r"(?:(?:^|\n)[ \t*#>-]{0,8}(?:[Pp]art )?|[.;,] [Pp]art )\(?([a-e]|i{1,3}|iv|v)\)")
"""The letter of a part of the answer at the beginning of a line: (a), b), Part (c)."""
_SEQUENCES = ("abcde", ("i", "ii", "iii", "iv", "v"))
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
    if _TAG_END not in text:  # one pass over a long text that has no tag
        return Response(None, text)
    close = text.rfind(THINK_CLOSE)
    if text.find(THINK_OPEN, close + 1) >= 0:
        return Response(text[text.find(THINK_OPEN) + len(THINK_OPEN) :], None)
    if close < 0:
        return Response(None, text)
    start = text.find(THINK_OPEN, 0, close)
    start = 0 if start < 0 else start + len(THINK_OPEN)
    return Response(text[start:close], text[close + len(THINK_CLOSE) :])


def last_boxed(text: str) -> str | None:
    r"""The content of the last `\boxed{}`, stripped; None when there is none, or it is unclosed, empty or too long.

    Boxes that only a comma, a semicolon, "and" or "or" stands between are one list: `\boxed{1}, \boxed{2}` is "1, 2".
    So are boxes of which each has a part of the answer, (a) ... \boxed{1} and (b) ... \boxed{2} on other lines, which
    is "(a) 1, (b) 2". Escaped braces do not count, as in TeX. Of nested boxes the innermost last one is taken. `\fbox`
    and `\framebox` are boxes, and `\boxed 8`.
    """
    found = _last_boxes(text)
    return found[0] if found else None


def stated_box(text: str) -> str | None:
    r"""As `last_boxed`; None also where the words beside the last box take it back: "\boxed{5}? No."""
    found = _last_boxes(text)
    return None if found is None or is_withdrawn(text, *found[1:]) else found[0]


def _last_boxes(text: str) -> tuple[str, int, int] | None:
    """What `last_boxed` returns, and where its last box begins and ends."""
    first = text.find("box")  # stands in every name of a box
    if first < 0:
        return None
    openings = deque(_OPENING.finditer(text, max(0, first - _MAX_BEFORE_BOX)), maxlen=MAX_OPENINGS)
    found: deque[re.Match[str]] = deque(maxlen=MAX_BOXES)
    for name in openings:
        made = _BOX.match(text, name.start())
        if made and not _is_prose(made):
            found.append(made)
    if not found:
        return None
    last = found[-1].start()
    if len(found) > 1 and (parts := _boxes_of_parts(text, list(found))):
        return ", ".join(parts), last, _content_end(text, found[-1]) + 1
    contents: list[str] = []
    following = behind = 0
    while found:
        box = found.pop()
        opening, start = box.start(), _content_start(box)
        end = _content_end(text, box)
        if contents and not (0 <= end < following and _LISTS.fullmatch(text[end + 1 : following])):
            break
        if end < 0 or not (content := text[start:end].strip(_TEX_BLANKS)):
            break
        contents.append(content)
        following, behind = opening, behind or end + 1
        if found and opening - found[-1].end() > MAX_BOXED_CHARS:
            break
    return (", ".join(reversed(contents)), last, behind) if contents else None


def _is_prose(box: re.Match[str]) -> bool:
    r"""Whether the word is only spoken of: put it in \boxed as $x$."""
    return box.lastgroup == "bare" and _PROSE.search(box["bare"]) is not None


def _content_start(box: re.Match[str]) -> int:
    return box.start(box.lastgroup) if box.lastgroup else box.end()


def _content_end(text: str, box: re.Match[str]) -> int:
    """The index behind the content; -1 when no brace closes it."""
    start = _content_start(box)
    return closing_brace(text, start, start + MAX_BOXED_CHARS + 1) if start == box.end() else box.end()


def _boxes_of_parts(text: str, boxes: list[re.Match[str]]) -> list[str]:
    """The contents, with their letters, of boxes of which the first is behind (a), the next behind (b); else none."""
    labels: list[str] = []
    contents: list[str] = []
    before = max(0, boxes[0].start() - MAX_BOXED_CHARS)
    for box in boxes:
        found = _PART.findall(text, max(before, box.start() - MAX_BOXED_CHARS), box.start())
        end = _content_end(text, box)
        if not found or (labels and len(found) > 1) or end < 0:
            return []
        labels.append(found[-1])
        contents.append(text[_content_start(box) : end].strip(_TEX_BLANKS))
        before = end
    in_order = any(labels == list(sequence[: len(labels)]) for sequence in _SEQUENCES)
    if not in_order or not all(contents):
        return []
    return [f"({label}) {content}" for label, content in zip(labels, contents, strict=True)]


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
