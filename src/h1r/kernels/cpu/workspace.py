"""Memory that the layers of one backward pass share, one after the other.

A fresh tensor of tens of megabytes is fresh pages from the kernel, given back when it dies: each layer would pay for
them again, microseconds a page on a virtual machine. Here the first layer of a pass pays, and the pass's end frees.
"""

from __future__ import annotations

import threading

import torch
from torch import Tensor


class BackwardMemory(threading.local):
    """Buffers by name, of the backward pass that this thread is in."""

    def __init__(self) -> None:
        self.held: dict[str, Tensor] = {}

    def like(self, x: Tensor, name: str) -> Tensor:
        """A dense fp32 tensor of x's shape. It is whoever asks for `name` next that overwrites it.

        To be called inside a backward pass only; raises `RuntimeError` elsewhere.
        """
        # Each time: a pass that an error ended has left its buffers, and the next one must free them.
        torch.autograd.Variable._execution_engine.queue_callback(self.held.clear)
        buffer = self.held.get(name)
        if buffer is None or buffer.numel() < x.numel():
            buffer = self.held[name] = x.new_empty(x.numel())
        return buffer[: x.numel()].view(x.shape)
