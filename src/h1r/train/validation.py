"""The loss on documents that are kept out of training, and the model that had the least of it.

    documents --kept_out--> those that are trained on
                      \\---> `sft.validation.documents` others --every `every` steps--> validation_loss

Documents are drawn by the recipe's seed. Another trace of a problem that is held out may be trained on.
"""

from __future__ import annotations

import math
import os
import random
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import torch

from h1r.common.files import replace_directory
from h1r.config import ValidationSection
from h1r.errors import UserError
from h1r.train.checkpoint import publish
from h1r.train.documents import Document, Documents, StoredDocument
from h1r.train.lora import ADAPTER
from h1r.train.parallel.gradients import Trained, give_back
from h1r.train.parallel.world import World

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


class Chosen(Sequence[Any]):
    """Some documents of a sequence, read when they are asked for."""

    def __init__(self, documents: Documents, places: Sequence[int]) -> None:
        self._documents, self._places = documents, places

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, place: int) -> Document | StoredDocument: ...
    @overload
    def __getitem__(self, place: slice) -> Chosen: ...
    def __getitem__(self, place: int | slice) -> Document | StoredDocument | Chosen:
        if isinstance(place, slice):
            return Chosen(self._documents, self._places[place])
        return self._documents[self._places[place]]


def kept_out(documents: Documents, count: int, seed: int) -> tuple[Documents, Documents]:
    """(trained on, kept out). Raises `UserError` where nothing is left to train on."""
    if count == 0:
        return documents, []
    if count >= len(documents):
        raise UserError(
            f"sft.validation.documents = {count} leaves nothing of {len(documents)} documents to train on; lower it"
        )
    out = set(random.Random(f"validation {seed}").sample(range(len(documents)), count))
    places = range(len(documents))
    trained, others = ([place for place in places if (place in out) is held] for held in (False, True))
    return Chosen(documents, trained), Chosen(documents, others)


class Validation:
    """measure: the loss of the model as it is, in nats per token, the same on every process. directory: of the stage;
    its best/ gets the model of the least loss where `section.publish` is "best"."""

    def __init__(
        self,
        section: ValidationSection,
        measure: Callable[[], float],
        directory: Path,
        world: World,
        best: float | None = None,
    ) -> None:
        self._section, self._measure, self._directory, self._world = section, measure, directory, world
        self.best = best
        """The least loss so far; None before the first."""

    def after(self, step: int, total: int, model: Trained, tokenizer: PreTrainedTokenizerFast) -> dict[str, float]:
        """What is logged of a step that has just been taken, the first being 1; nothing where nothing is due. Every
        process calls it."""
        if not self._section.documents or (step % self._section.every and step != total):
            return {}
        loss = self._measure()
        if math.isfinite(loss) and (self.best is None or loss < self.best):
            self.best = loss
            if self._section.publish == "best":
                publish(self._directory / "best", model, tokenizer, self._world)
        return {"validation_loss": loss}

    def publish(self, model: Trained, tokenizer: PreTrainedTokenizerFast) -> None:
        """Writes the model of the stage: the last, or the best. Every process calls it."""
        best = self._directory / "best"
        if self._section.publish == "last" or self.best is None:
            publish(self._directory, model, tokenizer, self._world)
        elif self._world.main:
            for name in ("model", ADAPTER):
                if (best / name).is_dir():
                    replace_directory(self._directory / name, partial(_link, best / name))

    @property
    def summary(self) -> dict[str, Any]:
        """Of the published model, for what the stage returns."""
        return {} if self.best is None else {"validation_loss": self.best}


def without_gradients(forward: Trained, losses: Callable[[], Sequence[float]]) -> float:
    """The sum of what `losses` gives, without a backward pass."""
    try:
        with torch.no_grad():
            return math.fsum(losses())
    finally:
        give_back(forward)


def _link(source: Path, target: Path) -> None:
    def link(one: str, other: str) -> None:
        try:
            os.link(one, other)
        except OSError:
            shutil.copy2(one, other)

    shutil.copytree(source, target, copy_function=link, dirs_exist_ok=True)
