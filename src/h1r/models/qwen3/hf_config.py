"""The config.json of a `qwen3` checkpoint, read and written. Imports no torch.

transformers' `Qwen3Config` defines the format; a key that is left out has the default of that class. Sliding windows
and scaled rotary embeddings are not implemented and are refused by name.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from h1r.errors import UserError
from h1r.models.hf_config import HARMLESS, ONE_VALUE, refuse_unsupported, rope_theta
from h1r.models.qwen3.config import Qwen3Config

_FIELDS = {f.name for f in dataclasses.fields(Qwen3Config)}
_DEFAULTS: dict[str, Any] = {
    "vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 22016, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 32, "head_dim": 128, "max_position_embeddings": 32768,
    "pad_token_id": None, "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip
_ONE_VALUE = {
    **ONE_VALUE,
    "use_sliding_window": ((False, None), "attention sees the whole past"),
}
_KNOWN = {
    *_FIELDS, *HARMLESS, "rope_parameters", "rope_scaling", "layer_types",
    # they count only with use_sliding_window
    "sliding_window", "max_window_layers",
}  # fmt: skip


def from_hf(raw: dict[str, Any], where: str) -> Qwen3Config:
    """The configuration that a config.json holds.

    `where` names the file in the `UserError` that is raised for an unsupported setting, a value of the wrong type, and
    a geometry that does not fit together.
    """
    refuse_unsupported(raw, where, _KNOWN, _ONE_VALUE)
    if any(kind != "full_attention" for kind in raw.get("layer_types") or ()):
        raise UserError(f"{where}: layer_types is only supported as 'full_attention': attention sees the whole past")
    values = {**_DEFAULTS, **{key: value for key, value in raw.items() if key in _FIELDS}}
    if values["num_key_value_heads"] is None:
        values["num_key_value_heads"] = values["num_attention_heads"]
    if values["head_dim"] is None:
        try:
            values["head_dim"] = values["hidden_size"] // values["num_attention_heads"]
        except (TypeError, ZeroDivisionError):
            raise UserError(f"{where}: a size is zero or no number; download the checkpoint again") from None
    values["rope_theta"] = rope_theta(raw, where)
    try:
        return Qwen3Config(**values)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def to_hf(config: Qwen3Config, dtype: str) -> dict[str, Any]:
    """The config.json of a checkpoint whose weights are `dtype` ("bfloat16"). `rope_theta` and the type stand in both
    places where readers of different age look."""
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        **{k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(config).items()},
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "hidden_act": "silu",
        "use_sliding_window": False,
        "sliding_window": None,
        "dtype": dtype,
        "torch_dtype": dtype,
    }
