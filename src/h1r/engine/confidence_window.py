"""The mean confidence of a trace's last tokens, and when it first falls below a threshold, for many traces at once.

`Windows` keeps running sums on the device, addressed by the position of a token, so that a position seen twice (a
prefill in chunks samples some tokens that do not count) counts once, and a step costs a few gathers at any window.

S slots, one per trace; B rows of a batch; R places of a ring that holds the sums of the last R tokens. Nats.
"""

from __future__ import annotations

import torch
from torch import Tensor

from h1r.engine.protocol import is_doubtful


def recent_means(confidences_ST: Tensor, slot_B: Tensor, count_B: Tensor, window_B: Tensor) -> Tensor:
    """Mean [B], fp64, of the last `window_B` of the first `count_B` confidences of each slot, of all when there are
    fewer; not a number where there is none."""
    kept_B = torch.minimum(count_B, window_B)
    back_W = torch.arange(int(kept_B.max()), device=count_B.device)
    place_BW = (count_B[:, None] - 1 - back_W).clamp_min(0)
    recent_BW = confidences_ST[slot_B[:, None], place_BW] * (back_W < kept_B[:, None])
    return recent_BW.sum(1, dtype=torch.float64) / kept_B


class Windows:
    """Sums of confidences of S slots over the last R tokens. Both grow on the host's demand only."""

    def __init__(self, device: torch.device) -> None:
        self.sums_SR = torch.zeros(0, 2, dtype=torch.float64, device=device)
        """Sum of the confidences up to and including token t, at place t modulo R."""
        self.below_S, self.first_S = (torch.zeros(0, dtype=torch.long, device=device) for _ in range(2))

    def reserve(self, slots: int, window: int) -> None:
        """Makes room for slots [0, slots) and windows of `window` tokens; what was recorded stays."""
        S, R = self.sums_SR.shape
        if slots > S:
            self.sums_SR, self.below_S, self.first_S = (
                torch.cat([old, old.new_zeros(slots - S, *old.shape[1:])])
                for old in (self.sums_SR, self.below_S, self.first_S)
            )
        if window >= R:
            # Where a sum lies depends on R: all that the old ring holds goes to its place in the new one. Which of the
            # positions that share a place was the last is not known here, so each goes to all of theirs.
            larger = window + 1
            larger = R * -(-larger // R)
            self.sums_SR = self.sums_SR.repeat(1, larger // R)

    def start(self, slot: int, first: int = 0) -> None:
        """A new trace takes a slot. first: its tokens before this position were not seen and enter no window."""
        self.below_S[slot] = 0
        self.first_S[slot] = first

    def record(
        self, slot_B: Tensor, position_B: Tensor, confidence_B: Tensor, window_B: Tensor, threshold_B: Tensor
    ) -> Tensor:
        """Records the confidence [B] of the token at `position_B` (from 0); all from `first` on come in order.

        Returns after how many tokens the mean of the last `window_B` first lay below the threshold, this token
        included; 0 when it has not, or there were not yet that many tokens.
        """
        R, first_B = self.sums_SR.shape[1], self.first_S[slot_B]
        count_B = position_B + 1
        before_B = self.sums_SR[slot_B, (position_B - 1) % R]
        sum_B = torch.where(position_B > first_B, before_B, 0.0) + confidence_B.double()
        self.sums_SR[slot_B, position_B % R] = sum_B
        start_B = count_B - window_B
        left_B = torch.where(start_B > first_B, self.sums_SR[slot_B, (start_B - 1) % R], 0.0)
        now_B = is_doubtful((sum_B - left_B) / window_B, count_B - first_B, window_B, threshold_B)
        old_B = self.below_S[slot_B]
        earlier_B = (old_B > 0) & (old_B < count_B)
        below_B = torch.where(earlier_B, old_B, torch.where(now_B, count_B, 0))
        self.below_S[slot_B] = below_B
        return below_B
