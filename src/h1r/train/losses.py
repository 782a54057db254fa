"""The losses of SFT and RL, as pure functions of per-token tensors. No trainer state.

    SFT   L = - sum_t w_t log pi(t) / N                              N: valid tokens of the whole batch
    RL    L = sum_t n_t tis_t max(-r_t A_t, -clip(r_t, 1 - eps_low, 1 + eps_high) A_t)
              - mu * sum_{t in positive} log pi(t) / N_positive
          r_t = pi(t) / pi_old(t),   tis_t = min(pi_old(t) / pi_rollout(t), cap), detached

Source: arXiv 2601.02346, sections 2.3 (balanced token normalisation), 3.2 (clip-higher, TIS, positive cross-entropy).
n_t holds the aggregation (`token_norms`). Other policy losses take the place of the clipped surrogate:

    GSPO  max(-s_i A_i, -clip(s_i, 1 - eps_low, 1 + eps_high) A_i),  s_i = exp(mean_t log r_t)      arXiv 2507.18071
    CISPO -sg(clip(r_t, 1 - eps_low, 1 + eps_high)) A_t log pi(t)                                   arXiv 2506.13585
    KL    exp(d_t) - d_t - 1,  d_t = log pi_ref(t) - log pi(t)                                      k3, arXiv 2402.03300

All denominators are those of the whole batch, over all ranks and micro-batches, computed before the first forward pass:
the value depends on no split. A token whose log-probability is not finite must leave both sums; `finite` finds it.

Shapes: T tokens with loss, flat over documents; V vocabulary. Left out: an entropy term, which the paper drops.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from h1r.kernels.contract import Kernels
from h1r.kernels.torch.operators import TORCH, at_least_fp32


def token_logprobs(logits_TV: Tensor, targets_T: Tensor, temperature: float = 1.0, kernels: Kernels = TORCH) -> Tensor:
    """log pi(target) [T] in nats, fp32 or wider, of the distribution at this temperature."""
    logits_TV = at_least_fp32(logits_TV)
    if temperature != 1.0:
        logits_TV = logits_TV / temperature
    return kernels.token_logprobs(logits_TV, targets_T)


def entropy(logits_TV: Tensor, temperature: float = 1.0) -> Tensor:
    """Entropy [T] in nats of the distribution at this temperature; carries no gradient."""
    logprobs = (at_least_fp32(logits_TV.detach()) / temperature).log_softmax(-1)
    # A token of probability 0 adds 0, not 0 * -inf.
    return -(logprobs.exp() * logprobs.clamp_min(torch.finfo(logprobs.dtype).min)).sum(-1)


def finite(*streams_T: Tensor) -> Tensor:
    """[T] bool: tokens at which every stream is finite."""
    good = torch.ones_like(streams_T[0], dtype=torch.bool)
    for stream in streams_T:
        good &= torch.isfinite(stream)
    return good


Aggregation = Literal["token-mean", "seq-mean-token-mean", "seq-mean-token-sum-norm"]


def token_norms(lengths: list[int], aggregation: Aggregation, max_tokens: int = 1) -> list[float]:
    """The factor n of every token of each rollout, from the valid tokens of all rollouts of the batch.

    token-mean: 1 / tokens of the batch. seq-mean-token-mean: 1 / (tokens of the rollout * rollouts).
    seq-mean-token-sum-norm (Dr. GRPO): 1 / (max_tokens * rollouts). Rollouts without a valid token do not count.
    """
    if aggregation == "token-mean":
        total = sum(lengths)
        return [1 / total if total else 0.0] * len(lengths)
    counted = sum(length > 0 for length in lengths)
    if aggregation == "seq-mean-token-sum-norm":
        return [1 / (max_tokens * counted) if length else 0.0 for length in lengths]
    return [1 / (length * counted) if length else 0.0 for length in lengths]


def tis_weights(
    old_logprobs_T: Tensor,
    rollout_logprobs_T: Tensor,
    cap: float,
    level: Literal["token", "sequence", "none"],
    sequence_T: Tensor,
) -> Tensor:
    """Truncated importance weights [T] between trainer and sampler, detached.

    token: min(pi_old / pi_rollout, cap) of each token. sequence: of the product over its rollout; `sequence_T` numbers
    the rollout of each token. none: 1.
    """
    if level == "none":
        return torch.ones_like(old_logprobs_T)
    log_ratio_T = (old_logprobs_T - rollout_logprobs_T).detach()
    if level == "sequence":
        sums = log_ratio_T.new_zeros(int(sequence_T.max()) + 1).index_add(0, sequence_T, log_ratio_T)
        log_ratio_T = sums[sequence_T]
    return log_ratio_T.exp().clamp_max(cap)


@dataclass(frozen=True)
class PolicyTerms:
    """Per-token parts of the policy loss. `clipped` marks tokens at which the clip holds the gradient back; None where
    a loss clips nothing."""

    loss: Tensor
    clipped: Tensor | None = None


def clipped_policy_loss(
    logprobs_T: Tensor, old_logprobs_T: Tensor, advantages_T: Tensor, epsilon_low: float, epsilon_high: float
) -> PolicyTerms:
    """PPO's clipped surrogate with separate bounds (clip-higher), per token and not yet weighted."""
    ratio_T = (logprobs_T - old_logprobs_T.detach()).exp()
    plain_T = -ratio_T * advantages_T
    clipped_T = -ratio_T.clamp(1 - epsilon_low, 1 + epsilon_high) * advantages_T
    return PolicyTerms(torch.maximum(plain_T, clipped_T), (clipped_T > plain_T).detach())


def clipped_sequence_loss(
    logprobs_T: Tensor,
    old_logprobs_T: Tensor,
    advantages_T: Tensor,
    sequence_T: Tensor,
    valid_T: Tensor,
    epsilon_low: float,
    epsilon_high: float,
) -> PolicyTerms:
    """GSPO's clipped surrogate, the same at each token of a rollout: of exp(mean over its valid tokens of log r_t)."""
    log_ratio_T = torch.where(valid_T, logprobs_T - old_logprobs_T.detach(), 0.0)
    zeros = log_ratio_T.new_zeros(int(sequence_T.max()) + 1)
    sums = zeros.index_add(0, sequence_T, log_ratio_T)
    lengths = zeros.index_add(0, sequence_T, valid_T.to(log_ratio_T.dtype))
    mean_T = (sums / lengths.clamp_min(1.0))[sequence_T]
    return clipped_policy_loss(mean_T, torch.zeros_like(mean_T), advantages_T, epsilon_low, epsilon_high)


def clipped_weight_loss(
    logprobs_T: Tensor, old_logprobs_T: Tensor, advantages_T: Tensor, epsilon_low: float, epsilon_high: float
) -> PolicyTerms:
    """CISPO: -sg(clip(r_t)) A_t log pi(t). `clipped` marks weights at a bound; their tokens keep a gradient."""
    ratio_T = (logprobs_T - old_logprobs_T).detach().exp()
    weight_T = ratio_T.clamp(1 - epsilon_low, 1 + epsilon_high)
    return PolicyTerms(-weight_T * advantages_T * logprobs_T, weight_T != ratio_T)


def kl_estimate(logprobs_T: Tensor, reference_logprobs_T: Tensor) -> Tensor:
    """k3 estimate [T] of KL(pi || pi_ref) at sampled tokens, in nats: never negative, 0 where both agree."""
    difference_T = reference_logprobs_T.detach() - logprobs_T
    return difference_T.exp() - difference_T - 1
