"""An answer in, a verdict out. Model output is hostile input: no verifier raises on it, hangs on it, or trusts it."""

from h1r.common.callable_package import make_callable
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

make_callable(__name__, verify)
