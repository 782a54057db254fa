"""What works where only the core of the package is installed, and what the rest asks for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

WITHOUT = "import sys; sys.modules['reasoning_gym'] = None; from h1r.cli import main; sys.exit(main(sys.argv[1:]))"


def test_generated_problems_say_what_installs_them(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WITHOUT, "curate", "smoke", "--out", str(tmp_path / "run")]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert ran.returncode == 2
    assert "run `pip install 'open-h1r[demo]'`" in ran.stderr
    assert "Traceback" not in ran.stderr
