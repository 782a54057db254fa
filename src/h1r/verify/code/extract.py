"""The code of an answer, and its language (recipe of the paper: fenced blocks by regular expression, then detection).

A fence's tag names the language; a block without one is told by what only that language's programs begin with or
contain. Of several blocks the last one counts that defines what the tests call, or reads an input where they give one,
so that a demonstration behind the solution is not graded in its place. Linear time in the answer.
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
    """`language` is a value of `LANGUAGES`: what the fence said or the code shows; None when neither does.

    `standard` is the one of C++ that the fence names: "20" of `cpp20`.
    """

    code: str
    language: str | None
    standard: str | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the tests need of the code: names that it defines, or that it reads an input."""

    names: tuple[str, ...] = ()
    reads_input: bool = False


_FENCE = re.compile(
    r"\A(?:[ \t]*+(?:</?\w{1,20}+>|[-*+]|\d{1,3}+[.)]))*+[ \t]*+(`{3,}+|~{3,}+)[ \t]*+([^\s`]*+)([^\n`]*+)"
)
"""A fence, behind tags and the marks of lists, with the tag and the rest of its line."""
_FENCE_BEHIND_TEXT = re.compile(r"\A[^`]*+(`{3,}+)([^\s`]++)[ \t]*+(\d\d)?\s*+\Z")
"""A fence behind words on its line, which has to name a language: Sure! ```python"""
_QUOTED_FENCE = re.compile(r"^[ \t]{0,3}>[ \t]{0,3}(?:`{3}|~{3})", re.MULTILINE)
_QUOTED = re.compile(r"^[ \t]{0,3}>(?: |$)", re.MULTILINE)
_TAGS = re.compile(r"([\[<])([/PCS][a-z]{3,8}+)(\]|(?: [^<>\n]{0,60}+)?+>)", re.IGNORECASE)
_BRACKETED = {"[": ("python", "code", "solution"), "<": ("python", "code")}
_CLOSING = re.compile(r"\A(?:[ \t]*+</\w{1,20}+>)*+[ \t]*+")
_ENDS_ANSWER = re.compile(r"\A[ \t]*+</answer>", re.IGNORECASE)
_TAG = re.compile(r"\A[{.]*+([a-z+#]++)[-_ ]?+[\d.]*+")
_CPP_STANDARD = re.compile(r"\A(?:cpp|cxx|(?:c|gnu)\+\+)[-_ ]?+(1[147]|2[036])")
_TAG_NAMES = {"pypy": "python", "gnu++": "cpp", "cplusplus": "cpp", "ecmascript": "javascript", "gnu": "c"}
_SHELL = frozenset(("bash",))
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
        ("bash", r"\A\s*+#!.*\b(?:ba)?sh\b"),
        ("java", r"^[ \t]*+(?:import java[.x]|public\s+(?:final\s+)?class\s+\w|.*\bSystem\.(?:out|in)\b)"),
        ("csharp", r"^[ \t]*+(?:using System\b|namespace\s+\w|.*\bConsole\.(?:Read|Write)\w*\()"),
        ("rust", r"^[ \t]*+(?:use std::|(?:pub\s+)?fn\s+\w+\s*\()"),
        ("cpp", r"^[ \t]*+(?:#include[ \t]*(?:<(?:bits/|\w+>)|\")|using namespace\b|.*\bstd::)"),
        ("c", r"^[ \t]*+#include[ \t]*<\w+\.h>"),
        ("go", r"^package\s+main\b"),
        (
            "python",
            r"^[ \t]*+(?:def\s+\w+\s*\(.*|class\s+\w+.*:|from\s+[\w.]+\s+import\b.*|(?:for|while|if)\b.*:)"
            r"[ \t]*(?:#.*)?$",
        ),
        (
            "javascript",
            r"^[ \t]*+(?:(?:const|let|var)\s+[\w{\[].*=|(?:async\s+)?function\b.*\{|console\.log\(|.*\brequire\(|.*=>)",
        ),
    )
)
_SEEN_LINES = 200


def detect_language(code: str) -> str | None:
    """The language that the first lines of a program show, a value of `LANGUAGES`; None when they show none."""
    head = "\n".join(line[:500] for line in code.split("\n", _SEEN_LINES)[:_SEEN_LINES])
    return next((language for language, shown in _SHOWS if shown.search(head)), None)


def language_of(tag: str) -> str | None:
    """The language that a fence's tag or a problem names, a value of `LANGUAGES`; None for another."""
    tag = tag.strip().lower()
    if tag in LANGUAGES:
        return LANGUAGES[tag]
    found = _TAG.match(tag[:40])
    name = found[1] if found else ""
    return LANGUAGES.get(_TAG_NAMES.get(name, name))


def standard_of(tag: str) -> str | None:
    """The standard of C++ that a fence's tag or a problem names, "20" of `C++20`; None where it names none."""
    found = _CPP_STANDARD.match(tag.strip().lower())
    return found[1] if found else None


