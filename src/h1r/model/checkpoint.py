"""A checkpoint is a Hugging Face `falcon_h1` directory: config.json, safetensors, and beside them the tokenizer.

What is saved here loads in transformers and vLLM with no conversion, and the published Falcon-H1 and Falcon-H1R
checkpoints load here. Optimizer state never lies in it.
"""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from h1r.errors import UserError
from h1r.model.config import HybridConfig
from h1r.model.hybrid import HybridForCausalLM

_FIELDS = {f.name for f in dataclasses.fields(HybridConfig)}
# Keys of a falcon_h1 config.json that change nothing in the forward pass, or hold one value we implement.
_FIXED = {"hidden_act": ("silu",), "attn_layer_indices": (None,), "attention_dropout": (0, 0.0, None)}


def load(
    path_or_id: str | Path, dtype: torch.dtype | None = None, device: torch.device | str = "cpu"
) -> HybridForCausalLM:
    """The model of a checkpoint directory, or of a hub id when no such directory exists.

    dtype: of the weights; None keeps the checkpoint's own. Raises `UserError` for a missing directory, another
    architecture, an unsupported setting, and missing, unexpected or misshapen tensors.
    """
    directory = _directory(path_or_id)
    config = read_config(directory)
    weights = read_weights(directory)
    with torch.device("meta"):
        model = HybridForCausalLM(config)
    _check_tensors(directory, model.state_dict(), weights, config.tie_word_embeddings)
    kind = dtype or weights["model.embed_tokens.weight"].dtype
    model = model.to(kind).to_empty(device=device)
    model.tie_weights()
    restore_buffers(model)
    model.load_state_dict(weights, strict=False)
    return model


def save(model: HybridForCausalLM, path: str | Path, tokenizer: Any = None) -> Path:
    """Writes `model` as a `falcon_h1` directory (shards of at most 5 GB), with its tokenizer when one is given."""
    directory = Path(path)
    directory.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        state.pop("lm_head.weight")
    save_torch_state_dict(state, directory)
    config_json = to_hf_config(model.config, model.dtype)
    (directory / "config.json").write_text(json.dumps(config_json, indent=2), encoding="utf-8")
    generation = {key: config_json[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    (directory / "generation_config.json").write_text(json.dumps(generation, indent=2), encoding="utf-8")
    if tokenizer is not None:
        tokenizer.save_pretrained(directory)
    return directory


def build(config: HybridConfig, seed: int = 0, dtype: torch.dtype = torch.float32) -> HybridForCausalLM:
    """A model with random weights that depend on `seed` only, not on the global generator."""
    model = HybridForCausalLM(config).init_weights(torch.Generator().manual_seed(seed))
    return model.to(dtype)


def restore_buffers(model: HybridForCausalLM) -> None:
    """Fills the buffers that are computed from the config, after a model was built on the meta device."""
    from h1r.model.mamba2 import Mamba2, mup_vector

    for module in model.modules():
        if isinstance(module, Mamba2):
            module.mup_vector = mup_vector(model.config).to(module.dt_bias.device)


def to_hf_config(config: HybridConfig, dtype: torch.dtype) -> dict[str, Any]:
    """The config.json of a checkpoint; `rope_theta` stands in both places where readers look for it."""
    fields = dataclasses.asdict(config)
    return {
        "architectures": ["FalconH1ForCausalLM"],
        "model_type": "falcon_h1",
        **{key: list(value) if isinstance(value, tuple) else value for key, value in fields.items()},
        "time_step_limit": [value if math.isfinite(value) else 1e38 for value in config.time_step_limit],
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "hidden_act": "silu",
        "attn_layer_indices": None,
        "mamba_expand": 2,
        "torch_dtype": str(dtype).removeprefix("torch."),
    }


def read_config(directory: Path) -> HybridConfig:
    """The configuration of a checkpoint directory; what we do not implement is refused by name."""
    path = directory / "config.json"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise UserError(f"{directory} holds no config.json; give a checkpoint directory or a hub id") from None
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); download the checkpoint again") from None
    if raw.get("model_type") != "falcon_h1":
        raise UserError(f"{path}: model_type is {raw.get('model_type')!r}; only falcon_h1 checkpoints load here")
    for key, allowed in _FIXED.items():
        if key in raw and raw[key] not in allowed:
            raise UserError(f"{path}: {key} = {raw[key]!r} is not supported; it must be {allowed[0]!r}")
    values = {key: value for key, value in raw.items() if key in _FIELDS and value is not None}
    rope = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    if rope.get("rope_type", rope.get("type", "default")) != "default" or rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise UserError(f"{path}: rope_parameters {rope} is not supported; only the default full rotary embedding is")
    values["rope_theta"] = float(rope.get("rope_theta", raw.get("rope_theta", 1e4)))
    if values.get("mamba_d_ssm") is None:
        values["mamba_d_ssm"] = raw.get("mamba_expand", 2) * raw["hidden_size"]
    if values.get("mamba_d_head", "auto") == "auto":
        values["mamba_d_head"] = values["mamba_d_ssm"] // values["mamba_n_heads"]
    if values.get("head_dim") is None:
        values["head_dim"] = raw["hidden_size"] // raw["num_attention_heads"]
    low, high = values.get("time_step_limit", (0.0, math.inf))
    values["time_step_limit"] = (float(low), math.inf if float(high) >= 1e38 else float(high))
    for key in ("ssm_multipliers", "mlp_multipliers"):
        if key in values:
            values[key] = tuple(values[key])
    # transformers' own defaults differ from ours where a config.json leaves a field out
    values.setdefault("mamba_norm_before_gate", True)
    return HybridConfig(**values)


def read_weights(directory: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint directory, from one file or from the shards its index names."""
    index = directory / "model.safetensors.index.json"
    if index.exists():
        files = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    else:
        files = ["model.safetensors"]
    weights: dict[str, Tensor] = {}
    for name in files:
        try:
            weights |= load_file(directory / name)
        except (OSError, SafetensorError) as error:
            raise UserError(f"cannot read {directory / name}: {error}; download or save the checkpoint again") from None
    return weights


def _directory(path_or_id: str | Path) -> Path:
    path = Path(path_or_id)
    if path.is_dir():
        return path
    if path.is_absolute() or str(path_or_id).startswith(".") or str(path_or_id).count("/") != 1:
        raise UserError(f"no checkpoint directory {path_or_id}; check the path, or give a hub id as owner/name")
    try:
        return Path(
            snapshot_download(str(path_or_id), allow_patterns=["*.json", "*.safetensors", "*.jinja", "tokenizer*"])
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path_or_id} is no directory here and could not be fetched from the hub ({reason})") from None


def _check_tensors(directory: Path, expected: dict[str, Tensor], found: dict[str, Tensor], tied: bool) -> None:
    if tied:
        found.pop("lm_head.weight", None)
        expected = {name: tensor for name, tensor in expected.items() if name != "lm_head.weight"}
    if missing := sorted(expected.keys() - found.keys()):
        raise UserError(f"{directory}: tensor {missing[0]} is missing ({len(missing)} in all); download it again")
    if extra := sorted(found.keys() - expected.keys()):
        raise UserError(
            f"{directory}: tensor {extra[0]} has no place in this model ({len(extra)} in all); "
            "config.json and weights do not belong together"
        )
    for name, tensor in expected.items():
        if tensor.shape != found[name].shape:
            raise UserError(
                f"{directory}: tensor {name} has shape {list(found[name].shape)}, "
                f"config.json asks for {list(tensor.shape)}"
            )
