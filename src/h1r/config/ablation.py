"""The table of `h1r ablate`: variants of a recipe."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import Field, field_validator

from h1r.config.base import Section

BASE = "base"
"""What the recipe without a change is called."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,59}")


class AblationSection(Section):
    """Variants of the recipe that `h1r ablate` runs with every seed, and compares with the recipe as it is."""

    seeds: list[int] = Field(default=[0], min_length=1)
    """Each in place of the recipe's `seed`."""
    variants: dict[str, dict[str, Any]] = {}
    """Name -> the keys in which a variant differs, as in `small-groups = { rl.num_generations = 4 }`. A quoted key
    ("rl.rewards") sets a whole table."""
    until: Literal["eval_sft", "eval_rl", "scaling"] = "eval_rl"
    """The stage after which a run ends."""

    @field_validator("seeds")
    @classmethod
    def _once(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) < len(seeds):
            raise ValueError("a seed is named twice; runs with one seed are the same run")
        return seeds

    @field_validator("variants")
    @classmethod
    def _dotted(cls, variants: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        found = {}
        for name, changes in variants.items():
            if not _NAME.fullmatch(name) or name == BASE:
                raise ValueError(
                    f"a variant cannot be called {name!r}: take letters, digits, - and _, and not {BASE!r}"
                )
            flat = dict(_flattened(changes))
            if not flat:
                raise ValueError(f"the variant {name} changes nothing; give it a key, or remove it")
            if own := [key for key in flat if key.split(".")[0] in ("ablation", "seed", "name", "plugins")]:
                raise ValueError(f"the variant {name} cannot change {own[0]}; name a key of the experiment")
            found[name] = flat
        return found


def _flattened(changes: Mapping[str, Any], place: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and their values. A key that was written with dots, in quotes, has its value whole."""
    for key, value in changes.items():
        if isinstance(value, Mapping) and value and "." not in key:
            yield from _flattened(value, f"{place}{key}.")
        else:
            yield place + key, value
