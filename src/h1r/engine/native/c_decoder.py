"""A family's decoder in C, where it has one and it can run: what the native engine asks of it."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from h1r.common.engines import Weights
from h1r.models import CausalLM
from h1r.models.registry import family_of, resolved


class CDecoder(Protocol):
    """Packed weights of a model and scratch for calls of up to `max_tokens` tokens. Constructed with
    (model, max_tokens, weights), the last as `engine.weights`; `ValueError` for a model that `obstacle` names a reason
    against."""

    @staticmethod
    def obstacle(model: Any) -> str | None:
        """Why this model cannot be decoded in C; None when it can."""
        ...

    @staticmethod
    def weight_bytes(config: Any, weights: Weights) -> int:
        """Memory of the packed weights."""
        ...

    @staticmethod
    def scratch_bytes(config: Any, max_tokens: int, max_length: int, weights: Weights) -> int:
        """Memory of the scratch of `max_tokens` tokens and of tables for `max_length` positions."""
        ...

    def pack(self) -> None:
        """Takes over the model's present weights."""
        ...

    def reserve(self, max_tokens: int) -> None:
        """Grows the scratch to `max_tokens` new tokens in one call."""
        ...

    def bind(self, cache: Any) -> Any:
        """A cache in the form that `run` takes."""
        ...

    def run(self, cache: Any, counts: Tensor, ids: Tensor, wanted: Tensor, logits: Tensor) -> None:
        """counts [rows] new tokens of the first rows of the cache, their ids [tokens] end to end; the cache takes them
        in. Logits of the tokens at places `wanted` go to the first rows of `logits` [*, V]."""
        ...


def decoder_class(model: CausalLM) -> Any:
    """The class of the family's `CDecoder`, or None."""
    return resolved(family_of(model.config).decoder)


def obstacle(model: CausalLM) -> str | None:
    """Why this model cannot be decoded in C; None when it can."""
    found = decoder_class(model)
    if found is None:
        name = model.config.model_type
        return f"the family {name} has no decoder in C (its operators run on {model.kernels.name} kernels)"
    why: str | None = found.obstacle(model)
    return why
