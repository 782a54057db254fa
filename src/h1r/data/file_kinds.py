"""What a file of a person's own is by its name; reading it (`own.py`) needs far more imports."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from h1r.config.corpus import Format

_KINDS = {".jsonl": "jsonl", ".json": "json", ".csv": "csv", ".parquet": "parquet"}
_COMPRESSED = (".gz", ".zst")
SUFFIXES = (*_KINDS, *(kind + end for kind in (".jsonl", ".json", ".csv") for end in _COMPRESSED))


def format_of(path: str | Path) -> Format | None:
    """What a file is by its name; None for no file of data."""
    path = Path(path)
    return cast("Format | None", _KINDS.get(plain_name(path).suffix)) if path.name.endswith(SUFFIXES) else None


def plain_name(path: Path) -> Path:
    """The path without the suffix of an archive."""
    return path.with_suffix("") if path.suffix in _COMPRESSED else path


def conversations_file(data: str | None) -> Path | None:
    """The path of data that are a file, None of a curation."""
    path = Path(data or "")
    return path if data and not path.is_dir() and format_of(path) else None
