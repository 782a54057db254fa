"""The command docs: the pages of the documentation, which come with the package."""

from __future__ import annotations

import difflib
import pydoc
import re
from pathlib import Path
from typing import Annotated

import typer

from h1r.common.packaged import packaged
from h1r.errors import UserError

_FIRST = ("index", "guide/install", "guide/your-own-data")
"""What is listed before the rest."""
_HEADING = re.compile(r"^(#+) +(.*)$")


def docs(
    page: Annotated[
        str | None,
        typer.Argument(metavar="[PAGE]", help="A page, as in your-own-data or log/demo. Without one: the list of all."),
    ] = None,
    heading: Annotated[
        str | None,
        typer.Argument(metavar="[HEADING]", help="Only the parts of it whose heading has this, as in rl.optimizer."),
    ] = None,
) -> None:
    """Read the documentation, as Markdown. It comes with the package."""
    root = packaged("docs")
    if page is None:
        names = [str(path.relative_to(root).with_suffix("")) for path in sorted(root.rglob("*.md"))]
        names = [*_FIRST, *(name for name in names if name not in _FIRST)]
        shown = {name.removeprefix("guide/"): _title(root / f"{name}.md") for name in names}
        width = max(map(len, shown))
        print("\n".join(f"{name.ljust(width)}  {title}" for name, title in shown.items()))
        print(f"\n`h1r docs PAGE` prints one; the files lie in {root}")
        return
    text = _found(root, page).read_text(encoding="utf-8")
    if heading is not None:
        text = "\n".join(_parts(text, heading))
        if not text:
            raise UserError(f"no heading of {page} has {heading!r}; `h1r docs {page}` prints all of it")
    pydoc.pager(text.rstrip("\n") + "\n")


def _found(root: Path, page: str) -> Path:
    """The file of a page that is called by its place in the docs, or by its name alone."""
    name = page.removeprefix("docs/").removesuffix(".md")
    pages = {path.relative_to(root).with_suffix("").as_posix(): path for path in root.rglob("*.md")}
    found = pages.get(name) or next((path for place, path in pages.items() if place.endswith(f"/{name}")), None)
    if found is None:
        near = difflib.get_close_matches(name, [place.rpartition("/")[2] for place in pages], n=1)
        raise UserError(f"no page {page}" + (f"; did you mean {near[0]}?" if near else "; `h1r docs` lists them"))
    return found


def _title(path: Path) -> str:
    with open(path, encoding="utf-8") as lines:
        return next((line[2:].strip() for line in lines if line.startswith("# ")), "")


def _parts(text: str, wanted: str) -> list[str]:
    """The lines below each heading that has `wanted` in it, to the next one of its depth or above."""
    found: list[str] = []
    depth, is_code = 0, False
    for line in text.splitlines():
        is_code ^= line.startswith("```")
        if not is_code and (heading := _HEADING.match(line)):
            if depth and len(heading[1]) <= depth:
                depth = 0
            if not depth and wanted.lower() in heading[2].lower():
                depth = len(heading[1])
        if depth:
            found.append(line)
    return found
