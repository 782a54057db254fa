"""What the calls into C share: pointers, strides, and how the scan's work is cut."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from h1r.kernels.layout import Layout


def check(*tensors: Tensor | None) -> None:
    for tensor in tensors:
        if tensor is not None and (tensor.dtype != torch.float32 or tensor.device.type != "cpu"):
            kind = str(tensor.dtype).removeprefix("torch.")
            raise TypeError(f"native kernels take fp32 on a CPU, not {kind} on {tensor.device}; use torch kernels")


def ptr(x: Tensor | None) -> int | None:
    return None if x is None else x.data_ptr()


def scan_tasks(layout: Layout, heads: int, groups: int, state: int) -> tuple[Tensor, int, int]:
    """How the scan is cut: where each document's chunks start [documents + 1], tokens of a chunk, blocks of heads in a
    group.

    Work inside a chunk grows with its length, and what is kept of it with the `state` of a head (P * S numbers) per
    chunk: small states want short chunks. With few documents there are so many blocks that each thread has two tasks.
    """
    chunk = 32 if state <= 2048 else 64
    counts = (layout.cu_seqlens.diff() + chunk - 1) // chunk
    first = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    threads = torch.get_num_threads()
    return first, chunk, min(heads // groups, -(-2 * threads // (len(counts) * groups))) if threads > 1 else 1


def strides(*numbers: int) -> Any:
    """Row strides as C takes them."""
    return (ctypes.c_int64 * len(numbers))(*numbers)


def need_memory(done: int) -> None:
    if not done:
        raise MemoryError("no memory was left for a kernel's scratch")
