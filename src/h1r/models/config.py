"""What every model's configuration has, whatever its family. Imports no torch.

A family's configuration is a frozen dataclass that derives from `ModelConfig`, with Hugging Face's names for its fields
and at least those that stand here.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Self

from h1r.common.prose import counted
from h1r.errors import UserError

MEND = "change the recipe's [model.overrides] or the checkpoint's config.json"
"""How a user mends a wrong field."""


class ModelConfig:
    """Base of the dataclasses that describe a model's geometry."""

    model_type: ClassVar[str]
    """The family's name, as config.json has it."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    intermediate_size: int
    max_position_embeddings: int
    """Positions that a sequence may have."""
    tie_word_embeddings: bool
    initializer_range: float
    """Standard deviation of random matrices."""
    pad_token_id: int | None
    bos_token_id: int | None
    eos_token_id: int | tuple[int, ...] | None
    """One id, several, or none."""

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """What ends a sequence; empty when the checkpoint names no end token."""
        if self.eos_token_id is None:
            return ()
        return self.eos_token_id if isinstance(self.eos_token_id, tuple) else (self.eos_token_id,)

    @property
    def tokens_per_block(self) -> int:
        """Tokens that an operator of the model handles as one block; exactness checks take inputs of several."""
        return 64

    @property
    def short_length(self) -> int:
        """A document length at which some operator looks back beyond the document's start."""
        return 1

    def replaced(self, **fields: Any) -> Self:
        """This configuration with some fields replaced."""
        found: Self = dataclasses.replace(self, **fields)  # type: ignore[type-var]
        return found


def take_types(config: Any, sizes: tuple[str, ...]) -> None:
    """For `__post_init__`: brings every field of a frozen dataclass into the type of its default (a list becomes a
    tuple, a whole number a float). Raises `UserError` for what is of another type, and for one of `sizes` below 1."""
    for field in dataclasses.fields(config):
        object.__setattr__(config, field.name, _checked(field, getattr(config, field.name)))
    for name in sizes:
        if getattr(config, name) < 1:
            raise UserError(f"model config: {name} = {getattr(config, name)} must be at least 1; {MEND}")


def check_rules(rules: dict[str, bool]) -> None:
    """Raises `UserError` for the first rule (text -> whether it holds) that does not hold."""
    for rule, holds in rules.items():
        if not holds:
            raise UserError(f"model config: {rule}; {MEND}")


def replace_fields(config: ModelConfig, overrides: dict[str, Any]) -> Any:
    """A preset with fields replaced. Raises `UserError` for a field that its family has not."""
    known = {field.name for field in dataclasses.fields(config)}  # type: ignore[arg-type]
    if unknown := sorted(set(overrides) - known):
        raise UserError(f"model.overrides.{unknown[0]} is no field of a {config.model_type} config; remove it")
    return config.replaced(**overrides) if overrides else config


def _checked(field: dataclasses.Field[Any], value: Any) -> Any:
    name, default = field.name, field.default
    if name == "eos_token_id" and isinstance(value, list | tuple) and all(type(i) is int for i in value):
        return tuple(value)
    if name.endswith("_token_id") and value is None:
        return None
    if isinstance(default, tuple):
        if isinstance(value, list | tuple) and len(value) == len(default) and all(map(_is_number, value)):
            return tuple(map(float, value))
        raise UserError(f"model config: {name} = {value!r} must be {counted(len(default), 'number')}; {MEND}")
    if isinstance(default, float) and _is_number(value):
        return float(value)
    kind = int if name.endswith("_token_id") else type(default)
    if type(value) is not kind:
        wanted = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}[kind]
        if name == "eos_token_id":
            wanted += " or a list of them"
        raise UserError(f"model config: {name} = {value!r} must be {wanted}; {MEND}")
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
