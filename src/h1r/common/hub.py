"""What a name of a checkpoint stands for: a directory here, a model that comes with the package, or the hub's."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

from h1r.errors import UserError

SHIPPED = "small"
"""The name of the checkpoint that lies in the package (`models/shipped/small`, with its model card)."""


def local_directory(path_or_id: str | Path) -> Path | None:
    """The directory, or None for the hub's; nothing is asked of the network, and what looks like a path never is.

    `small` is the checkpoint of the package, where no directory here has that name.
    `UserError` for a name that is neither: no directory here, and no OWNER/NAME whose owner is no directory either.
    """
    path, name = Path(path_or_id).expanduser(), str(path_or_id)
    if path.is_dir():
        return path
    if name == SHIPPED:
        return Path(str(files("h1r"))) / "models" / "shipped" / SHIPPED
    owner = name.partition("/")[0]
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name) or owner.startswith(".") or Path(owner).is_dir():
        raise UserError(f"no checkpoint directory {name}; check the path, or give a hub id as owner/name")
    return None


def resolved(path_or_id: str | Path) -> str:
    """The name for a library that knows directories and hub ids alone."""
    here = Path(path_or_id).expanduser().is_dir()
    return str(local_directory(SHIPPED)) if str(path_or_id) == SHIPPED and not here else str(path_or_id)
