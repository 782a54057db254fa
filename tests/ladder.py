"""Runs what the README of an example says to run on a small machine, as it stands there."""

from __future__ import annotations

from pathlib import Path

import warm
from page_blocks import blocks, words

ROOT = Path(__file__).resolve().parents[1]


def smoke(example: str, folder: Path) -> list[str]:
    """What each command of the README printed. The shell blocks that are not marked as not run, in `folder`, which
    stands for the root of a checkout."""
    (folder / "examples").symlink_to(ROOT / "examples")
    printed = []
    for block in blocks(ROOT / "examples" / example / "README.md"):
        for command in block.commands if block.language == "sh" and block.not_run is None else ():
            done = warm.run(*words(command)[1:], cwd=folder)
            assert done.returncode == 0, f"{command}\n{done.stderr[-3000:]}"
            printed.append(done.stdout)
    return printed
