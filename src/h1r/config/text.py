"""Recipes as text: one override from the command line, and a resolved recipe written back as TOML."""

from __future__ import annotations

import json
import re
import tomllib
from typing import Any

from h1r.config import Recipe
from h1r.errors import UserError

_INLINE = ("overrides", "knobs", "columns", "shares", "rewards", "parameters", "prices", "args", "roles")
_ROWS = ("sources", "benchmarks", "classifiers")


def parse_override(text: str) -> tuple[str, Any]:
    """`rl.steps=5` as ("rl.steps", 5). The value is TOML, or `unset`; another bare word is taken as a string."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UserError(f"`{text}` sets nothing; write key=value, as in rl.steps=5")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), None if value.strip() == "unset" else value.strip()


def to_toml(recipe: Recipe) -> str:
    """The resolved recipe as TOML that `load_recipe` reads back to the same recipe. Unset keys are comments."""
    return "\n".join(_table("", recipe.model_dump())) + "\n"


def _table(name: str, fields: dict[str, Any]) -> list[str]:
    plain = {k: v for k, v in fields.items() if (k in _INLINE or not isinstance(v, dict)) and k not in _ROWS}
    lines = ["", f"[{name}]"] if name and plain else []
    lines += [f"# {key} is unset" if value is None else f"{key} = {_value(value)}" for key, value in plain.items()]
    for key in [key for key in fields if key not in plain]:
        path = f"{name}.{key}" if name else key
        if key in _ROWS:
            for row in fields[key]:
                lines += ["", f"[[{path}]]", *(f"{k} = {_value(v)}" for k, v in row.items() if v is not None)]
        else:
            lines += _table(path, fields[key])
    return lines


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(key)} = {_value(item)}" for key, item in value.items() if item is not None) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    return repr(value) if isinstance(value, float) else _string(value)


def _key(key: str) -> str:
    return key if re.fullmatch("[A-Za-z0-9_-]+", key) else _string(key)


def _string(value: str | int | bool) -> str:
    """JSON and TOML write strings, integers and booleans alike but for the DEL character."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")
