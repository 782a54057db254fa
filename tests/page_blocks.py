"""The code blocks of a page, what language each is in, and the commands in it.

A block stands between fences, or four spaces in after an empty line. An HTML comment right before it says that it is
not run, and why:

    <!-- not run: needs a card -->
"""

from __future__ import annotations

import re
import shlex
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_COMMAND = re.compile(
    r"(?:[A-Z][A-Z0-9_]*=\S+ +)*(?:h1r|python|curl|pip|make|git|torchrun|vllm|docker|cat) |(?:h1r|make)$"
)
_MARKER = re.compile(r"<!-- (not run|run): (.+?) -->$")


@dataclass(frozen=True)
class Block:
    """line: of the page, from 1. not_run: the reason, None for a block that runs. elsewhere: another test runs it."""

    page: Path
    line: int
    language: str
    text: str
    not_run: str | None = None
    elsewhere: bool = False

    @property
    def commands(self) -> list[str]:
        """Of a shell block: a command an entry, without its comment and what stands three spaces after it, which
        explains it; what goes on in quotation marks over several lines is one command."""
        lines = re.sub(r"\\\n\s*", " ", self.text).splitlines()
        if any(line.startswith("$ ") for line in lines):
            lines = [line[2:] for line in lines if line.startswith("$ ")]
        found: list[str] = []
        for line in lines:
            if found and found[-1].count("'") % 2:
                found[-1] += f"\n{line}"
            elif line.strip() and not line.startswith("#"):
                found.append(re.split(r" {3,}| # ", line.rstrip())[0])
        return found


def blocks(page: Path) -> Iterator[Block]:
    """In the order of the page."""
    lines = page.read_text(encoding="utf-8").splitlines()
    number = 0
    while number < len(lines):
        start, line = number, lines[number]
        if fence := re.match(r"( *)(`{3,})(\w*)$", line):
            end = next(at for at in range(start + 1, len(lines)) if lines[at].strip() == fence[2])
            text = textwrap.dedent("\n".join(lines[start + 1 : end]))
            yield _block(page, start, fence[3] or _language(text), text, lines)
            number = end + 1
        elif line.startswith("    ") and (not start or not lines[start - 1].strip()):
            end = next((at for at in range(start, len(lines)) if lines[at].strip() and lines[at][:4] != "    "), None)
            text = textwrap.dedent("\n".join(lines[start:end])).rstrip()
            yield _block(page, start, _language(text), text, lines)
            number = len(lines) if end is None else end
        else:
            number += 1


def _block(page: Path, start: int, language: str, text: str, lines: list[str]) -> Block:
    before = next((lines[at].strip() for at in range(start - 1, -1, -1) if lines[at].strip()), "")
    kind, said = found.groups() if (found := _MARKER.match(before)) else (None, None)
    return Block(page, start + 1, language, text + "\n", said if kind == "not run" else None, kind == "run")


def _language(text: str) -> str:
    first = next(iter(text.splitlines()), "")
    if any(_COMMAND.match(line.removeprefix("$ ")) for line in text.splitlines()):
        return "sh"
    if re.match(r"(from|import) \w|@\w", first):
        return "python"
    if re.match(r"\[+[\w.\"-]+\]+$|\w+ = [\"'\[{\d]", first):
        return "toml"
    return "json" if first.startswith("{") else "text"


def words(command: str) -> list[str]:
    return shlex.split(command, comments=True)


def inline_commands(page: Path) -> list[str]:
    """`h1r ...` and `python ...` between backticks, outside of blocks."""
    text = re.sub(r"^( *)(`{3,})\w*\n.*?^\1\2$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return [" ".join(one.split()) for one in re.findall(r"`((?:h1r|python) [^`]+)`", text)]
