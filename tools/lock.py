"""Writes requirements.lock: every package that a checkout installs, as pinned in constraints.txt, with its hashes.

    python tools/lock.py            needs `uv` on the path (pip install uv)

Three kinds are left out. torch, and what only torch wants: its build depends on the machine, and comes from PyPI, from
the index of CPU builds, or from a file. pycosat: where it cannot be compiled tools/pycosat stands in. And the project,
which is a folder; `pip install --require-hashes` refuses a folder, so the Makefile installs it after the lock.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements.lock"
LEFT_OUT = re.compile(r"(?:torch|pycosat|nvidia-[a-z0-9-]+|cuda-[a-z0-9-]+)==")
HEAD = "# Written by tools/lock.py; installed with `pip install --no-deps --require-hashes -r requirements.lock`.\n"
COMPILE = (
    *("uv", "pip", "compile", "pyproject.toml", "-", "--extra", "dev", "--constraint", "constraints.txt"),
    *("--universal", "--python-version", "3.11", "--generate-hashes", "--no-annotate", "--no-header", "--quiet"),
)


def main() -> None:
    try:
        run = subprocess.run(COMPILE, cwd=ROOT, input="setuptools\n", text=True, capture_output=True)
    except FileNotFoundError:
        sys.exit("`uv` is missing; pip install uv")
    if run.returncode:
        sys.exit(run.stderr)
    packages = re.split(r"^(?=\S)", run.stdout, flags=re.MULTILINE)[1:]
    LOCK.write_text(HEAD + "".join(package for package in packages if not LEFT_OUT.match(package)), encoding="utf-8")


if __name__ == "__main__":
    main()
