"""The contract of the model's operators: what each takes, returns and promises.

All operators work on flat tokens of documents laid end to end (`h1r.kernels.layout`) and let nothing cross a border.
Shapes: T flat tokens, D hidden, M = d_ssm, N = convolution channels, K taps, H heads, P head width, G groups,
S d_state, E attention head width, F feed-forward width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Kernels:
    """One implementation of each operator. All are differentiable in every float argument, except `step`."""

    name: str
    conv_silu: Callable[..., Any]
    """(xBC [T, N], weight [N, K], bias [N] or None, layout) -> SiLU(causal depthwise convolution) [T, N]"""
    scan: Callable[..., Any]
    """(x [T, H, P], dt [T, H], A [H], B [T, G, S], C [T, G, S], D [H], layout, chunk_size) -> y [T, H, P]

    h_t = exp(dt_t A) h_{t-1} + dt_t x_t B_t^T;  y_t = h_t C_t + D x_t;  h = 0 before each document. `chunk_size` is how
    the work is cut, a hint that changes no value."""
    gate: Callable[..., Any]
    """(y [..., M], z [..., M], weight [M] or None, groups, eps, norm_before_gate) -> [..., M]

    y SiLU(z), with a grouped RMSNorm after the product or, with `norm_before_gate`, before it; no weight means
    no norm."""
    attention: Callable[..., Any]
    """(q [T, H, E], k [T, J, E], v [T, J, E], layout) -> [T, H, E]

    Causal softmax attention inside each document; scale E^-0.5, H a multiple of J."""
    rms_norm: Callable[..., Any]
    """(x [..., D], weight [D], eps) -> [..., D]"""
    swiglu: Callable[..., Any]
    """(gate [..., F], up [..., F]) -> up * SiLU(gate) [..., F]"""
    rotary: Callable[..., Any]
    """(x [..., heads, E], cos [..., E/2], sin [..., E/2]) -> [..., heads, E]

    The halves (a, b) of x become (a cos - b sin, b cos + a sin); cos and sin carry no gradient."""
    token_logprobs: Callable[..., Any]
    """(logits [T, V], targets [T]) -> log softmax(logits)[target] in nats [T], fp32 or wider"""
    step: Callable[..., Any]
    """(state [B, H, P, S], x [B, H, P], dt [B, H], A [H], B [B, G, S], C [B, G, S], D [H]) -> y [B, H, P]

    One token of B sequences; updates `state` in place; carries no gradient."""
    layer: Callable[..., Any] | None = None
    """(x [T, D], FoldedWeights, cos, sin [T, E/2], layout, config) -> x [T, D] after a whole layer, or None: the layer
    is then composed of the operators above. For kernels that gain from seeing the operators together."""
    linear: Callable[..., Any] | None = None
    """(x [..., D], weight [N, D]) -> x weight^T [..., N], or None: torch's own. For the head's large product."""
    reason: str = "asked for"
