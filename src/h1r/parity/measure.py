"""How a check measures and what it reports.

Errors are relative to the largest magnitude of what is expected, tensor by tensor: an error that matters in one place
is not diluted by a mean, and a tensor of small numbers is not hidden behind one of large numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

if TYPE_CHECKING:
    from h1r.parity.subject import Subject

Verdict = Literal["passed", "failed", "skipped"]


class NotHereError(Exception):
    """A check cannot run on this machine or for this model; the message is one sentence that says why."""


@dataclass
class Worst:
    """The largest error seen so far and where it was. Without a comparison it is infinite: nothing was shown."""

    error: float = math.inf
    where: str = "nothing was compared"
    compared: int = 0
    note: str = ""
    """What else is to be told, also where the check passes."""
    figures: dict[str, float] = field(default_factory=dict)
    """The numbers of it."""

    def add(self, where: str, error: float) -> Worst:
        error = math.inf if math.isnan(error) else error
        if self.compared == 0 or error > self.error:
            self.error, self.where = error, where
        self.compared += 1
        return self

    def compare(self, where: str, got: Tensor, expected: Tensor, floor: float = 0.0) -> Worst:
        """Adds `gap(got, expected, floor)`."""
        return self.add(where, gap(got, expected, floor))


@dataclass(frozen=True)
class Tolerance:
    """The largest error that passes, for each dtype a model may be checked in."""

    float32: float
    bfloat16: float
    float64: float

    def of(self, dtype: torch.dtype) -> float:
        return float(getattr(self, str(dtype).removeprefix("torch.")))


@dataclass(frozen=True)
class Check:
    """One guarantee. `measure` returns its worst error or raises `NotHereError`; `what` says what is compared."""

    name: str
    what: str
    measure: Callable[[Subject], Worst]
    tolerance: Tolerance

    def run(self, subject: Subject) -> Outcome:
        """Measures. Any exception but `NotHereError` is a failure of this check and leaves the others."""
        tolerance = self.tolerance.of(subject.dtype)
        try:
            worst = self.measure(subject)
        except NotHereError as why:
            return Outcome(self.name, None, tolerance, "skipped", str(why))
        except Exception as error:  # whatever a broken model or peer raises is this check's verdict
            reason = str(error).splitlines()[0] if str(error) else ""
            return Outcome(self.name, None, tolerance, "failed", f"{self.what}; {type(error).__name__}: {reason}")
        told = f"{self.what}; {worst.note}" if worst.note else self.what
        if worst.error <= tolerance:
            return Outcome(self.name, worst.error, tolerance, "passed", told, worst.figures)
        finite = worst.error if math.isfinite(worst.error) else None
        return Outcome(self.name, finite, tolerance, "failed", f"{told}; worst: {worst.where}", worst.figures)


@dataclass(frozen=True)
class Outcome:
    """What a check came to. `error` is None when it did not run, raised, or was infinite."""

    name: str
    error: float | None
    tolerance: float
    verdict: Verdict
    why: str
    figures: dict[str, float] = field(default_factory=dict)


def gap(got: Tensor, expected: Tensor, floor: float = 0.0) -> float:
    """Largest difference over the largest magnitude of `expected` (at least `floor`); infinite where shapes differ or a
    value is not finite."""
    if got.shape != expected.shape:
        return math.inf
    wide = torch.promote_types(torch.promote_types(got.dtype, expected.dtype), torch.float32)
    got, expected = got.detach().to(wide), expected.detach().to(wide)
    scale = max(expected.abs().max().item(), floor, torch.finfo(wide).tiny)
    error = (got - expected).abs().max().item() / scale
    return math.inf if math.isnan(error) else error


def compare_gradients(
    worst: Worst, names: Sequence[str], got: Sequence[Tensor | None], expected: Sequence[Tensor | None]
) -> Worst:
    """Each gradient against its twin. A gradient's scale is at least `GRADIENT_FLOOR` of the largest one's: what is
    mathematically next to zero carries rounding errors of the sums it comes from."""
    largest = max((g.abs().max().item() for g in expected if g is not None), default=0.0)
    for name, a, b in zip(names, got, expected, strict=True):
        if a is None and b is None:
            continue
        if a is None or b is None:
            worst.add(f"gradient of {name} exists on one side only", math.inf)
            continue
        worst.compare(f"gradient of {name}", a, b, GRADIENT_FLOOR * largest)
    return worst


GRADIENT_FLOOR = 1e-4