def extract_code(answer: str, language: str | None = None, wanted: Wanted | None = None) -> Solution | None:
    """The code of an answer: of its fenced blocks the last one with what is `wanted`, else the last one.

    Blocks that say that they are code come first, then those that say nothing; shell is what one types to run a
    solution, unless it is asked for. `language` (a value of `LANGUAGES`) leaves out blocks of another one. Without any
    fence the whole answer counts if it begins like code, or like the body of a function; so does what stands before a
    single closing fence, whose opening one was part of the prompt. None when there is no code, or the last block is
    not closed.
    """
    if _QUOTED_FENCE.search(answer):
        answer = _QUOTED.sub("", answer)
    blocks, dangling = _fenced_blocks(answer)
    if not blocks and dangling is None:
        blocks = _tagged_blocks(answer)
    if dangling is not None:
        before = answer[:dangling]
        closes = answer[dangling:].lstrip()[:4].strip("`~") == ""
        if not blocks:
            return _untagged(before, language) if closes and _is_code(before) else None
        if answer[dangling:].strip().strip("`~"):
            return None
    if not blocks:
        return _untagged(answer, language) if _is_code(answer) else None
    named = [Solution(code, known, standard_of(tag)) for tag, code in blocks if (known := language_of(tag))]
    named = [one for one in named if (one.language not in _SHELL if language is None else one.language == language)]
    plain = [_untagged(code, language) for tag, code in blocks if not tag]
    fitting = [one for group in (named, plain) for one in reversed(group) if _fits(one, wanted)]
    if fitting:
        return fitting[0]
    if named:
        return named[-1]
    return next((one for one in reversed(plain) if _is_code(one.code)), plain[-1]) if plain else _last_shell(blocks)


def _last_shell(blocks: list[tuple[str, str]]) -> Solution | None:
    """Shell, where an answer holds no other code and no language was asked for."""
    found = [code for tag, code in blocks if language_of(tag) in _SHELL]
    return Solution(found[-1], "bash") if found else None


_DEMONSTRATES = re.compile(r"\bsys\.stdin[ \t]*+=|^[ \t]*+(?:>>>|\$ )", re.MULTILINE)
_READS = {
    "python": re.compile(r"\binput\b|\bstdin\b|\bopen\(0|\bfileinput\b"),
    "javascript": re.compile(r"\bstdin\b|\breadline\b|\breadFileSync\b"),
}
_RUNS = re.compile(r"\bmain\b")


def _fits(solution: Solution, wanted: Wanted | None) -> bool:
    if wanted is None:
        return True
    if wanted.reads_input:
        reads = _READS.get(solution.language or "python", _RUNS)
        return reads.search(solution.code) is not None and _DEMONSTRATES.search(solution.code) is None
    return any(_defines(solution.code, name) for name in wanted.names)


def _defines(code: str, name: str) -> bool:
    """Whether a line of Python defines that name, as a function, a method or a class, or by an assignment."""
    pattern = rf"^[ \t]*+(?:(?:async[ \t]++)?def|class)[ \t]++{re.escape(name)}\b|^{re.escape(name)}[ \t]*+[:=](?!=)"
    return re.search(pattern, code, re.MULTILINE) is not None


def _untagged(code: str, language: str | None) -> Solution:
    return Solution(code, language or detect_language(code))


def _fenced_blocks(text: str) -> tuple[list[tuple[str, str]], int | None]:
    """(lower-case tag, content) of the closed blocks, and where a block that is never closed begins."""
    blocks: list[tuple[str, str]] = []
    fence, tag, begin, content = "", "", 0, 0
    position = 0
    for line in text.splitlines(keepends=True):
        match = _FENCE.match(line)
        if match and line[match.end() :].strip():
            match = None  # code within a line
        if not match and not fence and "```" in line:
            match = _fence_behind_text(line)
        if match and not fence:
            fence, tag, begin, content = match[1], _tag(match[2], match[3] or ""), position, position + len(line)
        elif fence and (_closes(match, line, fence) or _ENDS_ANSWER.match(line)):
            blocks.append((tag, textwrap.dedent(text[content:position])))
            fence = ""
        position += len(line)
    return blocks, begin if fence else None


def _fence_behind_text(line: str) -> re.Match[str] | None:
    match = _FENCE_BEHIND_TEXT.match(line)
    return match if match and language_of(match[2]) else None


def _tagged_blocks(text: str) -> list[tuple[str, str]]:
    """(language or nothing, content) of what stands between [PYTHON] and [/PYTHON], or <code> and </code>."""
    blocks: list[tuple[str, str]] = []
    opened, begin = "", 0
    for match in _TAGS.finditer(text):
        bracket, tag = match[1], match[2].lower()
        name = tag.removeprefix("/")
        if name not in _BRACKETED[bracket] or (bracket == "[") != (match[3] == "]"):
            continue
        if name == tag:
            opened, begin = name, match.end()
        elif opened == name:
            content = text[begin : match.start()].strip("\n")
            if name == "python" or _is_code(content):
                blocks.append((name if name == "python" else "", textwrap.dedent(content)))
            opened = ""
    return blocks


def _tag(first: str, rest: str) -> str:
    """The tag without a file's name or attributes: of `python:main.py`, `{.python}`, `Python 3`."""
    tag = re.split(r"[:,=}]", first.strip("{.").lower(), maxsplit=1)[0]
    if language_of(tag) == "cpp" and standard_of(tag + rest.strip()):
        return tag + rest.strip()  # C++ 20
    return tag if tag not in ("class", "language", "lang") else rest.strip(' ="}').lower()


def _closes(match: re.Match[str] | None, line: str, fence: str) -> bool:
    if match is None or not match[1].startswith(fence) or not line.lstrip().startswith(("<", fence)):
        return False
    return _CLOSING.fullmatch(match[2] + match[3].strip()) is not None


def _is_code(text: str) -> bool:
    first = next((line for line in text.splitlines() if line.strip()), "")
    return _BEGINS_CODE.match(first.lstrip()) is not None or _GOES_ON.match(first) is not None
