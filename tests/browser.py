"""A page in a headless Chromium."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)
"""Its program; "" where there is none."""


def browse(page: Path, tmp_path: Path, fragment: str = "", budget_ms: int = 4000) -> subprocess.CompletedProcess[str]:
    """Loads a page in a headless browser; stdout is its DOM afterwards, stderr has its console."""
    flags = ["--headless", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync",
             "--disable-component-update", "--enable-logging=stderr", f"--virtual-time-budget={budget_ms}",
             f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]  # fmt: skip
    if os.name == "posix" and os.geteuid() == 0:
        flags.append("--no-sandbox")
    return subprocess.run(
        [CHROMIUM, *flags, page.as_uri() + fragment],
        capture_output=True, text=True, timeout=120, check=True, errors="replace",
    )  # fmt: skip
