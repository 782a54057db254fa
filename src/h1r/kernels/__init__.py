"""The operators of the hybrid model behind one dispatch: `select(name, device, dtype)` returns a `Kernels`.

| name | what | where |
|---|---|---|
| `reference` | the definitions, written to be read: one token at a time | any device, any float type; slow |
| `torch` | chunked scan and shifted convolution in plain PyTorch | any device, any float type |
| `native` | C, compiled for this machine on first use | CPU, fp32 |
| `triton` | Triton kernels | CUDA |

`auto` takes `native` for fp32 on a CPU with a C compiler, `triton` on CUDA with Triton, and `torch` otherwise; what it
took and why is in `Kernels.reason`, and every command prints it. A name that cannot run here raises; an operator called
with tensors that it does not take raises too. Nothing falls back in silence.

All operators work on flat tokens of documents laid end to end (`h1r.kernels.layout`) and let nothing cross a border.
Shapes: T flat tokens, D hidden, M = d_ssm, N = convolution channels, K taps, H heads, P head width, G groups,
S d_state, E attention head width, F feed-forward width.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from h1r.errors import UserError

if TYPE_CHECKING:
    import torch

NAMES = ("auto", "reference", "torch", "native", "triton")


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


def select(name: str, device: str | torch.device = "cpu", dtype: torch.dtype | None = None) -> Kernels:
    """The kernels `name` for tensors of this device and type (fp32 when None).

    Raises `UserError` for an unknown name and for kernels that cannot run here, with the reason.
    """
    import torch

    place, kind = torch.device(device).type, dtype or torch.float32
    if name == "auto":
        return _automatic(place, kind)
    if name not in NAMES:
        raise UserError(f"model.kernels = {name!r} is unknown; choose one of {', '.join(NAMES)}")
    if why := _obstacle(name, place, kind):
        raise UserError(f"model.kernels = {name!r} cannot be used: {why}; choose torch, or auto")
    return _load(name)


def _automatic(place: str, kind: torch.dtype) -> Kernels:
    wanted = {"cpu": "native", "cuda": "triton"}.get(place)
    if wanted is None:
        return dataclasses.replace(_load("torch"), reason=f"the only ones for {place}")
    if why := _obstacle(wanted, place, kind):
        return dataclasses.replace(_load("torch"), reason=f"{wanted} cannot be used: {why}")
    found = _load(wanted)
    reason = f"the fastest for {str(kind).removeprefix('torch.')} on {place}"
    return dataclasses.replace(found, reason=reason + found.reason.removeprefix("asked for"))


def _obstacle(name: str, place: str, kind: torch.dtype) -> str | None:
    """Why these kernels cannot run here; None when they can."""
    import torch

    if name == "native":
        if place != "cpu" or kind != torch.float32:
            return f"they take fp32 on a CPU, not {str(kind).removeprefix('torch.')} on {place}"
        from h1r.kernels.cpu import obstacle

        return obstacle()
    if name == "triton":
        if place != "cuda":
            return f"they run on CUDA, not on {place}"
        if importlib.util.find_spec("triton") is None:
            return "triton is not installed"
    return None


def _load(name: str) -> Kernels:
    if name == "reference":
        from h1r.kernels.reference import REFERENCE

        return REFERENCE
    if name == "native":
        from h1r.kernels.cpu import NATIVE, tiles

        return dataclasses.replace(NATIVE, reason=f"asked for; {tiles()[1]}")
    if name == "triton":
        from h1r.kernels.triton import TRITON

        return TRITON
    from h1r.kernels.torch.operators import TORCH

    return TORCH
