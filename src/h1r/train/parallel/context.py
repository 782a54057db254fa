"""Context parallelism: c ranks train on one packed sequence, each with 1/c of its tokens and of its heads.

Outside the mixers every rank computes on its own share of the flat tokens: norms, projections, MLP, residuals, head
and loss are local. Inside a mixer it sees every token of its share of the heads (`exchange.py`):

    attention   q, k, v [t, .]  -> [T, share]   causal attention per document   -> [t, H E]
    Mamba-2     x, B, C, dt [t, .] -> [T, share]   convolution, scan, D x       -> [t, M], then the gate with local z

So the convolution and the scan run over whole documents, wherever the borders between ranks and between documents
fall. Nothing about the mathematics changes: the loss and every gradient equal those of one process, up to the order of
sums. z never moves, because the gated RMSNorm needs all channels of one token, which its own rank has.

The idea of exchanging heads for tokens is DeepSpeed-Ulysses' (arXiv 2309.14509), there for attention alone. Its bound
stands: c must divide the query heads and the SSM heads. Key/value heads and B/C groups are fewer; a rank gets those
that its heads use, and their gradients are summed over the ranks that used them.

A family says which heads its layers share and how (`ContextParallel`); `models/layers/context_attention.py` has the
attention, `models/falcon_h1/context.py` the mixer. Left out: overlap of the exchange with arithmetic, and ring
attention, which would lift the bound on c.

Parameters are replicated. A rank's gradient is its share; the sum over the ranks is the gradient (`gradients.py`),
given a loss that every rank divides by the token count of the whole batch.

Shapes as in `models/layers/exchange.py`; H query or SSM heads, E attention head width, M = d_ssm.
"""

from __future__ import annotations

import math

import torch.distributed as dist

from h1r.errors import UserError
from h1r.models import CausalLM
from h1r.models.config import ModelConfig
from h1r.models.layers.context_attention import ContextParallel
from h1r.models.registry import family_of, resolved


def degrees_allowed(config: ModelConfig) -> list[int]:
    """The context-parallel degrees at which every rank gets as many heads as any other, 1 included. 1 alone for a
    family that has no context parallelism."""
    shared: ContextParallel | None = resolved(family_of(config).context_parallel)
    common = 1 if shared is None else math.gcd(*shared.heads(config).values())
    return [degree for degree in range(1, common + 1) if common % degree == 0]


def check_degree(config: ModelConfig, degree: int) -> None:
    """Raises `UserError` when `degree` ranks cannot share the heads evenly."""
    allowed = degrees_allowed(config)
    if degree in allowed:
        return
    shared: ContextParallel | None = resolved(family_of(config).context_parallel)
    if shared is None:
        raise UserError(
            f"parallel.context = {degree} is refused: the family {config.model_type} has no context parallelism; set "
            "it to 1"
        )
    heads = [f"the {count} {name}" for name, count in shared.heads(config).items()]
    raise UserError(
        f"parallel.context = {degree} does not divide {'both ' if len(heads) == 2 else ''}{' and '.join(heads)} of "
        f"this model; set it to {_either(allowed)}"
    )


def parallelize(model: CausalLM, group: dist.ProcessGroup) -> CausalLM:
    """Makes the model's training forward context-parallel over `group`, in place, and returns it.

    From then on `model.model(ids[share(T, rank, degree)], layout)` takes this rank's tokens and the layout of the whole
    batch, and returns their hidden states; every rank of the group must run it, forward and backward, in step.
    Decoding with a cache stays what it was. Raises `UserError` for a degree that does not fit the heads.
    """
    check_degree(model.config, dist.get_world_size(group))
    shared: ContextParallel | None = resolved(family_of(model.config).context_parallel)
    if shared is not None:
        shared.take_over(model, group)
    return model


def _either(degrees: list[int]) -> str:
    *others, last = map(str, degrees)
    return f"{', '.join(others)} or {last}" if others else last
