"""Documents shared out to processes so that none waits long for another.

    cost(n) = n + n^2 L H E / P      a document of n tokens, in tokens of a short one

for a model of P parameters, L layers, H query heads of width E: 2 P operations a token for the products, and 2 n L H E
on average for causal attention. Shares are made by the longest-first rule: each document, costliest first, goes to the
share that has the least. Of the paper's batch (2,048 rollouts, log-normal lengths up to 48K) the costliest of 256
shares has 1.01 times the mean; dealt in turn, 1.9 times.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from h1r.models import CausalLM


def document_costs(model: CausalLM, lengths: Sequence[int]) -> list[float]:
    """What documents of so many tokens cost a forward and backward pass, in tokens of a short one."""
    c = model.config
    width = c.num_hidden_layers * c.num_attention_heads * c.head_dim
    share = width / sum(p.numel() for p in model.parameters())
    return [tokens + tokens * tokens * share for tokens in lengths]


def spread(costs: Sequence[float], shares: int, limit: int | None = None) -> list[list[int]]:
    """Which items each share has, in their order. limit: items that a share may have; None: any number. Raises
    `ValueError` where that is too few."""
    if limit is not None and limit * shares < len(costs):
        raise ValueError(f"{shares} shares of at most {limit} do not hold {len(costs)} items")
    found: list[list[int]] = [[] for _ in range(shares)]
    least = [(0.0, share) for share in range(shares)]
    for item in sorted(range(len(costs)), key=lambda item: -costs[item]):
        cost, share = heapq.heappop(least)
        found[share].append(item)
        if limit is None or len(found[share]) < limit:
            heapq.heappush(least, (cost + costs[item], share))
    return [sorted(items) for items in found]
