"""Where code that nobody trusts runs: at a declared level of isolation, within limits, and apart from its verdict."""

from h1r.verify.sandbox.limits import Isolation, Limits
from h1r.verify.sandbox.pool import SandboxPool, choose_level, refusal
from h1r.verify.sandbox.runner import Sandbox
from h1r.verify.sandbox.session import Outcome, SandboxError

__all__ = ["Isolation", "Limits", "Outcome", "Sandbox", "SandboxError", "SandboxPool", "choose_level", "refusal"]
