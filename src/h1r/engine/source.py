"""Where an engine's weights come from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open

from h1r.errors import UserError
from h1r.models import CausalLM


@dataclass(frozen=True)
class Source:
    """given: a model in training, or a function that loads one. directory: a checkpoint directory or hub id of exactly
    these weights, where there is one. in_training: its user trains on what is sampled, whether the model is `given` in
    training or its weights come by `Engine.load_weights`."""

    given: CausalLM | Callable[[], CausalLM]
    directory: str | Path | None = None
    in_training: bool = False

    @property
    def live(self) -> CausalLM | None:
        """The model in training, whose changes every later request must see; None where nothing trains."""
        return self.given if isinstance(self.given, CausalLM) else None

    def model(self) -> CausalLM:
        """The model in this process; loaded where it is not there yet."""
        return self.given if isinstance(self.given, CausalLM) else self.given()


def dtype_of(directory: Path) -> torch.dtype:
    """What the matrices of a checkpoint are stored in; the vectors of the recurrence may be wider."""
    for file in sorted(directory.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - no mapping
                if len(tensors.get_slice(name).get_shape()) > 1:
                    return tensors.get_tensor(name).dtype
    raise UserError(f"{directory} holds no model.safetensors; only safetensors weights load here")
