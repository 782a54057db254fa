"""Variants of a recipe, each run with several seeds: what does each part of it earn?

    for every seed:  base      curate -> sft -> pool -> rl -> eval_rl
                     variant                          `-> rl -> eval_rl      from the first stage that it changes

A variant takes the stages before that from the base run of its seed, by links to its directories: it differs in nothing
else, and costs what it changes. All runs are ordinary ones and go on where they were stopped.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from h1r import pipeline
from h1r.config import Recipe, resolve
from h1r.config.ablation import BASE, AblationSection
from h1r.errors import UserError
from h1r.run.changes import DIRECTORIES, stages_of
from h1r.run.directory import Run

if TYPE_CHECKING:
    from h1r.report.ablation import Row


@dataclass(frozen=True)
class Trial:
    """One run of one variant. changes: dotted keys and values; none for the base."""

    variant: str
    seed: int
    recipe: Recipe
    path: Path
    changes: dict[str, Any] = field(default_factory=dict)

    @property
    def begins_with(self) -> str:
        """The first stage that the changes reach."""
        order = list(pipeline.STAGES)
        first = min((order.index(stages_of(key)[0]) for key in self.changes), default=0)
        return order[first]


def trials(recipe: Recipe, directory: Path) -> list[Trial]:
    """Every run, seed by seed, the base first. Raises `UserError` where there is no variant, where a variant has a key
    that no recipe has, and where it changes nothing before the last stage."""
    section = recipe.ablation
    if not section.variants:
        raise UserError(
            f"recipe {recipe.name} has no variants; give it a table [ablation.variants], as in "
            "`small-groups = { rl.num_generations = 4 }`"
        )
    found = []
    for seed in section.seeds:
        for variant, changes in {BASE: {}, **section.variants}.items():
            name = f"{variant}-seed{seed}"
            tree = recipe.model_copy(update={"name": name, "seed": seed, "ablation": AblationSection()})
            try:
                one = resolve(tree.model_dump(mode="json"), changes, variant)
            except UserError as wrong:
                raise UserError(f"the variant {variant}: {str(wrong).removeprefix('--set ')}") from None
            found.append(Trial(variant, seed, one, directory / name, changes))
    order = list(pipeline.STAGES)
    if late := [one for one in found if order.index(one.begins_with) > order.index(section.until)]:
        raise UserError(
            f"the variant {late[0].variant} changes nothing before {section.until}, the last stage; set ablation.until "
            "to a later one"
        )
    return found


def run_trials(planned: list[Trial], until: str) -> Iterator[tuple[Trial, str, bool]]:
    """Runs what is not finished: (trial, stage, whether it ran now)."""
    bases: dict[int, Run] = {}
    for trial in planned:
        run = Run.open(trial.path, trial.recipe, resume=True)
        if trial.variant == BASE:
            bases[trial.seed] = run
        else:
            take_over(bases[trial.seed], run, trial.begins_with)
        for stage, _, ran in pipeline.run_all(trial.recipe, run, until):
            yield trial, stage, ran


def take_over(base: Run, run: Run, before: str) -> None:
    """Gives a run the stages of another that come before `before`: links to what they made, copies of what they say."""
    for stage in pipeline.STAGES:
        if stage == before:
            return
        done = base.path / "done" / f"{stage}.json"
        if not done.exists() or pipeline.finished(run, stage) is not None:
            continue
        if stage in DIRECTORIES:
            made, place = base.path / DIRECTORIES[stage], run.path / DIRECTORIES[stage]
            if not place.exists():
                place.symlink_to(os.path.relpath(made, run.path), target_is_directory=True)
        else:
            for result in (base.path / "eval").glob(f"{stage.removeprefix('eval_')}.json"):
                shutil.copyfile(result, run.stage("eval") / result.name)
        shutil.copyfile(done, run.stage("done") / done.name)


def write_page(recipe: Recipe, planned: list[Trial], directory: Path) -> list[Row]:
    """Each run's report, directory/ablation.html and ablation.json. Returns a row for each variant."""
    from h1r.report import collect, write_report
    from h1r.report.ablation import Run as Reported
    from h1r.report.ablation import write_ablation

    after = "sft" if recipe.ablation.until == "eval_sft" else "rl"
    runs = []
    for trial in planned:
        write_report(trial.path)
        runs.append(Reported(trial.variant, trial.seed, trial.changes, collect(trial.path), after))
    return write_ablation(recipe.name, runs, BASE, directory / "ablation.html")
