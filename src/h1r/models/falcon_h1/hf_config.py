"""The config.json of a `falcon_h1` checkpoint, read and written. Imports no torch.

transformers' `FalconH1Config` defines the format. A key that is left out has the default of that class, and every key
is decided here, so that no checkpoint loads into another model than its own:

* a field of `HybridConfig`, or one from which a field follows (`mamba_expand`, `rope_parameters`): implemented;
* `_ONE_VALUE`: one value is implemented, any other is refused by name;
* `_HARMLESS`: changes nothing here (the time-step keys among them only steer initialisation);
* unknown: as `h1r.models.hf_config` has it.

Where readers of the format part ways (the sources of transformers 5.23 and vLLM):

* `time_step_limit` holds in every forward here. transformers forgets it in cached decoding, vLLM has no such bound. The
  released checkpoints have none.
* `mamba_norm_before_gate = true` holds here and in transformers, save its fused CUDA training kernel. vLLM always gates
  first, as the released checkpoints do.
* `attention_bias`, `mlp_bias` and `projectors_bias` hold here and in transformers; vLLM has no such biases.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from h1r.errors import UserError
from h1r.models.falcon_h1.config import HybridConfig
from h1r.models.hf_config import HARMLESS, ONE_VALUE, refuse_unsupported, rope_theta

_FIELDS = {f.name: f for f in dataclasses.fields(HybridConfig)}
# Defaults of the format where they are not those of HybridConfig
_DEFAULTS: dict[str, Any] = {
    "vocab_size": 128000, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 8192, "mamba_d_ssm": 1024,
    "mamba_n_heads": 128, "mamba_d_head": "auto", "mamba_d_state": 256, "mamba_chunk_size": 256,
    "mamba_norm_before_gate": True, "eos_token_id": 2, "head_dim": None,
}  # fmt: skip
_UNBOUNDED = 1e38
"""JSON has no infinity; no time step reaches this one."""

_ONE_VALUE: dict[str, tuple[tuple[Any, ...], str]] = {
    **ONE_VALUE,
    "attn_layer_indices": ((None,), "every layer has attention"),
    "mamba_use_mlp": ((True, None), "every layer has an MLP"),
    "per_layer_config": ((None, {}), "all layers are alike"),
    "sliding_window": ((None,), "attention sees the whole past"),
}
_HARMLESS = HARMLESS | {
    "time_step_min", "time_step_max", "time_step_floor", "time_step_rank", "mlp_expansion_factor", "expansion_factor",
    "use_mamba_kernels", "mamba_ssm_cache_dtype", "tie_last_hidden_states",
}  # fmt: skip
_IMPLEMENTED = {
    "mamba_expand", "rope_parameters", "rope_scaling", "layer_types", "layers_block_type", "attn_rotary_emb",
}  # fmt: skip
_KNOWN = {*_FIELDS, *_HARMLESS, *_IMPLEMENTED}


def from_hf(raw: dict[str, Any], where: str) -> HybridConfig:
    """The configuration that a config.json holds.

    `where` names the file in the `UserError` that is raised for an unsupported setting, a value of the wrong type, and
    a geometry that does not fit together.
    """
    refuse_unsupported(raw, where, _KNOWN, _ONE_VALUE)
    values = {**_DEFAULTS, **{key: value for key, value in raw.items() if key in _FIELDS}}
    for key, value in values.items():
        if value is None and isinstance(_FIELDS[key].default, bool):
            values[key] = False
    try:
        _derive(values, raw)
    except (TypeError, ZeroDivisionError):
        raise UserError(f"{where}: a size is zero or no number; download the checkpoint again") from None
    values["rope_theta"] = rope_theta(raw, where)
    values["time_step_limit"] = _time_step_limit(raw.get("time_step_limit"), where)
    for key in ("layer_types", "layers_block_type"):
        if any(kind != "hybrid" for kind in raw.get(key) or ()):
            raise UserError(f"{where}: {key} is only supported as 'hybrid': every layer has attention and Mamba-2")
    if raw.get("attn_rotary_emb") not in (None, values["head_dim"]):
        raise UserError(f"{where}: attn_rotary_emb = {raw['attn_rotary_emb']!r} is not supported; whole heads rotate")
    try:
        return HybridConfig(**values)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def to_hf(config: HybridConfig, dtype: str) -> dict[str, Any]:
    """The config.json of a checkpoint whose weights are `dtype` ("bfloat16").

    `rope_theta` and the type stand in both places where readers of different age look. An unbounded
    `time_step_limit`, the default of the format, is left out.
    """
    fields = {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(config).items()}
    del fields["time_step_limit"]
    if config.time_step_limit != (0.0, math.inf):
        fields["time_step_limit"] = [min(bound, _UNBOUNDED) for bound in config.time_step_limit]
    return {
        "architectures": ["FalconH1ForCausalLM"],
        "model_type": "falcon_h1",
        **fields,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "hidden_act": "silu",
        "attn_layer_indices": None,
        "mamba_expand": 2,
        "dtype": dtype,
        "torch_dtype": dtype,
    }


def _derive(values: dict[str, Any], raw: dict[str, Any]) -> None:
    """Fills the fields for which null, or "auto", stands for a function of others."""
    if values["num_key_value_heads"] is None:
        values["num_key_value_heads"] = values["num_attention_heads"]
    if values["head_dim"] is None:
        values["head_dim"] = values["hidden_size"] // values["num_attention_heads"]
    if values["mamba_d_ssm"] is None:
        expand = raw.get("mamba_expand")
        values["mamba_d_ssm"] = int((2 if expand is None else expand) * values["hidden_size"])
    if values["mamba_d_head"] in (None, "auto"):
        values["mamba_d_head"] = values["mamba_d_ssm"] // values["mamba_n_heads"]
    for key in ("ssm_multipliers", "mlp_multipliers"):
        if values.get(key, ()) is None:
            del values[key]


def _time_step_limit(limit: Any, where: str) -> tuple[float, float]:
    """transformers writes an infinite bound as {"__float__": "Infinity"} or as a bare word, others as a huge number."""
    if limit is None:
        return 0.0, math.inf
    try:
        low, high = (float(bound["__float__"] if isinstance(bound, dict) else bound) for bound in limit)
    except (TypeError, ValueError, KeyError):
        raise UserError(f"{where}: time_step_limit = {limit!r} must be two numbers; correct it") from None
    return low, math.inf if high >= _UNBOUNDED else high
