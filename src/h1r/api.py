"""The stages of a run as functions: what `h1r curate`, `sft`, `rl` and `eval` do, from Python.

    import h1r

    h1r.curate("recipe.toml", out="runs/mine")
    h1r.sft("recipe.toml", out="runs/mine")

`recipe` is a `Recipe`, a TOML file, or a run directory, which stands for its own recipe and is then `out`, too; `out`
is the run directory, by default runs/NAME. Each returns the summary that `h1r COMMAND --json` prints. `UserError` for a
mistake in the recipe, and for a stage whose input is missing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from h1r.config import Recipe, load_recipe
from h1r.pipeline import Summary, finished, run_stage
from h1r.run.directory import Run

RecipeLike = Recipe | str | Path


def curate(recipe: RecipeLike, out: str | Path | None = None) -> Summary:
    """Makes problems and worked traces, verifies and filters them, and writes OUT/curate."""
    return run_stage("curate", *_opened(recipe, out))


def sft(recipe: RecipeLike, out: str | Path | None = None, resume: bool = False) -> Summary:
    """Supervised fine-tuning on what `curate` wrote; the model is OUT/sft/model."""
    return run_stage("sft", *_opened(recipe, out, resume), resume)


def rl(recipe: RecipeLike, out: str | Path | None = None, resume: bool = False) -> Summary:
    """Reinforcement learning from the SFT model; selects the RL problems first. The model is OUT/rl/model."""
    opened, run = _opened(recipe, out, resume)
    if finished(run, "pool") is None:
        run_stage("pool", opened, run)
    return run_stage("rl", opened, run, resume)


def evaluate(recipe: RecipeLike, out: str | Path | None = None, model: Literal["base", "sft", "rl"] = "rl") -> Summary:
    """Accuracy of a model of the run on the held-out problems and the recipe's benchmarks."""
    return run_stage(f"eval_{model}", *_opened(recipe, out))


def _opened(recipe: RecipeLike, out: str | Path | None, resume: bool = False) -> tuple[Recipe, Run]:
    if not isinstance(recipe, Recipe):
        path = Path(recipe)
        if path.is_dir():
            out, path = out or path, path / "recipe.json"
        recipe = load_recipe(path)
    return recipe, Run.open(out or Path("runs") / recipe.name, recipe, resume)
