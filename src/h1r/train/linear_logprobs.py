"""Log-probabilities of target tokens from hidden states, without the logits of more than a chunk of tokens in memory.

    logits_t = scale * W h_t / temperature;   log pi_t = logits_t[target_t] - log sum_v exp(logits_t[v])

The head of a large vocabulary costs more memory than the rest of a training step: at 36,864 tokens and 130,048 words
the logits alone take 19 GB in fp32, and the softmax and its gradient as much again. Forward keeps one number per token
and the backward pass computes the logits of a chunk again:

    gradient of log pi_t on logits_t[v] = 1[v = target_t] - exp(logits_t[v] - log sum)

so the head costs four products of its size instead of three, and memory is O(T D + V D + chunk V).

Softmax and sums are fp32 or wider; products run in the type of `hidden`, with the gradient of W summed over chunks in
fp32 or wider. Shapes: T tokens, D hidden, V vocabulary. Left out: a bias of the head, which no family has.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from h1r.kernels.torch.operators import at_least_fp32
from h1r.models import CausalLM
from h1r.train.losses import entropy as entropy_of
from h1r.train.losses import token_logprobs

LOGITS_BYTES = 1 << 29
"""Logits in fp32 that are held at once; where all would be more, chunks take their place. Our choice: 1,032 tokens of
the 7B's vocabulary, and whole micro-batches of small models, whose head is then computed once."""


def head_logprobs(
    model: CausalLM, hidden_TD: Tensor, targets_T: Tensor, temperature: float = 1.0, with_entropy: bool = False
) -> tuple[Tensor, Tensor]:
    """log pi(target) [T] under the model's head, and the entropy [T] (zeros without `with_entropy`), both in nats."""
    vocabulary = model.config.vocab_size
    if 4 * hidden_TD.shape[0] * vocabulary > LOGITS_BYTES:
        chunk = max(1, LOGITS_BYTES // (4 * vocabulary))
        scale = model.logits_scale
        weight = model.lm_head.weight
        return logprobs_and_entropy(hidden_TD, weight, targets_T, scale, temperature, chunk, with_entropy)
    logits = model.logits(hidden_TD)
    logprobs = token_logprobs(logits, targets_T, temperature, model.kernels)
    return logprobs, entropy_of(logits, temperature) if with_entropy else torch.zeros_like(logprobs)


def linear_logprobs(
    hidden_TD: Tensor,
    weight_VD: Tensor,
    targets_T: Tensor,
    scale: float = 1.0,
    temperature: float = 1.0,
    chunk: int = 1024,
) -> Tensor:
    """log pi(target) [T] in nats, fp32 or wider; differentiable in `hidden_TD` and `weight_VD`.

    `scale` multiplies the logits (the model's `logits_scale`), `temperature` divides them. Raises `ValueError`
    for a chunk below 1.
    """
    return logprobs_and_entropy(hidden_TD, weight_VD, targets_T, scale, temperature, chunk, False)[0]


def logprobs_and_entropy(
    hidden_TD: Tensor,
    weight_VD: Tensor,
    targets_T: Tensor,
    scale: float = 1.0,
    temperature: float = 1.0,
    chunk: int = 1024,
    with_entropy: bool = True,
) -> tuple[Tensor, Tensor]:
    """As `linear_logprobs`, and the entropy [T] in nats of each token's distribution, which carries no gradient.

    Without `with_entropy` the second tensor is zeros.
    """
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1 token, not {chunk}")
    logprobs, entropy = _LinearLogprobs.apply(hidden_TD, weight_VD, targets_T, scale, temperature, chunk, with_entropy)
    return logprobs, entropy


class _LinearLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        scale: float,
        temperature: float,
        chunk: int,
        with_entropy: bool,
    ) -> tuple[Tensor, Tensor]:
        logprobs = at_least_fp32(hidden.new_empty(0)).new_empty(hidden.shape[0])
        log_mass, entropy = torch.empty_like(logprobs), torch.zeros_like(logprobs)
        for start in range(0, hidden.shape[0], chunk):
            part = slice(start, start + chunk)
            logits = _logits(hidden[part], weight, scale, temperature)
            log_mass[part] = logits.logsumexp(-1)
            logprobs[part] = logits.gather(-1, targets[part, None]).squeeze(-1) - log_mass[part]
            if with_entropy:
                logits -= log_mass[part, None]
                probability = logits.exp()
                # A word of probability 0 adds 0, not 0 * -inf.
                entropy[part] = -probability.mul_(logits.clamp_min_(torch.finfo(logits.dtype).min)).sum(-1)
        ctx.save_for_backward(hidden, weight, targets, log_mass)
        ctx.scale, ctx.temperature, ctx.chunk = scale, temperature, chunk
        ctx.mark_non_differentiable(entropy)
        return logprobs, entropy

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, targets, log_mass = ctx.saved_tensors
        pull = grads[0] * (ctx.scale / ctx.temperature)
        grad_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        grad_weight = torch.zeros_like(at_least_fp32(weight)) if ctx.needs_input_grad[1] else None
        for start in range(0, hidden.shape[0], ctx.chunk):
            part = slice(start, start + ctx.chunk)
            grad = _logits(hidden[part], weight, ctx.scale, ctx.temperature).sub_(log_mass[part, None]).exp_().neg_()
            grad.scatter_add_(-1, targets[part, None], torch.ones_like(grad[:, :1]))
            grad = grad.mul_(pull[part, None]).to(hidden.dtype)
            if grad_hidden is not None:
                grad_hidden[part] = grad @ weight
            if grad_weight is not None:
                _add_product(grad_weight, grad, hidden[part])
        grad_weight = None if grad_weight is None else grad_weight.to(weight.dtype)
        return grad_hidden, grad_weight, None, None, None, None, None


def _logits(hidden: Tensor, weight: Tensor, scale: float, temperature: float) -> Tensor:
    """fp32 or wider, free to be overwritten, and rounded where the model's own head rounds."""
    logits = at_least_fp32((hidden * scale) @ weight.t())
    return logits if temperature == 1.0 else logits.div_(temperature)


def _add_product(total_VD: Tensor, grad: Tensor, hidden: Tensor) -> None:
    """total += grad^T hidden; in place where the types allow it."""
    if total_VD.dtype == hidden.dtype:
        total_VD.addmm_(grad.t(), hidden)
    else:
        total_VD += grad.t() @ hidden
