"""What a trainer needs to go on: a model directory, and beside it the optimiser and the trainer's state.

checkpoints/step_00000100/
  model/         loads in transformers and vLLM as it is, or
  adapter/       of a model of which adapters alone are trained (`lora.py`)
  optimizer.pt   of a model that every process holds whole, or
  optimizer/     of one in shards: torch.distributed.checkpoint, a file from each process
  state.json     step, data position, caches: everything that is not a tensor
  arrays.npz     of RL: the tokens of cached rollouts

Either kind is read by any number of processes, sharded or not.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
from safetensors import SafetensorError
from torch import Tensor

from h1r.common.files import read_json, replace_directory, write_json
from h1r.config import Recipe
from h1r.errors import UserError
from h1r.models import CausalLM, save
from h1r.models.checkpoint import load_weights, stored_state
from h1r.models.shards import gathered, own_rows
from h1r.run.checkpoints import Checkpoints
from h1r.run.directory import DEFAULTS, PROMPT, TURNS, knows_turns, prompt_of
from h1r.train.lora import ADAPTER, Adapted
from h1r.train.optim import cut_codes, in_codes
from h1r.train.parallel.gradients import Trained, published_model
from h1r.train.parallel.precision import ComputeCopy
from h1r.train.parallel.world import ALONE, World

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_ARRAYS = "arrays.npz"


@dataclass(frozen=True)
class Tensors:
    """Those of a checkpoint, as this process has them. weights: of `model`, under their names; the model itself may be
    in the middle of a pass, in which FSDP2 must not be asked for its weights. adapted: what writes adapters in their
    place."""

    model: CausalLM
    weights: Mapping[str, Tensor]
    optimizer: Mapping[str, Any]
    adapted: Adapted | None = None

    @classmethod
    def of(cls, trained: Trained, optimizer: torch.optim.Optimizer, world: World = ALONE) -> Tensors:
        """As they are now; they change with the next step. Every process of `world` calls it."""
        model = published_model(trained)
        if world.mesh is None:
            kept: Mapping[str, Any] = optimizer.state_dict()
        else:
            from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

            kept = get_optimizer_state_dict(model, optimizer)
        return cls(model, stored_state(model), kept, trained if isinstance(trained, Adapted) else None)

    def copied(self, world: World) -> Tensors:
        """In the memory of the processor, where no step changes them; shards lie on the mesh of `world`."""
        return Tensors(self.model, _copied(self.weights, world), _copied(self.optimizer, world), self.adapted)


def _copied(value: Any, world: World) -> Any:
    if isinstance(value, Mapping):
        return {key: _copied(one, world) for key, one in value.items()}
    if isinstance(value, list):
        return [_copied(one, world) for one in value]
    if not isinstance(value, Tensor):
        return value
    if world.mesh is not None:
        from torch.distributed.tensor import DTensor

        if isinstance(value, DTensor):
            own = _copied(value.to_local(), world)
            return DTensor.from_local(own, world.mesh, value.placements, shape=value.shape, stride=value.stride())
    if in_codes(value):  # which torchao's cannot be asked for
        names, kept = value.__tensor_flatten__()  # type: ignore[attr-defined]
        parts = {name: _copied(getattr(value, name), world) for name in names}
        found: Tensor = type(value).__tensor_unflatten__(parts, kept)  # type: ignore[attr-defined]
        return found
    return value.detach().to("cpu", copy=True)


def save_checkpoint(
    checkpoints: Checkpoints,
    step: int,
    tensors: Tensors,
    tokenizer: PreTrainedTokenizerFast,
    state: dict[str, Any],
    world: World = ALONE,
    arrays: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Writes one checkpoint, whole or not at all. `state` must be JSON; `arrays` are kept beside it. Every process of
    `world` calls it; sharded ones must see one directory. `UserError` where there is no room for it."""
    if world.mesh is None:
        if world.main:

            def write(directory: Path) -> None:
                with _told(directory):
                    if tensors.adapted is not None:
                        tensors.adapted.save(directory / ADAPTER)
                    else:
                        save(tensors.model, directory / "model", tokenizer, state=tensors.weights)
                    with open(directory / "optimizer.pt", "wb") as handle:  # torch's own says no cause of a failure
                        torch.save(tensors.optimizer, handle)
                    _write_state(directory, state, arrays)

            checkpoints.save(step, write)
        return
    from torch.distributed.checkpoint.state_dict_saver import save as save_shards

    with world.agreed():
        directory = checkpoints.begin(step) if world.main else checkpoints.partial(step)
    save_gathered(tensors.model, directory / "model", tokenizer, world, state=tensors.weights)
    with _told(directory):
        save_shards(dict(tensors.optimizer), checkpoint_id=directory / "optimizer", process_group=world.everyone)
    with world.agreed():
        if world.main:
            _write_state(directory, state, arrays)
            checkpoints.finish(step)


@contextmanager
def _told(directory: Path) -> Iterator[None]:
    """What cannot be written as a `UserError`, whether files, safetensors, torch or its shards say so; what was is
    removed, as it takes room."""
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        yield
    except (OSError, SafetensorError, RuntimeError, CheckpointException) as error:
        whose = next(iter(error.failures.values()))[0] if isinstance(error, CheckpointException) else error
        cause: BaseException | None = whose
        while cause is not None and not isinstance(cause, OSError):
            cause = cause.__context__
        if cause is None and type(error) is RuntimeError:  # a fault of ours, which room does not mend
            raise
        shutil.rmtree(directory, ignore_errors=True)
        why = cause.strerror if isinstance(cause, OSError) else whose
        raise UserError(
            f"cannot write a checkpoint in {directory.parent}: {why}; make room, and go on with --resume"
        ) from None


