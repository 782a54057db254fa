"""The half of RL that samples: an engine in each process, and how it gets the weights that are in training.

    whole weights, one engine in the process   it reads the weights themselves, or follows them (`engine/following.py`)
    shards, an engine in the process           it reads a whole copy, which `update` refreshes (`SamplingCopy`)
    several processes, vLLM or servers         one process writes the weights into a directory, which all engines read
    engines on a Ray cluster (`cluster/`)      the same, and each says what it has read

The other half is the policy (`policy.py`). The loop of both (`rl.py`) calls `update` before it samples. Every process
does so, in step.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from h1r.common.prose import counted
from h1r.config import EngineSection, Recipe, RLSection
from h1r.engine.choose import open_engine
from h1r.engine.protocol import Engine
from h1r.engine.vllm.weights import memory_directory
from h1r.errors import UserError
from h1r.models.checkpoint import stored_state
from h1r.train.checkpoint import save_gathered
from h1r.train.parallel.gradients import Sharded, Trained, computing_model
from h1r.train.parallel.sampling_copy import SamplingCopy, checksums
from h1r.train.parallel.world import ALONE, World
from h1r.train.start import compute_dtype_of, equip, loaded

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

READS_FILES = ("vllm", "server")
"""Engines with weights of their own, which they take from a directory."""


def nothing() -> None:
    """Of weights that the engine has."""


Take = Callable[[], None]


@dataclass(frozen=True)
class Fleet:
    """engine: of this process, or several as one. update: sends it the weights in training, which so many steps have
    made, and returns what has it take them, which is called when nothing is sampled; every process calls both. With
    `rl.in_flight` the engine takes them by itself. apart: the engine may sample while the policy trains."""

    engine: Engine
    update: Callable[[int], Take] = lambda _: nothing
    apart: bool = False


@contextmanager
def open_fleet(
    recipe: Recipe, tokenizer: PreTrainedTokenizerFast, trained: Trained, world: World = ALONE
) -> Iterator[Fleet]:
    """`recipe.engine` beside a model in training, until the end of the `with` block. Every process of `world` opens
    it. Raises as `open_engine` does, on all alike."""
    with ExitStack() as stack:
        if world.size > 1 and recipe.engine.kind in READS_FILES:
            yield _fed_by_files(recipe, tokenizer, trained, world, stack)
            return
        copy = None
        if isinstance(trained, Sharded):
            dtype = compute_dtype_of(recipe.rl) or trained.weights.dtype
            copy = SamplingCopy(trained.weights, dtype, world)
        with world.agreed():
            model = computing_model(trained) if copy is None else equip(copy.model, recipe.model.kernels)
            engine = stack.enter_context(open_engine(recipe.engine, tokenizer, model))
        yield Fleet(engine) if copy is None else Fleet(engine, lambda _: copy.refresh)


def _fed_by_files(
    recipe: Recipe, tokenizer: PreTrainedTokenizerFast, trained: Trained, world: World, stack: ExitStack
) -> Fleet:
    place: Path | None = None
    with world.agreed():
        if world.main:
            place = stack.enter_context(weights_place(recipe.engine))
    place = Path(world.told(str(place)))
    write_weights(trained, recipe.rl, place, tokenizer, world)
    with world.agreed():
        own = own_servers(recipe.engine, world)
        engine = stack.enter_context(open_on_files(recipe, own, tokenizer, place))

    def take() -> None:
        write_weights(trained, recipe.rl, place, tokenizer, world)
        with world.agreed():  # nobody samples, or writes again, before all have read
            engine.load_weights(place)

    return Fleet(engine, lambda _: take)


@contextmanager
def weights_place(section: EngineSection) -> Iterator[Path]:
    """Where a trainer writes checkpoints for engines to read, until the end of the `with` block. `UserError` where it
    cannot be made."""
    parent = section.weights_directory or memory_directory()
    try:
        made = tempfile.TemporaryDirectory(prefix="h1r-weights-", dir=parent)
    except OSError as error:
        raise UserError(f"engine.weights_directory = {parent} cannot be written ({error})") from None
    with made as place:
        yield Path(place) / "model"


def write_weights(
    trained: Trained, section: RLSection, place: Path, tokenizer: PreTrainedTokenizerFast, world: World
) -> None:
    """Writes what computes, as it computes, into the checkpoint directory `place`. Every process of `world` calls it.
    `UserError` where there is no room for it, on all alike."""
    try:
        save_gathered(computing_model(trained), place, tokenizer, world, _written_dtype(trained, section))
    except UserError as error:
        why = str(error).rpartition(";")[0]
        raise UserError(f"{why}; make room there, or set engine.weights_directory to a directory with more") from None


def sums_of(trained: Trained, section: RLSection, world: World) -> dict[str, int]:
    """The checksum of each tensor that `write_weights` writes. Every process of `world` calls it."""
    return checksums(stored_state(computing_model(trained)), world, _written_dtype(trained, section))


def _written_dtype(trained: Trained, section: RLSection) -> torch.dtype | None:
    """In shards the computing type is that of the passes; whole weights that compute have it already."""
    return compute_dtype_of(section) if isinstance(trained, Sharded) else None


def open_on_files(
    recipe: Recipe, section: EngineSection, tokenizer: PreTrainedTokenizerFast, place: Path
) -> AbstractContextManager[Engine]:
    """`section`'s engine on the checkpoint in `place`, where it will find others. `UserError` where it is not seen."""
    if not (place / "config.json").exists():
        raise UserError(
            f"{place} is on another machine; set engine.weights_directory to a directory that all processes see"
        )
    load = partial(loaded, place, recipe.model.kernels)  # for an engine that runs in this process
    return open_engine(section, tokenizer, load, place, in_training=True)


def open_start(
    recipe: Recipe, source: str | Path, tokenizer: PreTrainedTokenizerFast
) -> AbstractContextManager[Engine]:
    """`recipe.engine` on what RL starts from (`rl_start`), which does not change. Raises as `open_engine` does."""
    load = partial(loaded, source, recipe.model.kernels, tokenizer, recipe.seed)
    # A checkpoint of somebody else may get rows for the chat's markers, so engines do not read it as it lies there.
    return open_engine(recipe.engine, tokenizer, load, source if recipe.rl.checkpoint is None else None)


def own_servers(section: EngineSection, world: World) -> EngineSection:
    """The section with this process's share of the servers, of which each gives some their weights. `UserError` where
    there are fewer than processes."""
    if section.kind != "server":
        return section
    servers = section.addresses
    if len(servers) < world.size:
        raise UserError(
            f"rl on {counted(world.size, 'process')} asks as many servers, and engine.urls names "
            f"{len(servers)}; name more, or start fewer processes"
        )
    return section.model_copy(update={"url": None, "urls": servers[world.rank :: world.size]})
