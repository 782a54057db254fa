"""What every file of a run is read as: keys that this version does not know are ignored."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from h1r.errors import UserError
from h1r.records import first_problem

Interval = tuple[float, float]


class Shape(BaseModel):
    """A part of a file."""

    model_config = ConfigDict(extra="ignore", frozen=True, populate_by_name=True)


Kind = TypeVar("Kind", bound=Shape)


def validated(kind: type[Kind], value: Any, path: Path) -> Kind:
    """The value as that shape; `UserError` names the file and what is wrong in it."""
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise UserError(f"{path}: {first_problem(error)}; delete the file and run its stage again") from None
