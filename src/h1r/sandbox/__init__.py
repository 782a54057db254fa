"""Where code that nobody trusts runs: at a declared level of isolation, within limits, and apart from its verdict.

What is exported is imported on first use: verifier workers and fork servers want single modules, and start often.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from h1r.sandbox.levels import choose_level, refusal
    from h1r.sandbox.limits import Isolation, Limits
    from h1r.sandbox.pool import SandboxPool
    from h1r.sandbox.runner import Sandbox
    from h1r.sandbox.session import RunResult, SandboxError

__all__ = ["Isolation", "Limits", "RunResult", "Sandbox", "SandboxError", "SandboxPool", "choose_level", "refusal"]
_HOMES = {
    **dict.fromkeys(("Isolation", "Limits"), "limits"),
    **dict.fromkeys(("choose_level", "refusal"), "levels"),
    "SandboxPool": "pool",
    **dict.fromkeys(("RunResult", "SandboxError"), "session"),
    "Sandbox": "runner",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
