"""Checkpoints of a stage, written at once or beside the training (`parallel.async_checkpoint`).

    at once   the loop stands still until the checkpoint is whole
    beside    the loop stands still for a copy of what this process has, in the memory of the processor; a thread writes
              it, with an exchange of its own with those of the other processes (`World.beside`)

Either way the files are the same (`checkpoint.py`) and appear together, so that a process that is killed in the middle
leaves the checkpoint before. One is written at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from h1r.run.checkpoints import Checkpoints
from h1r.train.checkpoint import Tensors, save_checkpoint
from h1r.train.lora import Adapted
from h1r.train.parallel.gradients import Trained
from h1r.train.parallel.world import ALONE, World

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


class Saver:
    """Of the checkpoints of one stage. Every process of `world` has one, and calls each method."""

    def __init__(self, checkpoints: Checkpoints, tokenizer: PreTrainedTokenizerFast, world: World = ALONE) -> None:
        self._checkpoints, self._tokenizer, self._world = checkpoints, tokenizer, world
        self._threads = ThreadPoolExecutor(1, "checkpoint")  # an interpreter that ends waits for it
        self._writing: Future[None] | None = None
        self._begun = self._whole = 0

    def save(
        self,
        step: int,
        trained: Trained,
        optimizer: torch.optim.Optimizer,
        state: dict[str, Any],
        arrays: Mapping[str, np.ndarray] | None = None,
        last: bool = False,
    ) -> int:
        """Writes the checkpoint at `step`, or begins to. last: nothing is trained after it, so that it is waited for.
        Returns the step of the newest one that is whole; 0 where none of this process is. Raises `UserError` as
        `save_checkpoint` does, on all processes, and for the one before."""
        self.settle()
        tensors = Tensors.of(trained, optimizer, self._world)
        beside = self._world.beside
        if beside is None or last or isinstance(trained, Adapted):
            save_checkpoint(self._checkpoints, step, tensors, self._tokenizer, state, self._world, arrays)
            self._begun = self._whole = step
        else:
            if self._world.main or beside.mesh is not None:
                copied = tensors.copied(beside), self._tokenizer, deepcopy(state), beside, deepcopy(arrays)
                self._writing = self._threads.submit(save_checkpoint, self._checkpoints, step, *copied)
            self._begun = step
        return self._whole

    def settle(self) -> None:
        """Waits until what was begun is whole. `UserError` where it could not be written."""
        if self._begun == self._whole:
            return
        writing, self._writing = self._writing, None
        begun, self._begun = self._begun, self._whole  # one that fails was not begun: nothing waits for it again
        with self._world.agreed():
            if writing is not None:
                writing.result()
        self._begun = self._whole = begun
