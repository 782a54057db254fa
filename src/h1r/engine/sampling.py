"""Choosing the next token of many sequences at once: pure functions of tensors.

Every sequence has its own stream of uniform numbers, a hash of (its key, the position of the token): no generator state
to keep, and what one sequence draws does not depend on what else is in the batch. A token is drawn by inverting the
cumulative distribution, so a small change of the probabilities rarely changes the token.

Shapes: B sequences, V vocabulary. Log-probabilities and confidences in nats.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Choice:
    """One sampled token per sequence; see `records.Trace` for the meaning of each."""

    token: Tensor
    logprob: Tensor
    sampling_logprob: Tensor
    confidence: Tensor


def stream_key(seed: int, sample_index: int, prompt: Sequence[int]) -> int:
    """The key of one trace's random stream, as a signed 64-bit integer.

    seed + sample_index names the stream and the prompt enters it, so that two prompts with one seed do not draw the
    same numbers. All of it is hashed: keys a constant apart would give streams that are one another, shifted.
    """
    text = f"{seed + sample_index} {' '.join(map(str, prompt))}"
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def uniform(key_B: Tensor, position_B: Tensor) -> Tensor:
    """fp64 numbers in (0, 1], one per sequence: the splitmix64 finaliser of key + position * odd constant."""
    z = key_B + (position_B + 1) * _signed(0x9E3779B97F4A7C15)
    z = (z ^ _shift(z, 30)) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ _shift(z, 27)) * _signed(0x94D049BB133111EB)
    z = z ^ _shift(z, 31)
    return (_shift(z, 11) + 1).double() * 2.0**-53


def choose(
    logits_BV: Tensor,
    uniform_B: Tensor,
    temperature_B: Tensor | None,
    top_k_B: Tensor | None,
    top_p_B: Tensor | None,
    min_p_B: Tensor | None,
    confidence_top_k: int,
) -> Choice:
    """Draws one token per row. Temperature 0 takes the most probable token; temperatures of None are 1 for all rows, a
    filter of None is off for all. The host waits for nothing, so a CUDA graph can hold it."""
    logprobs_BV = logits_BV.float().log_softmax(-1)
    top = logprobs_BV.topk(min(confidence_top_k, logits_BV.shape[-1]), dim=-1).values
    scaled_BV = logprobs_BV
    if temperature_B is not None:
        safe_B = torch.where(temperature_B == 0, torch.ones_like(temperature_B), temperature_B)
        scaled_BV = (logprobs_BV / safe_B[:, None]).log_softmax(-1)
    kept_BV = scaled_BV
    if top_k_B is not None or top_p_B is not None or min_p_B is not None:
        kept_BV = filter_logprobs(scaled_BV, top_k_B, top_p_B, min_p_B)
    cumulative_BV = kept_BV.double().exp().cumsum(-1)
    token_B = torch.searchsorted(cumulative_BV, (uniform_B * cumulative_BV[:, -1])[:, None]).squeeze(-1)
    token_B = token_B.clamp_max(logits_BV.shape[-1] - 1)
    if temperature_B is not None:
        token_B = torch.where(temperature_B == 0, logprobs_BV.argmax(-1), token_B)
    pick = token_B[:, None]
    return Choice(
        token=token_B,
        logprob=logprobs_BV.gather(-1, pick).squeeze(-1),
        sampling_logprob=scaled_BV.gather(-1, pick).squeeze(-1),
        confidence=-top.mean(-1),
    )


def token_confidence(logits_BV: Tensor, top_k_B: Tensor, most: int) -> Tensor:
    """`Choice.confidence` of each row from its logits, when rows differ in how many tokens enter; no more than `most`.

    arXiv 2508.15260, section 3.1: the negative mean log-probability of the k most probable tokens, in nats.
    """
    most = min(most, logits_BV.shape[-1])
    top_BK = logits_BV.topk(most, dim=-1).values.float()
    k_B = top_k_B.clamp_max(most)
    total_B = top_BK.cumsum(-1).gather(-1, k_B[:, None] - 1).squeeze(-1)
    return logits_BV.float().logsumexp(-1) - total_B / k_B


def filter_logprobs(
    logprobs_BV: Tensor, top_k_B: Tensor | None, top_p_B: Tensor | None, min_p_B: Tensor | None
) -> Tensor:
    """-inf outside the kept set. top_k 0 and top_p 1 keep all; the most probable token is always kept, and
    of two alike the first comes first.

    top_p keeps the smallest set of most probable tokens whose mass reaches p.
    """
    ordered_BV, order_BV = logprobs_BV.sort(dim=-1, descending=True, stable=True)
    drop_BV = torch.zeros_like(ordered_BV, dtype=torch.bool)
    if top_k_B is not None:
        rank_V = torch.arange(ordered_BV.shape[-1], device=ordered_BV.device)
        drop_BV |= (rank_V >= top_k_B[:, None]) & (top_k_B > 0)[:, None]
    if top_p_B is not None:
        mass_BV = ordered_BV.double().exp()
        drop_BV |= (mass_BV.cumsum(-1) - mass_BV >= top_p_B[:, None]) & (top_p_B < 1)[:, None]
    if min_p_B is not None:
        drop_BV |= ordered_BV < ordered_BV[:, :1] + min_p_B[:, None].log()
    drop_BV[:, 0].fill_(False)
    drop_BV = torch.zeros_like(drop_BV).scatter(-1, order_BV, drop_BV)
    return logprobs_BV.masked_fill(drop_BV, -torch.inf)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _shift(z: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)
