"""What a computation holds in temporaries at once at most, on tensors without values: the same on every machine."""

from __future__ import annotations

import weakref
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Peak(TorchDispatchMode):
    """`most`: the largest sum of bytes of storages that were made inside it and lived at the same time."""

    def __init__(self) -> None:
        super().__init__()
        self.most = 0
        self._alive: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        with self:  # under inference mode composite operations arrive whole and hide what they are made of
            parts = func.decompose(*args, **kwargs)
        if parts is not NotImplemented:
            return parts
        given = {_key(t) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        out = func(*args, **kwargs)
        for t in tree_leaves(out):
            if isinstance(t, Tensor) and (key := _key(t)) not in given and key not in self._alive:
                storage = t.untyped_storage()
                self._alive[key] = storage.nbytes()
                weakref.finalize(storage, self._alive.pop, key)
                self.most = max(self.most, sum(self._alive.values()))
        return out


def _key(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
