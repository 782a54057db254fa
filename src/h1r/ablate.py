"""Variants of a recipe, each run with several seeds: what does each part of it earn?

    for every seed:  base      curate -> sft -> pool -> rl -> eval_rl
                     variant                          `-> rl -> eval_rl      from the first stage that it changes

A variant takes the stages before that from the base run of its seed, by links to its directories: it differs in nothing
else, and costs what it changes. All runs are ordinary ones and go on where they were stopped.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from h1r import pipeline
from h1r.common.files import write_text
from h1r.common.prose import listing
from h1r.config import Recipe, load_recipe, resolve
from h1r.config.ablation import BASE, AblationSection
from h1r.errors import UserError
from h1r.run.changes import DIRECTORIES, NO_RESULT, among, differences, stages_of
from h1r.run.directory import Run

if TYPE_CHECKING:
    from h1r.report.ablation import Row
    from h1r.report.ablation import Run as Reported


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


def finished_trials(recipe: Recipe, directories: Sequence[Path]) -> tuple[list[Trial], list[str]]:
    """The runs of the recipe's variants in these directories that are finished, whatever their seeds, variant by
    variant, the base first; and of the others their names, with what keeps them out. Raises `UserError` where none is
    finished, and where one is in two directories."""
    names = [BASE, *recipe.ablation.variants]
    found: dict[str, Trial] = {}
    others: list[str] = []
    for directory in directories:
        runs = [path.name for path in directory.glob("*-seed*") if (path / "recipe.json").exists()]
        each = [
            (variant, int(seed)) for variant, _, seed in (name.rpartition("-seed") for name in runs) if seed.isdecimal()
        ]
        section = recipe.ablation.model_copy(
            update={"seeds": sorted({seed for variant, seed in each if variant in names})}
        )
        for trial in trials(recipe.model_copy(update={"ablation": section}), directory):
            name = trial.path.name
            if name in found:
                raise UserError(f"{name} is in {found[name].path.parent} and in {directory}; leave out one of them")
            if name not in runs:
                continue
            if pipeline.finished(Run(trial.path), recipe.ablation.until) is None:
                others.append(f"{name} (not finished)")
            elif key := _differs(trial):
                others.append(f"{name} (made with another {key})")
            else:
                found[name] = trial
    if not found:
        places, why = listing([str(directory) for directory in directories]), listing(others)
        raise UserError(
            f"no run of {recipe.name} in {places} can be shown{f': {why}' if why else ''}; finish them with "
            "`h1r ablate`, or name other directories"
        )
    return sorted(found.values(), key=lambda one: (names.index(one.variant), one.seed)), others


def _differs(trial: Trial) -> str | None:
    """A key in which the recipe that a run was made by differs from the trial's, of those that change results."""
    made = load_recipe(trial.path / "recipe.json").model_dump(mode="json")
    changed = differences(made, trial.recipe.model_dump(mode="json"))
    return next((key for key in changed if not among(key, NO_RESULT | {"threads"})), None)


def write_markdown(recipe: Recipe, finished: list[Trial], others: Sequence[str], command: str, file: Path) -> None:
    """A page of what is finished, for people who do not have the runs; nothing is written beside the runs."""
    from h1r.report.ablation import markdown_page

    reported = [_reported(recipe, trial) for trial in finished]
    write_text(file, markdown_page(recipe.name, reported, BASE, command, others))


def _reported(recipe: Recipe, trial: Trial) -> Reported:
    from h1r.report import collect
    from h1r.report.ablation import Run as Reported

    after = "sft" if recipe.ablation.until == "eval_sft" else "rl"
    return Reported(trial.variant, trial.seed, trial.changes, collect(trial.path), after)


def write_page(recipe: Recipe, planned: list[Trial], directory: Path) -> list[Row]:
    """Each run's report, directory/ablation.html and ablation.json. Returns a row for each variant."""
    from h1r.report import write_report
    from h1r.report.ablation import write_ablation

    for trial in planned:
        write_report(trial.path)
    runs = [_reported(recipe, trial) for trial in planned]
    return write_ablation(recipe.name, runs, BASE, directory / "ablation.html")
