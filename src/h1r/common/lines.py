"""A file of lines that only grows, held by one process, and whole again after a kill."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from h1r.errors import UserError

_BLOCK = 1 << 16


class LineFile:
    """Lines that end in a newline, appended whole. What a kill left of a last line is removed when it is opened.

    Raises `UserError` when the file cannot be opened, or is held by another process. The lock ends with the process,
    however that ends.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._handle = open(self.path, "a+b")  # noqa: SIM115 - closed by `close`
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror or error}; check the path") from None
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._handle.close()
            raise UserError(f"{path} is being written by another process; wait for it, or give another path") from None
        if (end := _whole_lines(self._handle)) < self._handle.seek(0, os.SEEK_END):
            self._handle.truncate(end)

    def lines(self) -> Iterator[str]:
        """What is in the file, line by line. A line ends at a newline alone: JSON leaves the other characters that
        Unicode breaks lines at, such as U+2028, in its strings."""
        with open(self.path, encoding="utf-8", errors="replace", newline="\n") as handle:
            for line in handle:
                yield line.removesuffix("\n")

    def append(self, lines: Sequence[str]) -> None:
        """Adds lines in one write, which survives a kill of this process as soon as this returns."""
        if lines:
            self._handle.write("".join(line + "\n" for line in lines).encode())
            self._handle.flush()

    def sync(self) -> None:
        """Waits until what was added survives a power cut too."""
        os.fsync(self._handle.fileno())

    def clear(self) -> None:
        """Removes all lines."""
        self._handle.truncate(0)

    def close(self) -> None:
        self._handle.close()


def _whole_lines(handle: BinaryIO) -> int:
    """Bytes up to and including the last newline."""
    end = handle.seek(0, os.SEEK_END)
    while end > 0:
        start = max(0, end - _BLOCK)
        handle.seek(start)
        if (found := handle.read(end - start).rfind(b"\n")) >= 0:
            return start + found + 1
        end = start
    return 0
