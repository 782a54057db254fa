"""How `--help` is written: words of the commands, without the names of types that Typer adds.

Usage: h1r eval [OPTIONS] [RECIPE|CHECKPOINT]      a placeholder as the command has it, in brackets where optional
  --limit N   Only the first N problems.  [default: 0; at least 0]
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from typer.core import TyperCommand


class Command(TyperCommand):
    """A command whose help names no type."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        arguments = [one for one in self.get_params(ctx) if one.param_type_name == "argument"]
        return ["[OPTIONS]", *(one.metavar or one.name or "" for one in arguments)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        plain: Any = _Plain(formatter)
        super().format_options(ctx, plain)


class _Plain:
    """A formatter that takes types out of lists of options."""

    def __init__(self, formatter: Any) -> None:
        self._formatter = formatter

    def __getattr__(self, name: str) -> Any:
        return getattr(self._formatter, name)

    def write_dl(self, rows: Sequence[tuple[str, str]], *further: Any) -> None:
        self._formatter.write_dl([(_untyped(name), _bounds(text)) for name, text in rows], *further)


def _untyped(name: str) -> str:
    """`RECIPE <str>` as `RECIPE`, `--pool <sft|rl>` as `--pool sft|rl`."""
    if name.startswith("-"):
        return re.sub(r"<([^<>]*)>", r"\1", name)
    return re.sub(r" <[^<>]*>", "", name)


def _bounds(text: str) -> str:
    """`[default: 1; x>=1]` as `[default: 1; at least 1]`."""
    return text.replace("<=x<=", " to ").replace("x>=", "at least ")
