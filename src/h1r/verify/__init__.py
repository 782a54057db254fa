"""An answer in, a verdict out. Model output is hostile input: no verifier raises on it, hangs on it, or trusts it.

Each name is imported from its module when it is first used: a worker imports this package, and needs none of them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from h1r.common.callable_package import make_callable

if TYPE_CHECKING:
    from h1r.records import Problem, Verdict
    from h1r.response.format import check_format
    from h1r.verify.judge.words import words_of as judge_words
    from h1r.verify.registry import Verifier, is_generated, register, require, verifier, verifier_names
    from h1r.verify.workers.pool import VerifierPool, reference_scores, verify
    from h1r.verify.workers.service import (
        Backend,
        RewardService,
        default_workers,
        has_judge,
        open_backend,
        use_judge,
        with_max_tests,
    )

__all__ = [
    "Backend",
    "RewardService",
    "Verifier",
    "VerifierPool",
    "check_format",
    "default_workers",
    "has_judge",
    "is_generated",
    "judge_words",
    "open_backend",
    "reference_scores",
    "register",
    "require",
    "use_judge",
    "verifier",
    "verifier_names",
    "verify",
    "with_max_tests",
]
_MODULES = {
    "check_format": "h1r.response.format",
    "judge_words": "h1r.verify.judge.words",
    **dict.fromkeys(
        ("Verifier", "is_generated", "register", "require", "verifier", "verifier_names"), "h1r.verify.registry"
    ),
    **dict.fromkeys(("VerifierPool", "reference_scores", "verify"), "h1r.verify.workers.pool"),
}
"""Name -> its module; that of the others is `workers.service`."""
_RENAMED = {"judge_words": "words_of"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'h1r.verify' has no attribute {name!r}")
    module = importlib.import_module(_MODULES.get(name, "h1r.verify.workers.service"))
    found = globals()[name] = getattr(module, _RENAMED.get(name, name))
    return found


def _verify(problem: Problem, text: str) -> Verdict:
    """The verdict on one response (`workers.pool.verify`)."""
    from h1r.verify.workers.pool import verify

    return verify(problem, text)


make_callable(__name__, _verify)
