"""A batch of rollouts as the loss sees it: token ids, advantages, and the factor of each rollout's tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from h1r.config import RLSection
from h1r.train.algorithms import make_loss
from h1r.train.ended_early import is_cut_off
from h1r.train.rollouts import Group


@dataclass
class Rollout:
    """One trace as the loss sees it."""

    ids: list[int]
    """Prompt and response."""
    prompt_length: int
    sampling_logprobs: list[float]
    """Of the tokens that the model sampled."""
    advantage: float
    positive: bool
    """Right, and not found ill-formed: what the cross-entropy imitates."""
    norm: float = 0.0
    """Factor of each of its tokens in the policy loss and the KL term (`Loss.norms`)."""
    ce_norm: float = 0.0
    """Factor of each of its tokens in the positive cross-entropy."""
    old_logprobs: Tensor | None = None
    """Trainer log-probabilities before the first update on this batch; None while they are the current ones."""
    reference_logprobs: Tensor | None = None
    """Log-probabilities under the reference model; None without a KL term."""
    mask: list[int] | None = None
    """1 for each token behind the prompt that the model sampled, 0 for one of a reply; None: it sampled all."""
    valid: Tensor | None = None
    """[response] bool: tokens that enter the loss; None before the first forward pass: all of them."""

    @property
    def is_response(self) -> list[bool]:
        """Of each token in `ids`, whether the model sampled it, so that it may have a loss."""
        behind = [True] * (len(self.ids) - self.prompt_length) if self.mask is None else [bool(m) for m in self.mask]
        return [False] * self.prompt_length + behind

    @property
    def response_length(self) -> int:
        """Tokens that the model sampled."""
        return len(self.ids) - self.prompt_length if self.mask is None else sum(self.mask)

    @property
    def num_valid(self) -> int:
        return self.response_length if self.valid is None else int(self.valid.sum())


def to_rollouts(group: Group, section: RLSection) -> list[Rollout]:
    """The group's traces with their advantages, less those that have no loss: a trace without tokens (a refused
    request), and one that was cut off where `mask_truncated` says so. Of groups of different sizes each counts for
    `num_generations` rollouts, where the recipe says so."""
    curriculum = section.curriculum
    even = curriculum.shares and curriculum.weigh == "problems"
    factor = section.num_generations / len(group.traces) if even and group.traces else 1.0
    advantages = [factor * one for one in make_loss(section).advantages(group.rewards).tolist()]
    positive = [right and formed is not False for right, formed in zip(group.correct, group.well_formed, strict=True)]
    return [
        Rollout(
            group.prompt_ids + trace.token_ids, len(group.prompt_ids), trace.sampling_logprobs, advantage, good,
            mask=trace.mask,
        )
        for trace, advantage, good in zip(group.traces, advantages, positive, strict=True)
        if trace.token_ids and not (section.mask_truncated and is_cut_off(trace))
    ]  # fmt: skip


def set_norms(rollouts: Sequence[Rollout], section: RLSection) -> None:
    """Denominators of both streams, from the whole batch: the loss then depends on no split into micro-batches."""
    lengths = [rollout.num_valid for rollout in rollouts]
    positive = sum(rollout.num_valid for rollout in rollouts if rollout.positive)
    for rollout, norm in zip(rollouts, make_loss(section).norms(lengths), strict=True):
        rollout.norm = norm
        rollout.ce_norm = section.positive_ce / positive if rollout.positive and positive else 0.0


def micro_batches(rollouts: Sequence[Rollout], max_tokens: int) -> list[list[Rollout]]:
    """Rollouts in order, cut where the next one would exceed `max_tokens`; a longer one stands alone."""
    batches: list[list[Rollout]] = []
    room = 0
    for rollout in rollouts:
        if not batches or len(rollout.ids) > room:
            batches.append([])
            room = max_tokens
        batches[-1].append(rollout)
        room -= len(rollout.ids)
    return batches
