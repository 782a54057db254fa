"""`/v1/models`: what a server of ours says of its model, and what a front takes from the servers behind it.

The first model has, beside OpenAI's keys,

    methods, numbers    what a request may name, and what its numbers may be (`options.py`)
    scaling             the recipe's [scaling]: what a request leaves open is as here
    max_model_len       positions, as vLLM tells them
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from h1r.common.progress import note
from h1r.common.scaling_methods import METHODS
from h1r.config import Recipe, ScalingSection, resolve
from h1r.errors import UserError
from h1r.scaling.ballot import Needs
from h1r.serve.options import methods_for, numbers_for

_OWNER = "open-h1r"
_USUAL_BUDGETS = (8, 64)
_NUMBERS = (bool, int, float)


def models_of(
    name: str, created: int, section: ScalingSection, has: frozenset[Needs], budget: int, positions: int | None
) -> list[dict[str, Any]]:
    """The model, and under its suffix what DeepConf makes of it. created: s since 1970. has: what the engine tells of a
    trace's tokens. budget: the server's limit of traces. positions: None where they are not known."""
    own: dict[str, Any] = {"object": "model", "created": created, "owned_by": _OWNER}
    if positions is not None:
        own["max_model_len"] = positions
    told = section.model_dump(mode="json", exclude={"problems"})
    told["options"] = _numbers(section.options)
    first = {"methods": methods_for(section, has), "numbers": numbers_for(budget, positions), "scaling": told}
    budgets = sorted({one for one in (*_USUAL_BUDGETS, *section.budgets) if one <= budget})
    return [{"id": name, **own, **first}, *({"id": f"{name}@deepconf-{one}", **own} for one in budgets)]


def most_traces(listed: Mapping[str, Any]) -> int | None:
    """Of one question, by what a server of ours lists of its model; None of other servers."""
    found: Any = listed
    for key in ("numbers", "budget", "maximum"):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found if type(found) is int else None


def recipe_behind(listed: Sequence[tuple[str, Mapping[str, Any]]], overrides: Mapping[str, Any]) -> Recipe:
    """The defaults, over them the [scaling] that the first of these servers tells, over it the overrides. listed: the
    address of each server, and the model as it lists it. `UserError` for a recipe that cannot be."""
    tables = [(url, found) for url, model in listed if (found := _scaling_of(model))]
    if not tables:
        return resolve({"name": "defaults"}, dict(overrides), "--set")
    (address, table), *others = tables
    for url, other in others:
        differ = (key for key in table if key in other and other[key] != table[key])
        if key := next((key for key in differ if f"scaling.{key}" not in overrides), None):
            said = f"{url} has another scaling.{key} than {address}, and requests are answered with that of {address}"
            note(f"{said}; --set scaling.{key}=... sets one")
    method = overrides.get("scaling.method", table.get("method"))
    if method != table.get("method"):
        table.pop("options", None)  # they are the other method's
    elif method is not None and str(method) not in METHODS:
        said = f"the method `{method}` that {address} tells is not registered here"
        raise UserError(f"{said}; name one with --set scaling.method=..., one of {', '.join(sorted(METHODS.names()))}")
    return resolve({"name": "defaults", "scaling": table}, dict(overrides), f"{address}/models")


def _scaling_of(model: Mapping[str, Any]) -> dict[str, Any]:
    """What a server of ours tells, as far as it is known here; nothing of others."""
    told = model.get("scaling") if model.get("owned_by") == _OWNER else None
    if not isinstance(told, dict):
        return {}
    found = {key: value for key, value in told.items() if key in ScalingSection.model_fields}
    if isinstance(found.get("options"), dict):
        found["options"] = _numbers(found["options"])
    return found


def _numbers(options: Mapping[str, Any]) -> dict[str, Any]:
    """Of a method's options: others may name files, which are those of one machine."""
    return {key: value for key, value in options.items() if type(value) in _NUMBERS}
