"""Property-based tests explore new examples on a developer's machine and repeat the same ones in the checks."""

from __future__ import annotations

import os

from hypothesis import settings

# No deadline: on a busy machine any example can take long, and that says nothing about the code.
settings.register_profile("exploring", deadline=None)
settings.register_profile("checks", derandomize=True, deadline=None)
settings.load_profile("checks" if os.environ.get("CI") else "exploring")
