"""What the config.json of every family shares: keys that are refused, and the base of the rotary embedding. Imports no
torch.

Every key is decided, so that no checkpoint loads into another model than its own: a family names the keys that it
implements, those of which one value is implemented, and those that change nothing. Any other key is refused when it is
switched on and its name speaks of a part of the model, since a later version of the format may mean another forward
pass by it; otherwise it is passed over.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from h1r.errors import UserError

ONE_VALUE: dict[str, tuple[tuple[Any, ...], str]] = {
    "hidden_act": (("silu", "swish"), "the gates are SiLU"),
    "attention_dropout": ((0, None), "there is no dropout"),
    "partial_rotary_factor": ((1, None), "whole heads rotate"),
    "quantization_config": ((None, {}), "weights must be bf16, fp16 or fp32"),
}
"""Keys of which one value is implemented: the values that mean it, and why."""
HARMLESS = {
    "output_hidden_states", "output_attentions", "attn_implementation", "_attn_implementation",
    "_attn_implementation_autoset",
}  # fmt: skip
_MODEL_WORDS = {
    "attn", "attention", "qk", "head", "heads", "rope", "rotary", "mamba", "ssm", "conv", "state", "mlp", "ffn",
    "expert", "experts", "moe", "router", "layer", "layers", "norm", "layernorm", "bias", "multiplier", "multipliers",
    "scale", "scaling", "softcap", "softcapping", "window", "quantization", "compression", "lora", "embedding",
}  # fmt: skip


def refuse_unsupported(
    raw: Mapping[str, Any], where: str, known: Collection[str], one_value: Mapping[str, tuple[tuple[Any, ...], str]]
) -> None:
    """Raises `UserError` for the first key of a config.json that would make another model. `known`: keys that the
    family implements or that change nothing."""
    for key, value in raw.items():
        if key in one_value:
            allowed, why = one_value[key]
            if value not in allowed:
                raise UserError(f"{where}: {key} = {value!r} is not supported: {why}; it must be {allowed[0]!r}")
        elif value and key not in known and _MODEL_WORDS & set(key.split("_")):
            raise UserError(
                f"{where}: {key} = {value!r} is unknown here and may change the model; remove it if it changes "
                "nothing, or install a newer h1r"
            )


def rope_theta(raw: Mapping[str, Any], where: str, default: float = 10000.0) -> float:
    """The base of the rotary embedding: transformers 5 writes it in `rope_parameters`, 4 at the top level, and some
    tools in `rope_scaling`. Readers differ in which they prefer, so those that are given must agree."""
    found = {"rope_theta": raw["rope_theta"]} if raw.get("rope_theta") is not None else {}
    for key in ("rope_parameters", "rope_scaling"):
        table = raw.get(key) or {}
        if not isinstance(table, dict) or any(isinstance(value, dict) for value in table.values()):
            raise UserError(f"{where}: {key} = {table!r} is not supported; one table for all layers is")
        if table.get("rope_type", table.get("type", "default")) not in ("default", None):
            raise UserError(f"{where}: {key} = {table!r} is not supported; only rope_type 'default' is")
        if table.get("partial_rotary_factor") not in (None, 1):
            raise UserError(f"{where}: {key} = {table!r} is not supported; whole heads rotate")
        if table.get("rope_theta") is not None:
            found[f"{key}.rope_theta"] = table["rope_theta"]
    if any(value != next(iter(found.values())) for value in found.values()):
        named = ", ".join(f"{key} = {value!r}" for key, value in found.items())
        raise UserError(f"{where}: {named} disagree, and readers choose differently; make them equal")
    theta: float = next(iter(found.values()), default)
    return theta
