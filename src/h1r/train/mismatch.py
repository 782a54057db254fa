"""How far the sampler is from the trainer, and when that ends a run."""

from __future__ import annotations

import math

from h1r.common.progress import note
from h1r.errors import UserError

IN_A_ROW = 5
"""Steps beyond the limit that end a run; our choice. One may have met a rare token."""


class MismatchLimit:
    """Watches `mismatch_kl`, nats a token. limit: `rl.max_mismatch_kl`; 0: nothing is too far."""

    def __init__(self, limit: float) -> None:
        self._limit, self._in_a_row, self._said = limit, 0, False

    def add(self, mismatch: float) -> None:
        """One step. Says so at the first one beyond the limit; `UserError` at the fifth in a row."""
        if not self._limit or mismatch <= self._limit or math.isnan(mismatch):
            self._in_a_row = 0
            return
        self._in_a_row += 1
        far = f"the trainer's distribution is {mismatch:.3g} nats a token from the sampled one"
        if self._in_a_row >= IN_A_ROW:
            raise UserError(
                f"{far}, beyond rl.max_mismatch_kl = {self._limit:g} for {IN_A_ROW} steps in a row: the engine has "
                "other weights or another dtype than the trainer, or rl.lookahead is too long. Look with `h1r parity`, "
                "lower rl.lookahead, or raise the limit; --resume goes on from the newest checkpoint"
            )
        if not self._said:
            note(f"{far}, beyond rl.max_mismatch_kl = {self._limit:g}; {IN_A_ROW} such steps in a row end the run")
            self._said = True
