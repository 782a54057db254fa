"""Where documents stand in a batch of tokens.

The model computes on flat tokens [T]: a batch, padded or packed, is a sequence of documents laid end to end, and
nothing may flow from one document into the next. `Layout` holds that once per batch, so that every layer shares it:

    cu_seqlens  [D+1]  where each document starts; the last entry is T
    seq_idx     [T]    document number of each token
    positions   [T]    position of each token inside its document (rotary position)
    remaining   [T]    tokens that follow it inside its document
    buckets            documents of similar length as rectangles, for attention (see `Bucket`)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Bucket:
    """Documents of similar length as one rectangle.

    `gather` [n, L] indexes flat tokens (a short document repeats its last token on the right, where causality hides it
    from every real query); `scatter` [m] are the flat tokens this bucket owns and `source` [m] where each stands in the
    flattened rectangle.
    """

    gather: Tensor
    scatter: Tensor
    source: Tensor


@dataclass(frozen=True)
class Layout:
    cu_seqlens: Tensor
    seq_idx: Tensor
    positions: Tensor
    remaining: Tensor
    buckets: tuple[Bucket, ...]
    rectangle: tuple[int, int] | None
    """(documents, length) when all documents have one length, so that flat tokens are already a rectangle."""
    longest: int
    """Tokens of the longest document."""

    @property
    def num_tokens(self) -> int:
        return self.seq_idx.shape[0]

    @classmethod
    def of(cls, lengths: list[int], device: torch.device | str = "cpu") -> Layout:
        """The layout of documents with these lengths (each at least 1), in this order.

        Raises `ValueError` for an empty list or a length below 1.
        """
        if not lengths or min(lengths) < 1:
            raise ValueError("every document needs at least one token")
        lengths_D = torch.tensor(lengths)
        cu_seqlens = torch.zeros(len(lengths) + 1, dtype=torch.long)
        cu_seqlens[1:] = lengths_D.cumsum(0)
        seq_idx = torch.repeat_interleave(torch.arange(len(lengths)), lengths_D)
        positions = torch.arange(int(cu_seqlens[-1])) - cu_seqlens[seq_idx]
        remaining = lengths_D[seq_idx] - 1 - positions
        rectangle = (len(lengths), lengths[0]) if min(lengths) == max(lengths) else None
        buckets = () if rectangle else tuple(_buckets(lengths_D, cu_seqlens))
        return cls(
            cu_seqlens.to(device),
            seq_idx.to(device),
            positions.to(device),
            remaining.to(device),
            tuple(Bucket(b.gather.to(device), b.scatter.to(device), b.source.to(device)) for b in buckets),
            rectangle,
            max(lengths),
        )


def _buckets(lengths_D: Tensor, cu_seqlens: Tensor) -> list[Bucket]:
    """Documents sorted by length and cut where a rectangle would waste more than a quarter of its longest row."""
    order = torch.argsort(lengths_D, stable=True, descending=True)
    groups: list[list[int]] = []
    for document in order.tolist():
        if groups and lengths_D[document] >= 0.75 * lengths_D[groups[-1][0]]:
            groups[-1].append(document)
        else:
            groups.append([document])
    buckets = []
    for group in groups:
        documents = torch.tensor(group)
        n_n, longest = lengths_D[documents], int(lengths_D[group[0]])
        column_L = torch.arange(longest)
        start_n1 = cu_seqlens[documents][:, None]
        gather = start_n1 + torch.minimum(column_L[None, :], n_n[:, None] - 1)
        real = column_L[None, :] < n_n[:, None]
        buckets.append(Bucket(gather, gather[real], real.flatten().nonzero().squeeze(-1)))
    return buckets
