"""A number for the bits of a tensor: a bit, an order or a place that differs shows, and those of parts add up."""

from __future__ import annotations

import torch
from torch import Tensor

BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""The type that the bits of an element are read as, by its bytes."""
_ODD = -7046029254386353131  # 2^64 over the golden ratio, as a signed number: Knuth's multiplier of hashes
_PART = 1 << 22


def checksum(tensor: Tensor, first: int = 0) -> int:
    """sum_i bits_i * (2 (first + i) odd + 1) modulo 2^64, signed: elements are numbered from `first` on, so the sums of
    a tensor's parts add up to that of the tensor."""
    flat = tensor.detach().contiguous().view(-1)
    bits = flat.view(BITS[flat.element_size()])
    total = 0
    for start in range(0, len(bits), _PART):
        part = bits[start : start + _PART].long()
        place = torch.arange(first + start, first + start + len(part), device=part.device)
        total += int((part * (2 * place * _ODD + 1)).sum())
    return (total + (1 << 63)) % (1 << 64) - (1 << 63)
