"""What a trainer needs to go on: a `falcon_h1` model directory, and beside it the optimiser and the trainer's state.

checkpoints/step_00000100/
  model/         loads in transformers and vLLM as it is
  optimizer.pt
  state.json     step, data position, caches: everything that is not a tensor
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from h1r.model import HybridForCausalLM, save
from h1r.model.checkpoint import read_weights
from h1r.run import Checkpoints, read_json, write_json


def save_checkpoint(
    checkpoints: Checkpoints,
    step: int,
    model: HybridForCausalLM,
    optimizer: torch.optim.Optimizer,
    tokenizer: PreTrainedTokenizerFast,
    state: dict[str, Any],
) -> None:
    """Writes one checkpoint, whole or not at all. `state` must be JSON."""

    def write(directory: Path) -> None:
        save(model, directory / "model", tokenizer)
        torch.save(optimizer.state_dict(), directory / "optimizer.pt")
        write_json(directory / "state.json", state)

    checkpoints.save(step, write)


def restore(directory: Path, model: HybridForCausalLM, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Loads a checkpoint into model and optimiser, bit for bit, and returns the trainer's state."""
    model.load_state_dict(read_weights(directory / "model"), strict=not model.config.tie_word_embeddings)
    optimizer.load_state_dict(torch.load(directory / "optimizer.pt", weights_only=True))
    state: dict[str, Any] = read_json(directory / "state.json")
    return state


def publish(stage: Path, model: HybridForCausalLM, tokenizer: PreTrainedTokenizerFast) -> Path:
    """Writes the stage's final model to `STAGE/model`, whole or not at all."""
    final, partial = stage / "model", stage / ".model.partial"
    shutil.rmtree(partial, ignore_errors=True)
    save(model, partial, tokenizer)
    shutil.rmtree(final, ignore_errors=True)
    os.replace(partial, final)
    return final
