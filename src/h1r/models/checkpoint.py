"""A checkpoint is a Hugging Face directory of its family: config.json, safetensors, and beside them the tokenizer.

What is saved here loads in transformers and vLLM with no conversion, and published checkpoints of the families load
here (`registry.py`: config.json's `model_type` says which). Optimizer state never lies in it.

Weights stream from the file into the parameters tensor by tensor, so that loading needs the model's memory and no
more. A directory is replaced in one step, so that a kill at any moment leaves the old checkpoint or the new one.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from h1r.common.files import replace_directory
from h1r.common.hub import fetched, local_directory
from h1r.errors import UserError
from h1r.models.causal_lm import CausalLM
from h1r.models.config import ModelConfig
from h1r.models.registry import family, family_of
from h1r.models.shards import own_rows, write_streamed

_EMBEDDING, _HEAD = "model.embed_tokens.weight", "lm_head.weight"
_DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64}
_ROTARY_BUFFERS = ("inv_freq", "original_inv_freq")
"""Functions of the config that other writers may have stored."""


def load(
    path_or_id: str | Path,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    revision: str | None = None,
) -> CausalLM:
    """The model of a checkpoint directory, or of a Hugging Face hub id ("owner/name") when no such directory exists.

    dtype: of all weights. None loses no bit: the family's `wide_parameters`, which the forward pass reads in fp32 or
        wider anyway, keep the type they are stored in, and the others share the widest among theirs.
    revision: branch, tag or commit of a hub id. The hub's own environment applies: HF_TOKEN for private and gated
        repositories, HF_HOME, HF_HUB_OFFLINE.

    Raises `UserError` for a missing directory, another architecture, an unsupported setting, and missing, unexpected
    or misshapen tensors, before any weight is read.
    """
    model, stored, names = _laid_out(_directory(path_or_id, revision), dtype)
    model.materialise(device)
    stored.copy_into(model, names)
    return model


def skeleton(path_or_id: str | Path, dtype: torch.dtype | None = None) -> CausalLM:
    """The model of a checkpoint on the meta device: shapes and types (see `load`), no memory. Raises as `load` does."""
    return _laid_out(_directory(path_or_id, None), dtype)[0]


def _laid_out(directory: Path, dtype: torch.dtype | None) -> tuple[CausalLM, _Weights, dict[str, str]]:
    """The model of a directory on the meta device, its stored weights, and the stored name of each of its tensors."""
    config = read_config(directory)
    stored = _Weights(directory)
    with torch.device("meta"):
        model: CausalLM = family_of(config).model_class(config)
    names = stored.places(model)

    narrow = (stored.dtype(place) for name, place in names.items() if not model.keeps_type(name))
    shared = dtype or reduce(torch.promote_types, narrow)
    for name, parameter in model.named_parameters():
        keeps = dtype is None and model.keeps_type(name)
        parameter.data = parameter.data.to(stored.dtype(names[name]) if keeps else shared)
    return model, stored, names


def load_weights(model: CausalLM, path_or_id: str | Path) -> None:
    """Copies a checkpoint's weights into the parameters of `model`, which keep their types and devices. Of a parameter
    in shards (a DTensor) only this process's rows are read.

    Raises `UserError` before anything is changed when the tensors are not those of this model.
    """
    stored = _Weights(_directory(path_or_id, None))
    stored.copy_into(model, stored.places(model))


def save(
    model: CausalLM,
    path: str | Path,
    tokenizer: Any = None,
    max_shard_size: int | str = "5GB",
    weights: Iterator[tuple[str, Tensor]] | None = None,
    state: Mapping[str, Tensor] | None = None,
) -> Path:
    """Writes `model` as a directory of its family's format, with its tokenizer when one is given.

    An existing directory is replaced whole: no shard of an earlier save stays behind, other files (a tokenizer, a
    card) do. max_shard_size: of one safetensors file, in bytes or as "5GB". weights: the tensors of the state dict in
    its order, for a model that does not hold them whole; no more than one file of them is held at once. state: in the
    place of `stored_state(model)`, a copy; of the model only its configuration is read then. Raises `UserError` when
    the directory cannot be written.
    """
    tensors = dict(stored_state(model) if state is None else state)
    config = family_of(model.config).to_hf(model.config, str(tensors[_EMBEDDING].dtype).removeprefix("torch."))
    generation = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}

    def write(directory: Path) -> None:
        if weights is None:
            from huggingface_hub import save_torch_state_dict

            save_torch_state_dict(tensors, directory, max_shard_size=max_shard_size)
        else:
            write_streamed(
                {name: t.numel() * t.element_size() for name, t in tensors.items()}, weights, directory, max_shard_size
            )
        for name, content in (("config.json", config), ("generation_config.json", generation)):
            (directory / name).write_text(json.dumps(content, indent=2), encoding="utf-8")
        for file in directory.glob("*.safetensors"):  # safetensors lets nobody else read them, whatever the umask
            shutil.copymode(directory / "config.json", file)
        if tokenizer is not None:
            tokenizer.save_pretrained(directory)

    try:
        replace_directory(Path(path), write, drop=re.compile(r"model.*\.safetensors(\.index\.json)?|pytorch_model.*"))
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot write {path}: {error}; give a directory that can be written") from None
    return Path(path)


def stored_state(model: CausalLM) -> dict[str, Tensor]:
    """The tensors of a checkpoint of `model` under their names: its state dict, with tied weights once."""
    state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        del state[_HEAD]
    return state


def build(config: ModelConfig, seed: int = 0, dtype: torch.dtype = torch.float32) -> CausalLM:
    """A model with random weights that depend on `seed` only, not on the global generator."""
    model: CausalLM = family_of(config).model_class(config).init_weights(torch.Generator().manual_seed(seed))
    return model.to(dtype)


def read_config(directory: Path) -> ModelConfig:
    """The configuration of a checkpoint directory; what we do not implement is refused by name.

    Ids that end a sequence are those of config.json and of generation_config.json, where chat models list theirs.
    """
    path = directory / "config.json"
    if not path.exists():
        raise UserError(f"{directory} holds no config.json; give a checkpoint directory or a hub id")
    raw = _read_json(path)
    config = family(raw.get("model_type"), str(path)).from_hf(raw, str(path))
    path = directory / "generation_config.json"
    ends = _read_json(path).get("eos_token_id") if path.exists() else None
    if ends is None:
        return config
    known = config.eos_token_ids
    more = tuple(i for i in (ends if isinstance(ends, list) else [ends]) if i not in known)
    return config.replaced(eos_token_id=(*known, *more)) if more else config


class _Weights:
    """The safetensors of a directory: one file, or the shards that an index names. Only headers are read at first."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.files: dict[str, Path] = {}
        self.shapes: dict[str, list[int]] = {}
        self._types: dict[str, str] = {}
        for path in self._paths():
            for name, file in self._open(path):
                header = file.get_slice(name)
                self.files[name], self.shapes[name], self._types[name] = path, header.get_shape(), header.get_dtype()

    def dtype(self, name: str) -> torch.dtype:
        """Of a stored tensor; `UserError` for one that is no float."""
        if self._types[name] not in _DTYPES:
            raise UserError(
                f"{self.directory}: tensor {name} is stored as {self._types[name]}, which is not supported; "
                "download the weights that are not quantised"
            )
        return _DTYPES[self._types[name]]

    def places(self, model: CausalLM) -> dict[str, str]:
        """Stored name of each tensor of `model`; `UserError` when one is missing, unexpected or of another shape."""
        expected = model.state_dict()
        names = {name: name for name in expected}
        computed = (*_ROTARY_BUFFERS, *model.computed_buffers)
        extra = {name for name in self.files if name not in expected and name.rpartition(".")[2] not in computed}
        if model.config.tie_word_embeddings:
            self._check_tied()
            # One tensor under two names: writers store either
            names[_EMBEDDING] = _EMBEDDING if _EMBEDDING in self.files else _HEAD
            del names[_HEAD]
        if missing := sorted(set(names.values()) - self.files.keys()):
            raise UserError(
                f"{self.directory}: tensor {missing[0]} is missing ({len(missing)} in all); download it again"
            )
        if extra:
            raise UserError(
                f"{self.directory}: tensor {min(extra)} has no place in this model ({len(extra)} in all); "
                "config.json and weights do not belong together"
            )
        for name, place in names.items():
            if list(expected[name].shape) != self.shapes[place]:
                raise UserError(
                    f"{self.directory}: tensor {place} has shape {self.shapes[place]}, "
                    f"config.json asks for {list(expected[name].shape)}"
                )
            self.dtype(place)
        return names

    def read(self, names: dict[str, str]) -> Iterator[tuple[str, Tensor]]:
        """(key, tensor) for each pair of key and stored name, one file after the other."""
        wanted = {place: name for name, place in names.items()}
        for path in sorted(set(self.files.values())):
            for place, file in self._open(path):
                if place in wanted:
                    yield wanted[place], file.get_tensor(place)

    def copy_into(self, model: CausalLM, names: dict[str, str]) -> None:
        """One tensor at a time, straight from the file to the parameter's device."""
        target = model.state_dict()
        wanted = {place: name for name, place in names.items()}
        with torch.no_grad():
            for path in sorted(set(self.files.values())):
                for place, file in self._open(path):
                    if place in wanted:
                        local, rows = own_rows(target[wanted[place]])
                        local.copy_(file.get_tensor(place) if rows is None else file.get_slice(place)[rows])

    def _check_tied(self) -> None:
        """Tied weights that are stored twice must be equal: some readers would tie them, others not."""
        if {_EMBEDDING, _HEAD} <= self.files.keys():
            embedding, head = (tensor for _, tensor in sorted(self.read({"a": _EMBEDDING, "b": _HEAD})))
            if not torch.equal(embedding, head):
                raise UserError(
                    f"{self.directory}: tie_word_embeddings is true, but {_HEAD} and {_EMBEDDING} differ; "
                    "set it to false in config.json, or remove one of them"
                )

    def _open(self, path: Path) -> Iterator[tuple[str, Any]]:
        """(name, open file) for each tensor of a file."""
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 - no mapping
                    yield name, file
        except (OSError, SafetensorError) as error:
            raise UserError(f"cannot read {path}: {error}; download or save the checkpoint again") from None

    def _paths(self) -> list[Path]:
        single, index = self.directory / "model.safetensors", self.directory / "model.safetensors.index.json"
        if not index.exists():
            if not single.exists():
                raise UserError(f"{self.directory} holds no model.safetensors; only safetensors weights load here")
            return [single]
        shards = sorted(set(_read_json(index).get("weight_map", {}).values()))
        if not shards or any(not isinstance(name, str) or Path(name).name != name for name in shards):
            raise UserError(f"{index} names no shards in its directory; download or save the checkpoint again")
        if single.exists() and single.name not in shards:
            raise UserError(
                f"{self.directory} holds both model.safetensors and the shards of {index.name}, and readers choose "
                "differently; remove the stale ones"
            )
        return [self.directory / name for name in shards]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not JSON ({error}); download or save the checkpoint again") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: not a JSON object; download or save the checkpoint again")
    return value


def _directory(path_or_id: str | Path, revision: str | None) -> Path:
    """The local directory, downloaded when it is a hub id. Nothing that looks like a path is asked of the network."""
    if (path := local_directory(path_or_id)) is not None:
        if revision is not None:
            raise UserError(f"revision {revision!r} is for hub ids, and {path} is a directory; leave it out")
        return path
    return fetched(str(path_or_id), ("*.json", "*.safetensors", "*.jinja", "tokenizer*"), revision)
