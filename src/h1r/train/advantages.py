"""Group-relative advantages (GRPO): A_i = (R_i - mean(R)) / std(R) over the G rollouts of one prompt.

Source: arXiv 2601.02346, section 3.2, which does not say whether std is the sample's (verl's, whose 1e-6 beside it is
left out here) or the population's. `normalise_std=False` leaves the division out (Dr. GRPO). Every token of rollout i
has the advantage A_i.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor


def group_advantages(
    rewards_G: Sequence[float] | Tensor,
    normalise_std: bool = True,
    deviation: Literal["sample", "population"] = "population",
) -> Tensor:
    """[G] rewards -> [G] advantages, fp32. All rewards equal give zeros."""
    rewards = torch.as_tensor(rewards_G, dtype=torch.float64)
    if rewards.max() == rewards.min():  # their mean may differ by a rounding, which the deviation would blow up to 1
        return torch.zeros_like(rewards).float()
    centred = rewards - rewards.mean()
    std = rewards.std(correction=int(deviation == "sample"))
    return (centred / std if normalise_std else centred).float()


def has_signal(rewards_G: Sequence[float]) -> bool:
    """Whether a group teaches anything: it has rewards, and they are not all equal."""
    return len(set(rewards_G)) > 1


def overlong_penalty(num_tokens: int, max_tokens: int, buffer: int, factor: float) -> float:
    """DAPO's soft overlong punishment (arXiv 2503.14476, equation 13), as a number to subtract from a reward.

    0 up to `max_tokens - buffer` tokens, from there in a straight line to `factor` at `max_tokens`. A buffer of 0 turns
    it off.
    """
    if buffer == 0:
        return 0.0
    excess = num_tokens - (max_tokens - buffer)
    return factor * min(max(excess / buffer, 0.0), 1.0)
