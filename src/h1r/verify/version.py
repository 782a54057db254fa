"""What tells the code that grades from another: a verdict that was kept is good for as long as this stays the same."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from h1r.verify.registry import require

ROOMS = ("common", "mathematics", "records.py", "response", "sandbox", "verify")
"""Where verdicts come from, in the package."""
IMPORTED = ("langdetect", "math-verify", "mpmath", "nltk", "numpy", "pycosat", "reasoning-gym", "sympy")
"""Packages of others that grading imports."""


@cache
def grading_version(package: Path = Path(__file__).parents[1]) -> str:
    """A digest of the files of `ROOMS`, of the versions of what they import and of Python's."""
    digest = hashlib.blake2b(platform.python_version().encode(), digest_size=16)
    for name in IMPORTED:
        try:
            digest.update(f"{name} {version(name)}\n".encode())
        except PackageNotFoundError:
            continue
    for room in ROOMS:
        for path in sorted((package / room).rglob("*.py")) or [package / room]:
            digest.update(f"{path.relative_to(package)}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def are_ours(names: Iterable[str]) -> bool:
    """Whether the verifiers of these names are the package's own, whose code `grading_version` covers."""
    verifiers = [require(name) for name in set(names) if name]
    targets = [one for found in verifiers for one in (found.grade, found.quick, found.submit) if one]
    return all(target.startswith("h1r.") for target in targets) and not any(found.file for found in verifiers)
