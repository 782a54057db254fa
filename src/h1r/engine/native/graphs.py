"""Steps of the native engine as CUDA graphs: the kernels of a step are recorded once and launched together afterwards.

A graph repeats what it was recorded with: the same kernels, shapes and addresses. So a step works on the first R rows
of the cache and the slots, R a power of two or all slots, and its attention goes through a rounded number of positions;
how many rows run is a number on the device. Rows from there on are computed too, from a length of nothing, and what
they leave behind is overwritten when a trace starts there. The host waits once a step, to learn whether a trace ended.

Memory. A graph keeps the temporaries of its step in a pool of its own beside PyTorch's, which all graphs share; and the
driver keeps the parameters of its kernels. `memory_bytes.py` counts the first by formula, `graph_bytes` estimates the
second; `CudaCapture` measures both, and the engine counts what was measured from then on.

Left out: graphs do not outlive a call of the engine (its cache and slots are new each time), and prefill has none.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from h1r.engine.native.c_decoder import obstacle
from h1r.engine.native.runner import TorchRunner
from h1r.engine.native.slots import Slots
from h1r.engine.protocol import SamplingParams
from h1r.models import CausalLM
from h1r.models.cache import KVCache
from h1r.models.config import ModelConfig

MOST_GRAPHS = 16
"""Kept at once; the one that was used longest ago goes first. Lengths grow, so what goes is seldom wanted again."""
_LAYER_BYTES = 1 << 19
"""An estimate, since no card has measured it here: a whole step of a hybrid is told to take about 24 MiB in vLLM
(vllm-project/vllm issue 50780), which is half a MiB for each of some fifty layers."""
_POSITIONS = 256


class Capture(Protocol):
    """Records the work of a function, without doing it, and returns what repeats it."""

    bytes: int
    """Memory that everything recorded so far holds."""

    def __call__(self, step: Callable[[], None]) -> Callable[[], object]: ...


class GraphRunner(TorchRunner):
    """`TorchRunner` on CUDA. Parameters are read where they lie, so new values in place need no new graph.

    The first step of a shape runs as it is, which compiles its kernels and sets up their libraries; the second is
    recorded. positions: the least step in which attention's length grows.
    """

    def __init__(self, model: CausalLM, capture: Capture | None = None, positions: int = _POSITIONS) -> None:
        super().__init__(model)
        self._given, self._positions = capture, positions
        self.recorded, self.seconds = 0, 0.0
        """Graphs recorded since `begin`, and what that took."""

    @property
    def how(self) -> str:
        return f"in PyTorch, recorded as CUDA graphs, since {obstacle(self.model)}"

    @property
    def graph_bytes(self) -> int:
        """Measured memory of the graphs since `begin`."""
        return self._capture.bytes

    def begin(self, cache: KVCache, slots: Slots, params: Sequence[SamplingParams]) -> None:
        super().begin(cache, slots, params)
        self._capture = self._given or CudaCapture(slots.reason.device)
        self._running = torch.zeros((), dtype=torch.long, device=slots.reason.device)
        self.recorded, self.seconds = 0, 0.0
        self._forget()

    def widen(self, params: Sequence[SamplingParams]) -> None:
        before = (self._filtered, self._may_stop_early, self._scaled)
        super().widen(params)
        if before != (self._filtered, self._may_stop_early, self._scaled):
            self._forget()  # they were recorded without what is needed now

    def end(self) -> None:
        super().end()
        self._forget()

    def refresh(self) -> None:
        if self._addresses != self._present_addresses():
            self._forget()

    def sample(self, n: int) -> bool:
        rows = rows_bucket(n, len(self.slots.reason))
        self._run(("sample", rows), n, partial(self._sample_running, rows))
        return bool(self.slots.reason[:n].any())

    def decode(self, n: int, longest: int) -> None:
        rows = rows_bucket(n, len(self.slots.reason))
        length = length_bucket(longest, self.cache.max_length, self._positions)
        self._run(("decode", rows, length), n, partial(self._decode_running, rows, length))

    def _run(self, shape: tuple[str | int, ...], n: int, step: Callable[[], None]) -> None:
        self._running.fill_(n)
        if shape not in self._warm:
            step()
            self._warm.add(shape)
            return
        if shape not in self._graphs:
            if len(self._graphs) == MOST_GRAPHS:
                self._graphs.popitem(last=False)
            start = time.perf_counter()
            self._graphs[shape] = self._capture(step)
            self.recorded, self.seconds = self.recorded + 1, self.seconds + time.perf_counter() - start
        self._graphs.move_to_end(shape)
        self._graphs[shape]()

    def _sample_running(self, rows: int) -> None:
        # A trace that ended may have filled its row of tokens: the next place would lie outside.
        self.slots.state["count"][:rows].mul_(self._is_running(rows))
        self._sample_rows(rows)

    def _decode_running(self, rows: int, length: int) -> None:
        self.cache.lengths[:rows].mul_(self._is_running(rows))
        self._decode_rows(rows, length)

    def _is_running(self, rows: int) -> Tensor:
        return torch.arange(rows, device=self._running.device) < self._running

    def _present_addresses(self) -> list[int]:
        return [t.data_ptr() for t in (*self.model.parameters(), *self.model.buffers())]

    def _forget(self) -> None:
        self._graphs: OrderedDict[tuple[str | int, ...], Callable[[], object]] = OrderedDict()
        self._warm: set[tuple[str | int, ...]] = set()
        self._addresses = self._present_addresses()


class CudaCapture:
    """Graphs that share one pool of memory. They may, since none leaves a tensor there for another to read."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._pool = device, torch.cuda.graph_pool_handle()
        self.bytes = 0

    def __call__(self, step: Callable[[], None]) -> Callable[[], object]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self._device):
            torch.cuda.empty_cache()  # as a capture does first: what it gives back is none of the graph's
            free = torch.cuda.mem_get_info()[0]
            # Another thread of a trainer may allocate meanwhile; only this one's calls are held to the rules.
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                step()
            self.bytes += max(0, free - torch.cuda.mem_get_info()[0])
        return graph.replay


def graph_bytes(config: ModelConfig) -> int:
    """What the driver may keep for `MOST_GRAPHS` graphs: an estimate."""
    return MOST_GRAPHS * _LAYER_BYTES * config.num_hidden_layers


def rows_bucket(n: int, slots: int) -> int:
    """The next power of two, or all slots: at most twice the rows that run."""
    return min(slots, 1 << (n - 1).bit_length())


def length_bucket(length: int, most: int, step: int) -> int:
    """`length` rounded up to a multiple of `step`, and where it is longer, of a quarter of the power of two below it:
    four buckets to a doubling, and no more than a quarter in vain."""
    step = max(step, (1 << (length.bit_length() - 1)) // 4)
    return min(most, -(-length // step) * step)
