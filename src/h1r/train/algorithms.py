"""The losses of RL by name (`rl.algorithm`): from rewards to advantages, from per-token streams to per-token losses.

A loss says three things, and the trainer does the rest (micro-batches, importance weights between sampler and trainer,
positive cross-entropy, KL term, sums over processes):

    advantages   rewards of the G rollouts of one prompt -> one advantage each
    norms        tokens of every rollout of the batch    -> the factor of each rollout's tokens
    per_token    log-probabilities and advantages        -> the loss of each token, and where a clip held it back

A loss keeps no state between calls: it is made anew from [rl] each time, so that a resumed run equals an unbroken one.
The defaults that differ from GRPO's are in `h1r.config.train.ALGORITHM_DEFAULTS`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from h1r.config import RLSection
from h1r.train.advantages import group_advantages
from h1r.train.losses import (
    PolicyTerms,
    clipped_policy_loss,
    clipped_sequence_loss,
    clipped_weight_loss,
    token_norms,
)
from h1r.train.registry import LOSSES


@dataclass(frozen=True)
class TokenStreams:
    """What is known of the T response tokens of a micro-batch. Rollouts are whole, one after another."""

    logprobs: Tensor
    """[T] log pi(token) in nats under the weights in training, with gradient; 0 where not `valid`."""
    old_logprobs: Tensor
    """[T] the same before the first update on this batch."""
    advantages: Tensor
    """[T] advantage of each token's rollout."""
    sequence: Tensor
    """[T] integers that number the rollout of each token from 0."""
    valid: Tensor
    """[T] bool: tokens that enter the loss, those whose log-probabilities are all finite."""


class Loss(ABC):
    """A policy loss. `section` is the table [rl] of the recipe, with all its numbers."""

    def __init__(self, section: RLSection) -> None:
        self.section = section

    def advantages(self, rewards: Sequence[float]) -> Tensor:
        """[G] rewards of one prompt's rollouts -> [G] advantages."""
        return group_advantages(rewards, self.section.normalise_std, self.section.deviation)

    def norms(self, lengths: list[int]) -> list[float]:
        """The factor of each rollout's tokens, from the number of valid tokens of every rollout of the batch."""
        return token_norms(lengths, self.section.aggregation, self.section.max_tokens)

    @abstractmethod
    def per_token(self, streams: TokenStreams) -> PolicyTerms:
        """The loss of each token, to be minimised and not yet weighted."""


class GRPO(Loss):
    """PPO's clipped surrogate with separate bounds (clip-higher), as in arXiv 2601.02346, section 3.2."""

    def per_token(self, streams: TokenStreams) -> PolicyTerms:
        low, high = self.section.epsilon_low, self.section.epsilon_high
        return clipped_policy_loss(streams.logprobs, streams.old_logprobs, streams.advantages, low, high)


class DrGRPO(GRPO):
    """GRPO without its two biases (arXiv 2503.20783): no division by the deviation of rewards, and none by a rollout's
    length. Both are defaults of keys; the surrogate is GRPO's."""


class GSPO(Loss):
    """The ratio of whole sequences, with the length taken out, is clipped (arXiv 2507.18071, equations 5 to 7)."""

    def per_token(self, streams: TokenStreams) -> PolicyTerms:
        return clipped_sequence_loss(
            streams.logprobs,
            streams.old_logprobs,
            streams.advantages,
            streams.sequence,
            streams.valid,
            self.section.epsilon_low,
            self.section.epsilon_high,
        )


class CISPO(Loss):
    """The importance weight is clipped and carries no gradient, so that no token loses its own (arXiv 2506.13585,
    equations 4 and 5)."""

    def per_token(self, streams: TokenStreams) -> PolicyTerms:
        low, high = self.section.epsilon_low, self.section.epsilon_high
        return clipped_weight_loss(streams.logprobs, streams.old_logprobs, streams.advantages, low, high)


def make_loss(section: RLSection) -> Loss:
    """The loss that `rl.algorithm` names; `UserError` for a name that nothing is registered under."""
    found: Loss = LOSSES.require(section.algorithm)(section)
    return found
