"""What every test starts from.

Property-based tests explore new examples on a developer's machine and repeat the same ones in the checks.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

from h1r.common import progress

# No deadline: on a busy machine any example can take long, and that says nothing about the code.
settings.register_profile("exploring", deadline=None)
settings.register_profile("checks", derandomize=True, deadline=None)
settings.load_profile("checks" if os.environ.get("CI") else "exploring")


@pytest.fixture(autouse=True)
def progress_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command run with `--json` turns progress off for its whole process; no test inherits that from another."""
    monkeypatch.setattr(progress, "_quiet", False)
