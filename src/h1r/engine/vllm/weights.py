"""New weights for a running vLLM, as safetensors files that its workers read (`FileWeightTransfer`). Imports no vLLM.

What does not fit is refused before anything changes: every tensor of the model must be there, by name and shape.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from h1r.errors import UserError
from h1r.models.checkpoint import read_config, stored_state
from h1r.models.config import ModelConfig
from h1r.models.registry import family_of

BACKEND = "h1r_files"
"""Name of our backend of vLLM's weight-transfer interface."""


@contextmanager
def weight_files(
    config: ModelConfig, weights: Mapping[str, Tensor] | str | Path, directory: str | None
) -> Iterator[list[str]]:
    """Absolute paths of safetensors files with these weights, there until the end of the `with` block.

    config: of the model that takes them. weights: its state dict, or a checkpoint directory of the same configuration.
    directory: where a state dict is written. Raises `UserError` for a configuration, a name or a shape that differs.
    """
    if isinstance(weights, Mapping):
        with ExitStack() as stack:
            try:
                own = stack.enter_context(tempfile.TemporaryDirectory(prefix="h1r-weights-", dir=directory))
                file = str(Path(own) / "model.safetensors")
                # The head of a tied model shares the embedding's storage, which safetensors does not store twice.
                tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
                save_file(
                    {name: t.detach().cpu().contiguous() for name, t in weights.items() if name not in tied}, file
                )
            except (OSError, SafetensorError) as error:
                raise UserError(
                    f"the trainer's weights cannot be written for the engine in {directory or tempfile.gettempdir()} "
                    f"({error}); make room there, or set engine.weights_directory"
                ) from None
            _check_tensors(config, "the given weights", [file])
            yield [file]
        return
    source = Path(weights).resolve()
    if (found := read_config(source)) != config:
        name = next(n for n in vars(found) if getattr(found, n) != getattr(config, n))
        raise UserError(
            f"{source}: {name} = {getattr(found, name)!r}, the running engine has {getattr(config, name)!r}; "
            "start a new engine for another configuration"
        )
    files = sorted(str(file) for file in source.glob("*.safetensors"))
    _check_tensors(config, str(source), files)
    yield files


def agreed(received: Sequence[Mapping[str, int]]) -> dict[str, int]:
    """What all workers say of the tensors that they took; those that one has otherwise are missing."""
    first, *others = received
    return {name: said for name, said in first.items() if all(one.get(name) == said for one in others)}


def memory_directory() -> str | None:
    """Where temporary files cost memory and no disk, if the system has such a place."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def _shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors of a checkpoint."""
    with torch.device("meta"):
        model = family_of(config).model_class(config)
    return {name: tuple(t.shape) for name, t in stored_state(model).items()}


def _check_tensors(config: ModelConfig, source: str, files: Sequence[str]) -> None:
    expected, found = _shapes(config), dict[str, tuple[int, ...]]()
    for file in files:
        with safe_open(file, framework="pt") as tensors:
            found |= {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    if missing := sorted(expected.keys() - found.keys()):
        raise UserError(f"{source}: tensor {missing[0]} is missing ({len(missing)} in all); give all of them")
    if extra := sorted(found.keys() - expected.keys()):
        raise UserError(f"{source}: tensor {extra[0]} has no place in this model ({len(extra)} in all); leave it out")
    for name, shape in expected.items():
        if found[name] != shape:
            raise UserError(f"{source}: tensor {name} has shape {list(found[name])}, the engine has {list(shape)}")
