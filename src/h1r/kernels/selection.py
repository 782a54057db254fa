"""Which implementation of the operators runs: `select(name, device, dtype)` returns a `Kernels`.

| name | what | where |
|---|---|---|
| `reference` | the definitions, written to be read: one token at a time | any device, any float type; slow |
| `torch` | chunked scan and shifted convolution in plain PyTorch | any device, any float type |
| `native` | C, compiled in the wheel or on first use | CPU, fp32 |
| `triton` | Triton kernels | CUDA |

`auto` takes `native` for fp32 on a CPU where the wheel brought a library or a compiler is found, `triton` on CUDA with
Triton, and `torch` otherwise; what it took and why is in `Kernels.reason`, and every command prints it. A name that
cannot run here raises; an operator called with tensors that it does not take raises too. Nothing falls back in silence.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from typing import TYPE_CHECKING

from h1r.common import thread_waits
from h1r.errors import UserError
from h1r.kernels.contract import Kernels

if TYPE_CHECKING:
    import torch

NAMES = ("auto", "reference", "torch", "native", "triton")


def select(name: str, device: str | torch.device = "cpu", dtype: torch.dtype | None = None) -> Kernels:
    """The kernels `name` for tensors of this device and type (fp32 when None).

    Raises `UserError` for an unknown name and for kernels that cannot run here, with the reason.
    """
    import torch

    place, kind = torch.device(device).type, dtype or torch.float32
    if place == "cpu":
        thread_waits.watch()
    if name == "auto":
        return _automatic(place, kind)
    if name not in NAMES:
        raise UserError(f"model.kernels = {name!r} is unknown; choose one of {', '.join(NAMES)}")
    if why := _obstacle(name, place, kind):
        raise UserError(f"model.kernels = {name!r} cannot be used: {why}; choose torch, or auto")
    return _load(name)


def _automatic(place: str, kind: torch.dtype) -> Kernels:
    wanted = {"cpu": "native", "cuda": "triton"}.get(place)
    if wanted is None:
        return dataclasses.replace(_load("torch"), reason=f"the only ones for {place}")
    if why := _obstacle(wanted, place, kind):
        return dataclasses.replace(_load("torch"), reason=f"{wanted} cannot be used: {why}")
    found = _load(wanted)
    reason = f"the fastest for {str(kind).removeprefix('torch.')} on {place}"
    return dataclasses.replace(found, reason=reason + found.reason.removeprefix("asked for"))


def _obstacle(name: str, place: str, kind: torch.dtype) -> str | None:
    """Why these kernels cannot run here; None when they can."""
    import torch

    if name == "native":
        if place != "cpu" or kind != torch.float32:
            return f"they take fp32 on a CPU, not {str(kind).removeprefix('torch.')} on {place}"
        from h1r.kernels.cpu import obstacle

        return obstacle()
    if name == "triton":
        if place != "cuda":
            return f"they run on CUDA, not on {place}"
        if importlib.util.find_spec("triton") is None:
            return "triton is not installed"
    return None


def _load(name: str) -> Kernels:
    if name == "reference":
        from h1r.kernels.reference import REFERENCE

        return REFERENCE
    if name == "native":
        from h1r.kernels.cpu import NATIVE, origin, tiles

        return dataclasses.replace(NATIVE, reason=f"asked for; {origin()}; {tiles()[1]}")
    if name == "triton":
        from h1r.kernels.triton import TRITON

        return TRITON
    from h1r.kernels.torch.operators import TORCH

    return TORCH
