"""What a model's training pass computes and keeps, counted on tensors without values.

The model's own code runs on the meta device, its layers once and twice: the difference is a layer. The operators are
stand-ins that compute nothing, keep for the backward pass what those of `kernels/triton` keep, and count their own
operations; products of matrices are counted by torch. So what is counted follows the code.

Shapes as in `kernels/contract.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from h1r.kernels.contract import Kernels
from h1r.kernels.layout import Layout
from h1r.models import CausalLM
from h1r.models.config import ModelConfig
from h1r.models.registry import family_of

_SHORT = 1024


@dataclass(frozen=True)
class PassCosts:
    """Of a document of `length` tokens. flops: of a forward pass, an addition and a multiplication each counted; a
    backward pass has twice as many. kept: bytes a token that a layer leaves for its backward pass. flows: bytes a token
    that go from a layer to the next."""

    length: int
    layers: int
    parameters: int
    largest_unit: int
    """Parameters of the largest module that FSDP2 gathers at once."""
    root: int
    """Parameters that it gathers for a whole pass: embedding, head, last norm."""
    kept: float
    flows: float
    flops: float


@lru_cache(maxsize=16)
def pass_costs(config: ModelConfig, dtype: torch.dtype, length: int) -> PassCosts:
    """Counted for one document of so many tokens, computed in `dtype`."""
    (one, first), (two, second) = (_counted(config.replaced(num_hidden_layers=n), dtype, length) for n in (1, 2))
    layer_flops, layer_kept = second.flops - first.flops, second.kept - first.kept
    head = config.vocab_size * config.hidden_size
    sizes = [sum(p.numel() for p in unit.parameters()) for unit in two.fsdp_units()]
    total = sum(p.numel() for p in one.parameters()) + (config.num_hidden_layers - 1) * sizes[-1]
    return PassCosts(
        length=length,
        layers=config.num_hidden_layers,
        parameters=total,
        largest_unit=max(sizes),
        root=total - config.num_hidden_layers * sizes[-1],
        kept=layer_kept / length,
        flows=config.hidden_size * dtype.itemsize,
        flops=first.flops + (config.num_hidden_layers - 1) * layer_flops + 2 * length * head,
    )


@lru_cache(maxsize=16)
def flops_terms(config: ModelConfig) -> tuple[float, float]:
    """a and b of the operations of a forward pass over n tokens, a n + b n^2."""
    one, two = (pass_costs(config, torch.bfloat16, n).flops for n in (_SHORT, 2 * _SHORT))
    quadratic = (two - 2 * one) / (2 * _SHORT * _SHORT)
    return one / _SHORT - quadratic * _SHORT, quadratic


@dataclass
class _Count:
    flops: float = 0.0
    kept: int = 0


def _counted(config: ModelConfig, dtype: torch.dtype, length: int) -> tuple[CausalLM, _Count]:
    """A model on the meta device, and what a forward pass of its body computes and keeps."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        model: CausalLM = family_of(config).model_class(config)
    count = _Count()
    model.cast(dtype).train().use(stand_ins(count))
    layout = Layout.of([length], "meta")
    with FlopCounterMode(display=False) as products, kept_storages() as kept:
        model.model(torch.zeros(length, dtype=torch.long, device="meta"), layout)
    count.flops += products.get_total_flops()
    count.kept = bytes_beside(kept, [*model.parameters(), *model.buffers(), layout.positions, layout.remaining])
    return model, count


@contextmanager
def kept_storages() -> Iterator[dict[int, int]]:
    """The bytes of the storages that autograd keeps in the block, by their identity."""
    found: dict[int, int] = {}
    alive: list[Tensor] = []  # an identity may be used again once its storage is gone

    def keep(tensor: Tensor) -> Tensor:
        alive.append(tensor)
        found[_place(tensor)] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield found


def bytes_beside(kept: Mapping[int, int], tensors: Iterable[Tensor]) -> int:
    """Of what `kept_storages` found, the bytes that are not those of `tensors`."""
    own = {_place(tensor) for tensor in tensors}
    return sum(size for place, size in kept.items() if place not in own)


def _place(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


class _Keeps(torch.autograd.Function):
    """Returns an empty tensor like `like`, and keeps some others."""

    @staticmethod
    def forward(ctx: Any, like: Tensor, num_kept: int, *tensors: Tensor | None) -> Tensor:
        out = torch.empty(like.shape, dtype=like.dtype, device=like.device)
        kept = tensors[:num_kept]
        ctx.save_for_backward(*kept, *(() if len(tensors) > num_kept else (out,)))
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        raise NotImplementedError("nothing is computed here")


def stand_ins(count: _Count) -> Kernels:
    """Operators that keep what Triton's keep."""

    def keeping(like: Tensor, *kept: Tensor | None, result: bool = False) -> Tensor:
        out: Tensor = _Keeps.apply(like, len(kept), *kept, *(() if result else (None,)))
        return out

    def conv_silu(x: Tensor, weight: Tensor, bias: Tensor | None, layout: Layout) -> Tensor:
        count.flops += 2 * x.numel() * weight.shape[1]
        return keeping(x, x, weight, bias, layout.positions, layout.remaining)

    def scan(
        x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, layout: Layout, chunk_size: int
    ) -> Tensor:
        (T, H, P), (G, S) = x.shape, B.shape[1:]
        # Scores of a chunk, their product with x, states into and out of it.
        count.flops += 2.0 * T * (chunk_size * (G * S + H * P) + 2 * H * P * S)
        x, B, C = (t if t.stride(2) == 1 and t.stride(1) == t.shape[2] else t.contiguous() for t in (x, B, C))
        return keeping(x, x, dt, A, B, C, D)

    def gate(y: Tensor, z: Tensor, weight: Tensor | None, groups: int, eps: float, norm_before_gate: bool) -> Tensor:
        return keeping(y, y, z, weight)

    def attention(q: Tensor, k: Tensor, v: Tensor, layout: Layout) -> Tensor:
        T, H, E = q.shape
        count.flops += 2.0 * T * layout.longest * H * E  # two products, over half of the square
        sums = torch.empty(H, T, dtype=torch.float32, device=q.device)
        return keeping(q, q, k, v, sums, result=True)

    def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
        return keeping(x, x, weight)

    def swiglu(gate: Tensor, up: Tensor) -> Tensor:
        return keeping(up, up, gate)

    def rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        return keeping(x, cos, sin)

    def not_in_training(*_: Any) -> Any:
        raise NotImplementedError("nothing is computed here")

    return Kernels(
        "counted", conv_silu=conv_silu, scan=scan, gate=gate, attention=attention, rms_norm=rms_norm, swiglu=swiglu,
        rotary=rotary, token_logprobs=not_in_training, step=not_in_training,
    )  # fmt: skip
