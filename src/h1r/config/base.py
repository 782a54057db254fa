"""What every table of the recipe is, and the number types they share."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]


class Section(BaseModel):
    """A table of the recipe: frozen, with finite numbers; a key it does not know is an error.

    What stands under a key is for readers, and for `docs/reference/recipes.py`, which takes it from the source;
    pydantic would read all sources for it at each start (0.2 s).
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
