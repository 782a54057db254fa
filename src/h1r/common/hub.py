"""What a name of a checkpoint stands for: a directory here, a model that comes with the package, or the hub's."""

from __future__ import annotations

import re
from pathlib import Path

from h1r.common.packaged import PREFIX, packaged
from h1r.errors import UserError

SHIPPED = PREFIX + "small"
"""The model that comes with the package (`models/shipped/small`, with its card)."""


def local_directory(path_or_id: str | Path) -> Path | None:
    """The directory, or None for the hub's; nothing is asked of the network, and what looks like a path never is.

    `h1r:small` is the model of the package.
    `UserError` for a name that is neither: no directory here, and no hub id.
    """
    path, name = Path(path_or_id).expanduser(), str(path_or_id)
    if path.is_dir():
        return path
    if name.startswith(PREFIX) and (found := packaged("models", "shipped", name.removeprefix(PREFIX))).is_dir():
        return found
    if not is_hub_id(name):
        raise UserError(f"no checkpoint directory {name}; check the path, or give a hub id as owner/name")
    return None


def is_hub_id(name: str) -> bool:
    """OWNER/NAME whose owner is no directory here."""
    owner = name.partition("/")[0]
    return bool(re.fullmatch(r"[\w.-]+/[\w.-]+", name)) and not (owner.startswith(".") or Path(owner).is_dir())
