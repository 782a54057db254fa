"""The code of an answer, and its language (recipe of the paper: fenced blocks by regular expression, then detection).

A fence's tag names the language; a block without one is told by what only that language's programs begin with or
contain. Linear time in the answer.
"""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass

LANGUAGES = {
    **dict.fromkeys(("python", "py", "python3"), "python"),
    **dict.fromkeys(("cpp", "c++", "cc", "cxx", "cpp17", "cpp20"), "cpp"),
    **dict.fromkeys(("javascript", "js", "node", "nodejs"), "javascript"),
    "c": "c",
    "java": "java",
    **dict.fromkeys(("go", "golang"), "go"),
    **dict.fromkeys(("rust", "rs"), "rust"),
    **dict.fromkeys(("bash", "sh", "shell"), "bash"),
    **dict.fromkeys(("csharp", "c#", "cs"), "csharp"),
    **dict.fromkeys(("typescript", "ts"), "typescript"),
}
"""The languages, by the names that problems and code fences give them."""


@dataclass(frozen=True, slots=True)
class Solution:
    """`language` is a value of `LANGUAGES`: what the fence said or the code shows; None when neither does."""

    code: str
    language: str | None


_FENCE = re.compile(r"[ \t]*(`{3,}|~{3,})[ \t]*([^\s`{]*)[^\n]*")
_BEGINS_CODE = re.compile(
    r"(?:from[ \t]+[\w.]+[ \t]+import|import[ \t]+\w|(?:async[ \t]+)?def[ \t]+\w|class[ \t]+\w|@\w|#include|#!"
    r"|using[ \t]|if[ \t]+__name__|[A-Za-z_][\w, \t\[\]]*=[^=]|print\(|(?:for|while|with)[ \t].*:|const[ \t]|let[ \t]"
    r"|package[ \t]+\w|public[ \t]+class|fn[ \t]+main|\"\"\"|''')"
)
_GOES_ON = re.compile(r"(?: {4}|\t)\s*(?:return|if|try|yield|raise|pass|assert)\b")
"""A function's body, whose head was the end of the prompt."""
_SHOWS = tuple(
    (language, re.compile(pattern, re.MULTILINE))
    for language, pattern in (
        ("bash", r"\A\s*#!.*\b(?:ba)?sh\b"),
        ("java", r"^[ \t]*(?:import java[.x]|public\s+(?:final\s+)?class\s+\w|.*\bSystem\.(?:out|in)\b)"),
        ("csharp", r"^[ \t]*(?:using System\b|namespace\s+\w|.*\bConsole\.(?:Read|Write)\w*\()"),
        ("rust", r"^[ \t]*(?:use std::|(?:pub\s+)?fn\s+\w+\s*\()"),
        ("cpp", r"^[ \t]*(?:#include[ \t]*<(?:bits/|\w+>)|using namespace\b|.*\bstd::)"),
        ("c", r"^[ \t]*#include[ \t]*<\w+\.h>"),
        ("go", r"^package\s+main\b"),
        (
            "python",
            r"^[ \t]*(?:def\s+\w+\s*\(.*|class\s+\w+.*:|from\s+[\w.]+\s+import\b.*|(?:for|while|if)\b.*:)"
            r"[ \t]*(?:#.*)?$",
        ),
        (
            "javascript",
            r"^[ \t]*(?:(?:const|let|var)\s+[\w{\[].*=|(?:async\s+)?function\b.*\{|console\.log\(|.*\brequire\(|.*=>)",
        ),
    )
)
_SEEN_LINES = 200


def detect_language(code: str) -> str | None:
    """The language that the first lines of a program show, a value of `LANGUAGES`; None when they show none."""
    head = "\n".join(line[:500] for line in code.split("\n", _SEEN_LINES)[:_SEEN_LINES])
    return next((language for language, shown in _SHOWS if shown.search(head)), None)


def extract_code(answer: str, language: str | None = None) -> Solution | None:
    """The code of an answer: the last fenced block that says it is code, else the last one that says nothing.

    `language` (a value of `LANGUAGES`) leaves out blocks of another one. Without any fence the whole answer counts if
    it begins like code, or like the body of a function; so does what stands before a single closing fence, whose
    opening one was part of the prompt. None when there is no code, or the last block is not closed.
    """
    blocks, dangling = _fenced_blocks(answer)
    if dangling is not None:
        before = answer[:dangling]
        closes = answer[dangling:].lstrip()[:4].strip("`~") == ""
        return _untagged(before, language) if closes and not blocks and _is_code(before) else None
    if not blocks:
        return _untagged(answer, language) if _is_code(answer) else None
    named = [Solution(code, LANGUAGES[tag]) for tag, code in blocks if tag in LANGUAGES]
    wanted = [solution for solution in named if language in (None, solution.language)]
    if wanted:
        return wanted[-1]
    plain = [code for tag, code in blocks if not tag]
    return _untagged(plain[-1], language) if plain else None


def _untagged(code: str, language: str | None) -> Solution:
    return Solution(code, language or detect_language(code))


def _fenced_blocks(text: str) -> tuple[list[tuple[str, str]], int | None]:
    """(lower-case tag, content) of the closed blocks, and where a block that is never closed begins."""
    blocks: list[tuple[str, str]] = []
    fence, tag, begin, content = "", "", 0, 0
    position = 0
    for line in text.splitlines(keepends=True):
        match = _FENCE.match(line)
        if match and not fence:
            fence, tag, begin, content = match[1], match[2].lower(), position, position + len(line)
        elif match and match[1].startswith(fence) and not match[2]:
            blocks.append((tag, textwrap.dedent(text[content:position])))
            fence = ""
        position += len(line)
    return blocks, begin if fence else None


def _is_code(text: str) -> bool:
    first = next((line for line in text.splitlines() if line.strip()), "")
    return _BEGINS_CODE.match(first.lstrip()) is not None or _GOES_ON.match(first) is not None
