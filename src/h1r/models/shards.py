"""Weights of which no process holds the whole: a process's rows of a tensor, and safetensors written file by file.

FSDP2 cuts the first dimension of n rows into w chunks of ceil(n / w) rows; the last ones may be shorter, or empty.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor

_UNITS = {"GB": 10**9, "MB": 10**6, "KB": 10**3}


def own_rows(tensor: Tensor) -> tuple[Tensor, slice | None]:
    """What this process holds of `tensor`, and which rows they are: (the tensor itself, None) where it is whole.

    Raises `ValueError` for a DTensor that is not cut by rows over the last dimension of its mesh, and the same on all
    others.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return tensor, None
    from torch.distributed.tensor import (  # takes a while to import, and one process needs none of it
        DTensor,
        Replicate,
        Shard,
    )

    if not isinstance(tensor, DTensor):
        return tensor, None
    *copies, cut = tensor.placements
    if cut != Shard(0) or any(one != Replicate() for one in copies):
        raise ValueError(f"only tensors cut by rows are read in shards, not {tensor.placements}")
    rows = tensor.shape[0]
    last, mesh = len(copies), tensor.device_mesh
    chunk = -(-rows // mesh.size(last))
    start = min(rows, mesh.get_local_rank(last) * chunk)
    return tensor.to_local(), slice(start, min(rows, start + chunk))


def whole(tensor: Tensor) -> Tensor:
    """The tensor itself; or, of a DTensor, all of it, which every process must ask for in step."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def gathered(weights: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> Iterator[tuple[str, Tensor]]:
    """The whole tensors, one after the other, on the CPU. All processes must run through it, in step. dtype: what they
    are cast to before they travel; None: as they are."""
    for name, stored in weights.items():
        tensor = stored if dtype is None else stored.to(dtype)
        yield name, whole(tensor).cpu().contiguous()


def write_streamed(
    sizes: Mapping[str, int], weights: Iterator[tuple[str, Tensor]], directory: Path, max_shard_size: int | str
) -> None:
    """Writes `weights`, whose names and sizes in bytes come as in `sizes`, as one safetensors file or as several with
    an index, under the names that transformers gives them. A tensor above `max_shard_size` has a file of its own."""
    files = _files(sizes, max_shard_size)
    placed: dict[str, str] = {}
    for number, names in enumerate(files, 1):
        file = "model.safetensors" if len(files) == 1 else f"model-{number:05d}-of-{len(files):05d}.safetensors"
        tensors: dict[str, Tensor] = {}
        for name, (found, tensor) in zip(names, weights, strict=False):
            if found != name:
                raise ValueError(f"weights come in another order than the state dict: {found} in the place of {name}")
            tensors[name], placed[name] = tensor, file
        save_file(tensors, directory / file, metadata={"format": "pt"})
    if len(files) > 1:
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": placed}
        (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")


def _files(sizes: Mapping[str, int], limit: int | str) -> list[list[str]]:
    most = limit if isinstance(limit, int) else int(float(limit[:-2]) * _UNITS[limit[-2:].upper()])
    files: list[list[str]] = [[]]
    room = most
    for name, size in sizes.items():
        if files[-1] and size > room:
            files.append([])
            room = most
        files[-1].append(name)
        room -= size
    return files
