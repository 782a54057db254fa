"""What a name of a checkpoint stands for: a directory here, a model that comes with the package, or the hub's."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from h1r.common.files import contents
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
    if name.startswith(PREFIX):
        raise UserError(f"the package has no model {name}; it has {SHIPPED}")
    if not is_hub_id(name):
        raise UserError(f"no checkpoint directory {name}; check the path, or give a hub id as owner/name")
    return None


def fetched(name: str, patterns: Sequence[str], revision: str | None = None) -> Path:
    """The directory that those files of a hub id lie in, which are downloaded where they have not come yet. `UserError`
    with the hub's reason, or the network's."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=[*patterns], ignore_patterns=["*/*"]))
    except (OSError, HFValidationError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"{name} is no directory here and could not be fetched from the hub ({reason}); "
            "check the name and the network"
        ) from None


def version_of(path_or_id: str | Path) -> str:
    """What tells the contents under a name from others that it may get: a digest of the files of a directory, or the
    commit of a hub id as it lies in the cache; empty where it does not lie there."""
    path = Path(path_or_id).expanduser()
    if (found_here := path if path.is_file() else local_directory(path_or_id)) is not None:
        return contents(found_here)
    from huggingface_hub import try_to_load_from_cache

    for name in ("config.json", "tokenizer_config.json"):
        if isinstance(found := try_to_load_from_cache(str(path_or_id), name), str):
            return Path(found).parent.name
    return ""


def is_hub_id(name: str) -> bool:
    """OWNER/NAME whose owner is no directory here."""
    owner = name.partition("/")[0]
    return bool(re.fullmatch(r"[\w.-]+/[\w.-]+", name)) and not (owner.startswith(".") or Path(owner).is_dir())