def restore(directory: Path, trained: Trained, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Loads a checkpoint into model and optimiser, bit for bit, and returns the trainer's state. Every process calls
    it, and reads its own share of a model in shards."""
    model = published_model(trained)
    if isinstance(trained, Adapted):
        trained.load(directory / ADAPTER)
    else:
        load_weights(model, directory / "model")
    if isinstance(trained, ComputeCopy):
        trained.refresh()
    if (directory / "optimizer").is_dir():
        from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
        from torch.distributed.checkpoint.state_dict_loader import load as load_shards

        from h1r.train.recut import Recut  # imports torch.distributed.checkpoint, which one process does without

        found = get_optimizer_state_dict(model, optimizer)
        alone = not (dist.is_available() and dist.is_initialized())
        recut = Recut()
        load_shards(found, checkpoint_id=directory / "optimizer", planner=recut, no_dist=alone)
        recut.finish()
        set_optimizer_state_dict(model, optimizer, found)
    else:
        _load_whole(optimizer, directory / "optimizer.pt")
    state: dict[str, Any] = read_json(directory / "state.json")
    return state


def restored_arrays(directory: Path) -> dict[str, np.ndarray]:
    """The arrays of a checkpoint; none where it was written without."""
    path = directory / _ARRAYS
    if not path.exists():
        return {}
    with np.load(path, allow_pickle=False) as found:
        return dict(found)


def _write_state(directory: Path, state: dict[str, Any], arrays: Mapping[str, np.ndarray] | None) -> None:
    if arrays:
        np.savez(directory / _ARRAYS, **arrays)  # type: ignore[arg-type]
    write_json(directory / "state.json", state)


def publish(stage: Path, trained: Trained, tokenizer: PreTrainedTokenizerFast, world: World = ALONE) -> Path:
    """Writes the stage's final model to `STAGE/model`, whole or not at all, and what was adapted of it to
    `STAGE/adapter`. Every process of `world` calls it."""
    final, model = stage / "model", published_model(trained)
    if isinstance(trained, Adapted) and world.main:
        replace_directory(stage / ADAPTER, trained.save)
    if world.mesh is not None:
        save_gathered(model, final, tokenizer, world)
    elif world.main:
        save(model, final, tokenizer)
    return final


def keep_defaults(model: Path, recipe: Recipe, world: World, turns: bool = False) -> None:
    """Stores with a published model how the run asks it: [eval]'s sampling in generation_config.json, which
    transformers and vLLM read, and [scaling] in h1r.json; and there what problems are asked in: a model from random
    weights knows no other words than its questions, and one from a checkpoint keeps what that one says. turns: it
    learnt conversations of several. Of `world`, the process that writes files does."""
    if not world.main:
        return
    asked = recipe.eval
    sampling: dict[str, Any] = {"do_sample": asked.temperature > 0, "max_new_tokens": asked.max_tokens}
    if asked.temperature > 0:
        sampling |= {"temperature": asked.temperature, "top_p": asked.top_p}
    path = model / "generation_config.json"
    write_json(path, {**read_json(path), **sampling})
    kept: dict[str, Any] = {"scaling": recipe.scaling.model_dump(mode="json")}
    start = recipe.model.checkpoint
    prompt = prompt_of(start) if start else "{question}"
    if turns or (start and knows_turns(start)):
        kept[TURNS] = True
    write_json(model / DEFAULTS, kept if prompt is None else {**kept, PROMPT: prompt})


def save_gathered(
    model: CausalLM,
    path: Path,
    tokenizer: PreTrainedTokenizerFast,
    world: World,
    dtype: torch.dtype | None = None,
    state: Mapping[str, Tensor] | None = None,
) -> None:
    """One process writes what all of them gather, tensor by tensor. dtype: as in `gathered`. state: as in `save`."""
    state = stored_state(model) if state is None else state
    whole = gathered(state, dtype)
    with world.agreed():
        try:
            if world.main:
                save(model, path, tokenizer, weights=whole, state=state)
        finally:
            for _ in whole:  # a process that writes nothing, or no more, must still take part in each gathering
                pass


def _load_whole(optimizer: torch.optim.Optimizer, path: Path) -> None:
    """A state of whole tensors into an optimiser whose parameters may be in shards."""
    found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for index, values in found["state"].items():
        p = parameters[index]
        values.update({key: _like(value, p) for key, value in values.items() if value.shape == p.shape})
    optimizer.load_state_dict(found)


def _like(whole: Tensor, p: Tensor) -> Tensor:
    """`whole` cut as `p` is."""
    _, rows = own_rows(p)
    if rows is None:
        return whole
    from torch.distributed.tensor import DTensor

    assert isinstance(p, DTensor)
    mine = cut_codes(whole, rows) if in_codes(whole) else whole[rows].clone()
    return DTensor.from_local(mine, p.device_mesh, p.placements, shape=p.shape, stride=p.stride())
