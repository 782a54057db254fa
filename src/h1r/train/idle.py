"""Steps that teach nothing are counted, and a run of nothing but these is no success."""

from __future__ import annotations

import torch

from h1r.common.prose import counted
from h1r.errors import UserError
from h1r.models.checksum import BITS
from h1r.models.shards import own_rows


class IdleSteps:
    """Counts the steps of a stage that changed no weight: all in a row, and all there were.

    limit: so many in a row end the run; 0 turns this and `check_end` off.
    """

    def __init__(
        self, stage: str, limit: int, model: torch.nn.Module, counts: tuple[int, ...] | list[int] = (0, 0)
    ) -> None:
        """model: as the stage found it, or a checkpoint of its, which then has the `counts` of what came before."""
        self._stage, self._limit = stage, limit
        self._in_a_row, self._total, *known = counts
        self._first = known[0] if known else fingerprint(model) if limit else 0
        self._why = ""

    def counts(self) -> tuple[int, int, int]:
        """What a checkpoint keeps, and the constructor takes."""
        return self._in_a_row, self._total, self._first

    def add(self, why: str | None) -> None:
        """One step: `why` it changed nothing, None if it did. `UserError` at the limit."""
        if why is None:
            self._in_a_row = 0
            return
        self._in_a_row, self._total, self._why = self._in_a_row + 1, self._total + 1, why
        if self._limit and self._in_a_row >= self._limit:
            raise UserError(
                f"{counted(self._in_a_row, self._stage + ' step')} in a row changed no weight, the last since "
                f"{why}; mend that, or "
                f"raise {self._stage}.max_idle_steps (0: never stop)"
            )

    def check_end(self, steps: int, model: torch.nn.Module) -> None:
        """`UserError` for a model that must not be published: no step changed it, or its weights are not finite."""
        if not self._limit:
            return
        if steps and self._total >= steps:
            raise UserError(
                f"none of {counted(steps, self._stage + ' step')} changed a weight, the last since {self._why}; no "
                f"model is written. {self._stage}.max_idle_steps = 0 writes it all the same"
            )
        if steps and fingerprint(model) == self._first:
            raise UserError(
                f"the weights after {counted(steps, self._stage + ' step')} are those before, bit for bit; no model "
                f"is written: raise {self._stage}.optimizer.learning_rate, or store the checkpoint in float32, where "
                "smaller updates count"
            )
        for name, parameter in model.named_parameters():
            if not bool(torch.isfinite(own_rows(parameter.detach())[0]).all()):
                raise UserError(
                    f"weights are not finite after {self._stage} ({name}); no model is written: lower "
                    f"{self._stage}.optimizer.learning_rate"
                )


def fingerprint(model: torch.nn.Module) -> int:
    """A number made of the bits of every weight that this process holds: equal weights have equal ones."""
    total = 0
    for parameter in model.parameters():
        weight = own_rows(parameter.detach())[0].contiguous()
        bits = weight.view(BITS[weight.element_size()]).reshape(-1)
        for part in (bits, bits[::3]):
            total = (total * 1_000_003 + int(part.sum(dtype=torch.int64))) % (1 << 61)
    return total
