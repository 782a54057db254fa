"""The model families: what each registers, and how the rest of the house finds it. Imports no torch.

A family is a folder here and a line in `MODELS`, or a user's own with `register` (docs/guide/add-a-model.md).
Whatever needs torch is named as "module:attribute" and imported on first use.

    family_of(config).model_class        from a configuration
    family("qwen3").from_hf(raw, where)  from a config.json's `model_type`
    preset("tiny", vocab_size=512)       from a recipe's `model.preset`
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from h1r.common.registry import Registry, unknown
from h1r.errors import UserError
from h1r.models.config import ModelConfig, replace_fields


@dataclass(frozen=True)
class ModelFamily:
    """One architecture.

    References to parts that need torch are "module:attribute" strings, or the objects themselves.
    """

    name: str
    """The `model_type` of its config.json."""
    config: type[ModelConfig]
    model: str | type
    """The class of its models, derived from `CausalLM`."""
    from_hf: Callable[[dict[str, Any], str], ModelConfig]
    """(config.json as a dict, name of the file for messages) -> configuration; `UserError` for what is not
    implemented."""
    to_hf: Callable[[Any, str], dict[str, Any]]
    """(configuration, dtype of the weights such as "bfloat16") -> config.json as a dict."""
    presets: Mapping[str, ModelConfig] = field(default_factory=dict)
    make_preset: Callable[..., ModelConfig] | None = None
    """(name, **overrides) -> configuration, where more follows from an override than the field itself."""
    transformers_class: str | None = None
    """The class in transformers that reads its checkpoints; None: there is none, and nothing to compare with."""
    decoder: str | type | None = None
    """The class that generates in C (`CDecoder` in `h1r.engine.native.runner` says what it must do), or None."""
    context_parallel: str | Any | None = None
    """The `ContextParallel` of the family (`h1r.models.layers.context_attention`), or None: no context parallelism."""
    checks: str | Any | None = None
    """The `FamilyChecks` of `h1r parity` (`h1r.models.checks`), or None: attention, norm and MLP only."""
    vllm_obstacle: Callable[[Any, bool, str], str | None] | None = None
    """(configuration, on a CPU, dtype) -> why vLLM cannot run this geometry or would compute something else; None when
    it can. The field is None where vLLM does not know the architecture."""
    recurrent_bytes: Callable[[Any, int], int] | None = None
    """(configuration, bytes per element) -> what vLLM keeps per sequence and layer besides keys and values."""

    @property
    def model_class(self) -> Any:
        """The class of its models. Imports torch."""
        return resolved(self.model)


MODELS: Registry[ModelFamily] = Registry(
    "model family", {"falcon_h1": "h1r.models.falcon_h1.family:FAMILY", "qwen3": "h1r.models.qwen3.family:FAMILY"}
)
"""Families by the `model_type` of their config.json."""


def register(family: ModelFamily) -> ModelFamily:
    """Adds a family. Raises `UserError` when another one has its name or one of its presets."""
    for name in MODELS:
        other = MODELS.require(name)
        if name != family.name and (both := sorted(other.presets.keys() & family.presets.keys())):
            raise UserError(f"model families {name} and {family.name} both have a preset {both[0]}; rename one")
    again = family.name in MODELS and resolved_name(MODELS.require(family.name)) == resolved_name(family)
    MODELS.add(family.name, family, replace=again)
    return family


def family(name: str | None, where: str) -> ModelFamily:
    """The family of a config.json's `model_type`; `where` names the file in the `UserError` for an unknown one."""
    return MODELS.require(name, f"{where}: model_type")


def family_of(config: ModelConfig) -> ModelFamily:
    """The family of a configuration."""
    return family(config.model_type, "model config")


def presets() -> dict[str, ModelConfig]:
    """All presets by name, those of installed plugins included."""
    families = [MODELS.require(name) for name in MODELS.names()]
    return {name: config for one in families for name, config in one.presets.items()}


def preset(name: str, **overrides: Any) -> ModelConfig:
    """The preset `name` of any family with fields replaced; unknown names and fields raise `UserError`."""
    known = presets()
    if name not in known:
        raise unknown("preset", name, known, "model.preset")
    make = family_of(known[name]).make_preset
    return make(name, **overrides) if make else replace_fields(known[name], overrides)


def resolved(reference: Any) -> Any:
    """What a "module:attribute" stands for; anything else is itself."""
    if not isinstance(reference, str):
        return reference
    module, _, attribute = reference.partition(":")
    return getattr(importlib.import_module(module), attribute)


def resolved_name(one: ModelFamily) -> str:
    """Where a family's model lies, as "module:attribute"; the same after its module was loaded again."""
    return one.model if isinstance(one.model, str) else f"{one.model.__module__}:{one.model.__qualname__}"
