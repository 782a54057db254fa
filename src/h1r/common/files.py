"""Files and directories that appear whole or not at all: a kill at any moment leaves the old one or the new one.

A file is written beside its place, as `.NAME.RANDOM.partial`, brought to the disk, and renamed. A directory is written
as `.NAME.partial`, and changes names with the old one. Linux and macOS can exchange two names at once on most file
systems. Where they cannot, two renames follow each other, and a kill exactly between them leaves the old directory as
`.NAME.old`.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from h1r.errors import UserError

PARTIAL = ".partial"
"""How the name of what is not whole yet ends."""


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path`, whose directory is made, for the block to write a file to.

    The file takes the place of `path` when the block ends well, and goes when it raises. Its name is nobody else's: two
    writers of one file cannot mix, and where a run was killed and goes on, a machine of the cluster may still be at
    work on the task of the first attempt.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}{PARTIAL}")
    try:
        yield partial
        _fsync(partial)
        os.replace(partial, path)
        _fsync(path.parent)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@contextmanager
def locked(path: Path, otherwise: str, says: str = "") -> Iterator[None]:
    """Holds the lock file `path` for the block; `UserError` with the sentence `otherwise` when another process has it.
    `says`: what the file contains meanwhile.

    The lock ends with the process, however that ends. Where the file system has no locks, there is none.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as handle:  # whose holder may have written to it
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(otherwise) from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
        handle.truncate(0)
        handle.write(says)
        handle.flush()
        yield


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock file `path` now."""
    if not path.exists():
        return False
    with open(path) as handle, suppress(OSError):
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def write_text(path: str | Path, text: str) -> None:
    """Writes UTF-8 text so that the file appears whole or not at all."""
    with atomic(path) as partial:
        partial.write_text(text, encoding="utf-8")


def replace_directory(path: Path, write: Callable[[Path], object], drop: re.Pattern[str] | None = None) -> None:
    """Puts what `write(directory)` fills an empty directory with in the place of `path`, which need not exist.

    With `drop`, entries of the old directory that `write` did not make stay (as hard links where the file system has
    them), but for those whose whole name matches it; without, none does. A link at `path` is followed. When anything
    raises, `path` is as it was.
    """
    path = Path(os.path.realpath(path.expanduser()))
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "it is a file", str(path))
    if path.is_mount():
        raise OSError(errno.EBUSY, "a mount point cannot be replaced; name a directory inside it", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}{PARTIAL}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        write(partial)
        if path.exists():
            shutil.copymode(path, partial)
            for entry in path.iterdir():
                if drop and not drop.fullmatch(entry.name) and not (partial / entry.name).exists():
                    _carry_over(entry, partial / entry.name)
        for file in partial.rglob("*"):
            if file.is_file():
                _fsync(file)
        _fsync(partial)
        if not path.exists():
            os.rename(partial, path)
        elif not _exchange(partial, path):
            old = path.with_name(f".{path.name}.old")
            shutil.rmtree(old, ignore_errors=True)
            os.rename(path, old)
            try:
                os.rename(partial, path)
            except OSError:
                os.rename(old, path)
                raise
            shutil.rmtree(old, ignore_errors=True)
        _fsync(path.parent)
    finally:
        # After a failure what was written so far, after an exchange the old directory
        shutil.rmtree(partial, ignore_errors=True)


def _carry_over(source: Path, target: Path) -> None:
    if source.is_dir() and not source.is_symlink():
        shutil.copytree(source, target, symlinks=True, copy_function=_link)
    else:
        _link(source, target)


def _link(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _exchange(one: Path, other: Path) -> bool:
    """Swaps two names at once; False where the system or the file system cannot."""
    library = ctypes.CDLL(None, use_errno=True)
    a, b = os.fsencode(one), os.fsencode(other)
    if sys.platform == "darwin" and hasattr(library, "renamex_np"):
        swap = 2  # RENAME_SWAP
        return library.renamex_np(a, b, swap) == 0
    if hasattr(library, "renameat2"):
        here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
        return library.renameat2(here, a, here, b, exchange) == 0
    return False


def write_json(path: str | Path, value: Any) -> None:
    """Writes JSON so that the file appears whole or not at all."""
    with atomic(path) as partial, open(partial, "w", encoding="utf-8") as handle:
        json.dump(value, handle, indent=1, ensure_ascii=False)


def read_json(path: str | Path) -> Any:
    """Reads JSON; a missing or malformed file raises `UserError`."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}; has the stage that writes it run?") from None
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}, line {error.lineno}: not JSON ({error.msg}); delete it and run its stage again"
        ) from None


def contents(path: Path) -> str:
    """A digest of the names and contents of a file, or of the files in a directory such as a checkpoint's."""
    digest = hashlib.blake2b(digest_size=16)
    for file in [path] if path.is_file() else sorted(one for one in path.iterdir() if one.is_file()):
        with open(file, "rb") as handle:
            digest.update(file.name.encode() + hashlib.file_digest(handle, "blake2b").digest())
    return digest.hexdigest()
