"""Where a model lies when nobody says it."""

from __future__ import annotations

import torch

from h1r.errors import UserError


def default_device() -> torch.device:
    """CUDA where there is any (of several processes, the card of this one), else the CPU. CUDA_VISIBLE_DEVICES="" hides
    the cards."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def chosen_device(name: str | None) -> torch.device:
    """The device of that name, the default one for None. `UserError` for what is no device, or not in this machine."""
    if name is None:
        return default_device()
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device {name} is no device; give cpu, cuda or cuda:1") from None
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"--device {name} cannot be used on this machine ({reason}); leave it out, or give cpu"
        ) from None
    return device
