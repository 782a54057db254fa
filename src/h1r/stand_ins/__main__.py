"""`python -m h1r.stand_ins NAME`: installs a stand-in, which is plain Python, with pip."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib.resources import as_file, files
from pathlib import Path
from tempfile import TemporaryDirectory

NAMES = ("pycosat",)


def main(arguments: list[str]) -> int:
    """Returns pip's exit code; 2 for another name."""
    if len(arguments) != 1 or arguments[0] not in NAMES:
        print(f"usage: python -m h1r.stand_ins {'|'.join(NAMES)}", file=sys.stderr)
        return 2
    with TemporaryDirectory() as scratch, as_file(files(__package__) / arguments[0]) as source:
        copy = shutil.copytree(source, Path(scratch) / arguments[0])  # pip writes beside what it builds
        return subprocess.run([sys.executable, "-m", "pip", "install", str(copy)], check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
