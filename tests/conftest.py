"""Property-based tests explore new examples on a developer's machine and repeat the same ones in the checks."""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile("checks", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("checks")
