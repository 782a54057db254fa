"""log softmax(logits)[target] in Triton, without a softmax in memory: logits are read once forward, once backward.

    log pi_t = logits[t, target_t] - log sum_v exp(logits[t, v])
    gradient = g_t (1[v = target_t] - exp(logits[t, v] - log sum))

One program per row walks over the vocabulary with a running maximum. Sums in fp32. Shapes: T tokens, V vocabulary.
"""

# mypy: disable-error-code="import-not-found,import-untyped,no-untyped-def"
from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from h1r.kernels.triton.launch import grid, rows_of


def token_logprobs(logits_TV: Tensor, targets_T: Tensor) -> Tensor:
    return _TokenLogprobs.apply(logits_TV, targets_T)


class _TokenLogprobs(torch.autograd.Function):
    BLOCK = 4096

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        logits = rows_of(logits)
        T, V = logits.shape
        out, total = (torch.empty(T, dtype=torch.float32, device=logits.device) for _ in range(2))
        _logprob[grid(T)](
            logits, targets, out, total, logits.stride(0), V, targets.stride(0), BLOCK=_TokenLogprobs.BLOCK, num_warps=8
        )
        ctx.save_for_backward(logits, targets, total)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        logits, targets, total = ctx.saved_tensors
        T, V = logits.shape
        grad = torch.empty(T, V, dtype=logits.dtype, device=logits.device)
        block = _TokenLogprobs.BLOCK
        _logprob_grads[grid(T, triton.cdiv(V, block))](
            logits, targets, total, grads[0].contiguous(), grad, logits.stride(0), V, targets.stride(0), BLOCK=block,
            num_warps=8,
        )  # fmt: skip
        return grad, None


@triton.jit
def _logprob(logits, targets, out, total, stride, V, target_stride, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    logits += row * stride
    highest, mass = tl.full([], -float("inf"), tl.float32), tl.full([], 0.0, tl.float32)
    for start in range(0, V, BLOCK):
        v = start + tl.arange(0, BLOCK)
        value = tl.load(logits + v, mask=v < V, other=-float("inf")).to(tl.float32)
        higher = tl.maximum(highest, tl.max(value, 0))
        # A row that is -inf so far has nothing to rescale; exp(-inf - -inf) would be NaN.
        base = tl.where(higher == -float("inf"), 0.0, higher)
        mass = mass * tl.exp(highest - base) + tl.sum(tl.exp(value - base), 0)
        highest = higher
    log_mass = highest + tl.log(mass)
    target = tl.load(targets + row * target_stride)
    tl.store(out + row, tl.load(logits + target).to(tl.float32) - log_mass)
    tl.store(total + row, log_mass)


@triton.jit
def _logprob_grads(logits, targets, total, pull, grad, stride, V, target_stride, BLOCK: tl.constexpr):
    row, v = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(logits + row * stride + v, mask=v < V, other=-float("inf")).to(tl.float32)
    probability = tl.exp(value - tl.load(total + row))
    hit = (v == tl.load(targets + row * target_stride)).to(tl.float32)
    tl.store(grad + row * V + v, tl.load(pull + row) * (hit - probability), mask=v < V)
