"""The half of RL that trains, as its loop (`rl.py`) knows it: weights, optimiser and their checkpoints.

LocalPolicy   in this process, or in each of several that run the loop together (`World`)
RayPolicy     in actors of a Ray cluster, each of which has a `LocalPolicy` (`cluster/`)
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from h1r.config import RLSection
from h1r.models import CausalLM
from h1r.run.checkpoints import Checkpoints
from h1r.train.algorithms import make_loss
from h1r.train.checkpoint import publish, restore
from h1r.train.fleet import sums_of, write_weights
from h1r.train.idle import IdleSteps
from h1r.train.optim import make_optimizer
from h1r.train.parallel.gradients import Trained, computing_model, weights_of
from h1r.train.parallel.world import ALONE, World
from h1r.train.plan.utilisation import Utilisation
from h1r.train.policy_update import train_on
from h1r.train.rollouts import Group
from h1r.train.saver import Saver

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


class Policy(Protocol):
    """A model in training. positions: longest sequence that it takes. eos_token_ids: what ends one."""

    positions: int
    eos_token_ids: Sequence[int]

    def restore(self, step: int) -> dict[str, Any]:
        """Goes on from the checkpoint at `step`, to the same bits, and returns the state of the loop that `save` was
        given; 0: from the start, and nothing. Called once, before all else."""
        ...

    def step(self, groups: Sequence[Group], step: int) -> dict[str, float]:
        """Trains on one batch of groups (`train_on`); the means of what was measured."""
        ...

    def count_idle(self, why: str | None) -> None:
        """See `IdleSteps.add`."""
        ...

    def save(self, step: int, state: dict[str, Any], arrays: Mapping[str, np.ndarray], last: bool) -> int:
        """Writes the checkpoint at `step`, whole or not at all, with the state of the loop (JSON) and its arrays, or
        begins to, unless it is the last. Returns the step of the newest one that is whole; 0: none of this attempt."""
        ...

    def publish(self, steps: int) -> None:
        """Writes the model that `steps` steps have made. `UserError` where there is nothing to publish
        (`IdleSteps.check_end`)."""
        ...


class LocalPolicy:
    """A policy in this process: its share of one that the processes of `world` train together, in step.

    Arguments as of `train_rl`. Raises `UserError` for an algorithm that nobody registered.
    """

    def __init__(
        self,
        model: CausalLM,
        section: RLSection,
        tokenizer: PreTrainedTokenizerFast,
        directory: Path,
        reference: Trained | None = None,
        wrapped: Trained | None = None,
        world: World = ALONE,
    ) -> None:
        make_loss(section)
        if section.kl_coef and reference is None:
            raise ValueError(f"kl_coef = {section.kl_coef} needs a reference model")
        self.positions = model.config.max_position_embeddings
        self.eos_token_ids: Sequence[int] = list(model.config.eos_token_ids)
        self.trained: Trained = model if wrapped is None else wrapped
        self.world = world
        self._section, self._tokenizer, self._directory, self._reference = section, tokenizer, directory, reference
        self._computing = computing_model(self.trained).eval()
        self._optimizer = make_optimizer(self.trained, section.optimizer, "rl")
        self._checkpoints = Checkpoints(directory, section.keep_checkpoints)
        self._saver = Saver(self._checkpoints, tokenizer, world)
        self._utilisation = Utilisation(self._computing, world.size)

    def restore(self, step: int) -> dict[str, Any]:
        """See `Policy.restore`."""
        state = restore(self._checkpoints.at(step), self.trained, self._optimizer) if step else {}
        counts = state.get("idle", (0, 0))
        self._idle = IdleSteps("rl", self._section.max_idle_steps, weights_of(self.trained), counts)
        return state

    def step(self, groups: Sequence[Group], step: int) -> dict[str, float]:
        """See `Policy.step`."""
        self._computing.train()
        began = time.monotonic()
        try:
            values = train_on(self.trained, self._optimizer, groups, self._section, step, self.world, self._reference)
        finally:
            self._computing.eval()  # an engine may sample from it
        lengths = [len(group.prompt_ids) + len(trace.token_ids) for group in groups for trace in group.traces]
        return values | self._utilisation.of(lengths, time.monotonic() - began, self._section.updates_per_batch)

    def count_idle(self, why: str | None) -> None:
        """See `Policy.count_idle`."""
        self._idle.add(why)

    def save(self, step: int, state: dict[str, Any], arrays: Mapping[str, np.ndarray], last: bool) -> int:
        """See `Policy.save`."""
        state = {**state, "idle": self._idle.counts()}
        return self._saver.save(step, self.trained, self._optimizer, state, arrays, last)

    def publish(self, steps: int) -> None:
        """See `Policy.publish`."""
        with self.world.agreed():
            self._idle.check_end(steps, weights_of(self.trained))
        publish(self._directory, self.trained, self._tokenizer, self.world)

    def send_weights(self, place: Path) -> dict[str, int]:
        """Writes the weights for engines (`write_weights`), and returns the checksum of each tensor."""
        write_weights(self.trained, self._section, place, self._tokenizer, self.world)
        return sums_of(self.trained, self._section, self.world)
