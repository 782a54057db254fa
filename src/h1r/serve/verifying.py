"""The verifier's workers of a server, which start when the first answers must be compared by them."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from h1r.config import VerifySection
from h1r.errors import UserError
from h1r.records import Problem, Verdict
from h1r.serve.errors import ApiError
from h1r.verify import Backend, open_backend, require

_COMPARED = ("text", "value", "letters")
"""Kinds of answers that can be the same; programs and whole responses cannot."""


class Verifying:
    """One run of a request asks at a time."""

    def __init__(self, section: VerifySection) -> None:
        self._section = section
        self._pool: Backend | None = None
        self._lock = threading.Lock()

    def many(self, problems: Sequence[Problem], texts: Sequence[str]) -> list[Verdict]:
        """Verdicts of responses, one by one."""
        with self._lock:
            if self._pool is None:
                self._pool = open_backend(self._section)
            return self._pool.verify_many(problems, texts)

    def close(self) -> None:
        """Ends the workers."""
        with self._lock:
            if self._pool is not None:
                self._pool.close()


def check_verifier(name: str) -> None:
    """`ApiError` for a verifier that is not known, or whose answers cannot be the same."""
    try:
        kind = require(name).answer_kind
    except UserError as error:
        raise ApiError(400, str(error), "deepconf.verifier") from None
    if kind not in _COMPARED:
        said = f'answers for the verifier {name} cannot be the same; give `tests`, or ask for select "confidence"'
        raise ApiError(400, said, "deepconf.verifier")
