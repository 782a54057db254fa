"""What a process of the cluster has to know before it can work for a run."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch

from h1r.common.progress import quiet
from h1r.config import Recipe
from h1r.run.directory import Run


@dataclass(frozen=True)
class Setting:
    """recipe: as JSON. run: its directory, which every node sees. here: the controller's working directory, and path
    where it finds modules, for names in the recipe that are relative to them."""

    recipe: str
    run: str
    here: str = field(default_factory=os.getcwd)
    path: list[str] = field(default_factory=lambda: list(sys.path))

    @classmethod
    def of(cls, recipe: Recipe, run: Run) -> Setting:
        """That of this process."""
        return cls(recipe.model_dump_json(), str(run.path.resolve()))

    def enter(self) -> tuple[Recipe, Run]:
        """Makes this process one of the run; the thread that computes calls it."""
        quiet()
        if Path(self.here).is_dir():
            os.chdir(self.here)
        sys.path += [entry for entry in self.path if entry not in sys.path]
        recipe = Recipe.model_validate_json(self.recipe)
        if recipe.threads:
            torch.set_num_threads(recipe.threads)
        return recipe, Run(Path(self.run))
