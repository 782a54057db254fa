"""Model FLOPs utilisation (arXiv 2204.02311, appendix B): what share of what its cards can compute a step makes use of.

    MFU = 3 sum_n flops(n) / (seconds * cards * peak)        n: tokens of a document

flops(n) are those of a forward pass (`plan/costs.py`), a n + b n^2 for its products and its attention; a backward pass
has twice as many. What is computed again for activation checkpoints, and what RL computes besides (log-probabilities
before an update, a reference model), does not count. The peak is that of dense bf16 (`plan/cards.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from h1r.models import CausalLM
from h1r.train.plan.cards import CARDS, Card
from h1r.train.plan.costs import flops_terms


class Utilisation:
    """Of a model on so many processes, each with a card. On processors, and on cards whose peak is not known here,
    nothing is said."""

    def __init__(self, model: CausalLM, processes: int) -> None:
        self._config, self._processes = model.config, processes
        self._card = known_card(model.device)

    def of(self, lengths: Sequence[int], seconds: float, updates: int = 1) -> dict[str, float]:
        """`tflops`, of each card, and `mfu`, a share, of a step that trained `updates` times on documents of so many
        tokens; nothing without a card that is known."""
        if self._card is None or seconds <= 0:
            return {}
        linear, quadratic = flops_terms(self._config)
        done = 3 * updates * sum(linear * n + quadratic * n * n for n in lengths)
        tflops = done / (1e12 * seconds * self._processes)
        return {"tflops": round(tflops, 2), "mfu": round(tflops / self._card.tflops, 4)}


def known_card(device: torch.device) -> Card | None:
    """The card that a device is, by the name that its driver gives it."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device).lower().replace(" ", "")
    return next((card for key, card in CARDS.items() if key in name), None)
