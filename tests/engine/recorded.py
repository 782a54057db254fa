"""A CUDA graph's behaviour on any machine: a function's operations, recorded once and repeated on the same tensors.

As in a graph, whatever the host decided is frozen: numbers, shapes, which operations run. What a capture on CUDA would
refuse, or the host would have to wait for, is refused here too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from h1r.engine.native.graphs import GraphRunner

WAITS = {
    "_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "nonzero_numpy", "masked_select", "bincount",
    "unique_dim", "_unique2", "unique_consecutive", "lift_fresh",
}  # fmt: skip
"""Operations whose result or its shape the host must read, and `torch.tensor`, which copies from pageable memory."""


class HostWaitError(AssertionError):
    """The host would have to wait for the device here."""


class Recording(TorchDispatchMode):
    """Keeps every operation that runs inside it; `repeat` runs them again, into the tensors of the first time."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...], dict[str, Any], list[Tensor]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.split("::")[1]
        masks = [t for t in tree_leaves(args[1:2]) if isinstance(t, Tensor) and t.dtype in (torch.bool, torch.uint8)]
        if name in WAITS or (name in ("index", "index_put", "index_put_", "_index_put_impl_") and masks):
            raise HostWaitError(name)
        if name == "repeat_interleave" and kwargs.get("output_size") is None:
            raise HostWaitError(name)
        with self:  # under inference mode composite operations arrive whole and hide what they are made of
            parts = func.decompose(*args, **kwargs)
        if parts is not NotImplemented:
            return parts
        out = func(*args, **kwargs)
        self.calls.append((func, args, kwargs, [t for t in tree_leaves(out) if isinstance(t, Tensor)]))
        return out

    def repeat(self) -> None:
        for func, args, kwargs, before in self.calls:
            now = [t for t in tree_leaves(func(*args, **kwargs)) if isinstance(t, Tensor)]
            for old, new in zip(before, now, strict=True):
                if old.data_ptr() != new.data_ptr():
                    old.copy_(new)


class RecordedRunner(GraphRunner):
    """`GraphRunner` with recordings for graphs.

    shapes: what was recorded, as (kind, rows, length), in order; replays: how often one ran.
    """

    def __init__(self, model: Any, positions: int = 8) -> None:
        super().__init__(model, _Recorder(self), positions)
        self.shapes: list[tuple[str | int, ...]] = []
        self.replays = 0

    def _run(self, shape: tuple[str | int, ...], n: int, step: Callable[[], None]) -> None:
        self._shape = shape
        super()._run(shape, n, step)

    def record(self, step: Callable[[], None]) -> Callable[[], object]:
        buffers = list(self._buffers())
        before = [t.clone() for t in buffers]
        recording = Recording()
        with recording:
            step()
        for tensor, value in zip(buffers, before, strict=True):
            tensor.copy_(value)  # a capture runs nothing
        self.shapes.append(self._shape)

        def replay() -> None:
            self.replays += 1
            recording.repeat()

        return replay

    def _buffers(self) -> Iterable[Tensor]:
        cache, slots = self.cache, self.slots
        yield from (*cache.keys, *cache.values, *cache.conv, *cache.ssm, cache.lengths, *slots.state.values())
        yield from (slots.logits, slots.tokens, slots.logprobs, slots.sampling_logprobs, slots.confidences)
        yield slots.reason


class _Recorder:
    """What `GraphRunner` takes for a capture; recordings hold no memory of a device."""

    bytes = 0

    def __init__(self, runner: RecordedRunner) -> None:
        self._runner = runner

    def __call__(self, step: Callable[[], None]) -> Callable[[], object]:
        return self._runner.record(step)
