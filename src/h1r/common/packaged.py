"""Files and models that come with the package. Names that begin with `h1r:` stand for them."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

PREFIX = "h1r:"


def packaged(*parts: str) -> Path:
    """A file or directory of the package, by its place there; it need not exist."""
    return Path(str(files("h1r"))).joinpath(*parts)
