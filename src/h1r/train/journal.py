"""What RL has sampled since its last checkpoint, on disk: a run that is resumed replays it instead of sampling again.

    rl/journal/000000000128.npz     the groups that the draws 128, 129, ... gave: arrays, and JSON for the rest

A stream of groups is a function of what its draws gave, so replayed draws lead to the same bits. With rollouts ahead
of the training (`ahead.py`) the weights that they came from are gone at a restart: the journal has what is left of
them.
"""

from __future__ import annotations

import json
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np

from h1r.common.files import PARTIAL, atomic
from h1r.train.cached_arrays import Packed

_JSON = "json"


class Journal:
    """Entries of groups by the number of their first draw, in `directory`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def write(self, first: int, count: int, found: Packed) -> None:
        """What the draws `first` to `first + count - 1` gave; whole or not at all."""
        groups, arrays = found
        text = np.frombuffer(json.dumps({"count": count, "groups": groups}).encode(), np.uint8)
        with atomic(self._place(first)) as partial, open(partial, "wb") as handle:
            np.savez(handle, **{**arrays, _JSON: text})  # type: ignore[arg-type]

    def read(self, first: int, count: int) -> Packed | None:
        """What `write` was given; None where there is no whole entry of as many draws."""
        try:
            with np.load(self._place(first), allow_pickle=False) as found:
                arrays = dict(found)
            entry = json.loads(arrays.pop(_JSON).tobytes())
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None
        return (entry["groups"], arrays) if entry["count"] == count else None

    def cut(self, before: int | None = None) -> None:
        """Removes what a checkpoint has passed: entries whose first draw is below `before`; None: all of them. Files of
        others stay."""
        for path in self._directory.glob("*") if self._directory.exists() else ():
            entry = path.suffix == ".npz" and path.stem.isdecimal()
            if PARTIAL in path.name or (entry and (before is None or int(path.stem) < before)):
                path.unlink(missing_ok=True)
        with suppress(OSError):  # there is none, or it has entries
            self._directory.rmdir()

    def _place(self, first: int) -> Path:
        return self._directory / f"{first:012d}.npz"
