"""Commands that run stages of a recipe: demo, curate, sft, rl."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from h1r.cli.common import (
    AsJson,
    Columns,
    DryRun,
    Gpus,
    Out,
    Resume,
    Seed,
    Set,
    Target,
    finite,
    of_runs,
    open_run,
    parse_columns,
    print_json,
    print_report,
    resolved_recipe,
    stopping,
)
from h1r.common.progress import note, quiet, saying_once
from h1r.common.prose import counted
from h1r.common.terminal import shown, shown_json
from h1r.common.torch_ahead import begin_loading
from h1r.errors import UserError

if TYPE_CHECKING:
    from h1r.ablate import Trial
    from h1r.config import Recipe
    from h1r.run.directory import Run


class Pool(StrEnum):
    SFT = "sft"
    RL = "rl"


def demo(
    recipe: Annotated[str, typer.Argument(metavar="[RECIPE]", help="A recipe. Default: the built-in `tiny`.")] = "tiny",
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Run directory. Default: runs/demo.")] = None,
    set_: Set = None,
    seed: Seed = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Run all stages: curate, SFT, RL, test-time scaling, report. Finished stages are skipped, begun ones go on."""
    out = Path("runs/demo") if out is None and recipe == "tiny" else out
    resolved, run = open_run(recipe, out, set_, seed, dry_run, as_json, resume=True)
    from h1r import pipeline

    quiet(as_json)
    with stopping(
        f"`h1r demo {quote(recipe)} --out {quote(str(run.path))}` with the same options goes on where it was"
    ):
        with saying_once():
            for stage, _, ran in pipeline.run_all(resolved, run):
                note(f"{stage}: {'done' if ran else 'already done'}")
        print_report(run.path, as_json)


def ablate(
    recipe: Target,
    out: Out = None,
    set_: Set = None,
    markdown: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Run nothing: write a page (Markdown) of the runs that are finished."),
    ] = None,
    runs: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="Where --markdown finds runs, in the place of --out; may be given again."),
    ] = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Run the variants of a recipe, with each of its seeds. Says what each earns and costs. Finished runs are
    skipped, begun ones go on."""
    from h1r import ablate as ablation

    resolved, directory = resolved_recipe(recipe, set_, None)
    directory = out or directory or of_runs(resolved.name)
    if runs and markdown is None:
        raise UserError("--runs names runs for a page; give --markdown FILE, too, or --out DIR for one to run in")
    if markdown is not None:
        finished, others = ablation.finished_trials(resolved, runs or [directory])
        command = f"h1r ablate {quote(recipe)} --markdown {quote(str(markdown))}"
        ablation.write_markdown(resolved, finished, others, command, markdown)
        print(f"page: {markdown} ({counted(len(finished), 'run')}, {len(others)} left out)")
        return
    planned = ablation.trials(resolved, directory)
    if dry_run:
        print_plan(planned, as_json)
        return
    quiet(as_json)
    with stopping(
        f"`h1r ablate {quote(recipe)} --out {quote(str(directory))}` with the same options goes on where it was"
    ):
        with saying_once():
            for trial, stage, ran in ablation.run_trials(planned, resolved.ablation.until):
                if ran:
                    note(f"{trial.path.name}, {stage}: done")
        rows = ablation.write_page(resolved, planned, directory)
    if as_json:
        print(shown_json((directory / "ablation.json").read_text(encoding="utf-8")))
        return
    from rich.console import Console

    from h1r.report.ablation import ablation_table

    Console().print(ablation_table(rows))
    print(f"report: {directory / 'ablation.html'}")


def print_plan(planned: Sequence[Trial], as_json: bool) -> None:
    """Each run of an ablation, and the stage that it begins with."""
    if as_json:
        print_json([{"run": str(one.path), "begins_with": one.begins_with, "changes": one.changes} for one in planned])
        return
    for one in planned:
        changes = ", ".join(f"{key} = {value!r}" for key, value in one.changes.items())
        print(shown(f"{one.path}: from {one.begins_with} on{f', {changes}' if changes else ''}"))


def curate(
    recipe: Target,
    pool: Annotated[
        Pool, typer.Option(help="`rl` selects RL problems by pass rate; the SFT model must exist.")
    ] = Pool.SFT,
    ask_again: Annotated[
        bool,
        typer.Option("--ask-again", help="Ask the teacher again for the problems that it refused or failed at."),
    ] = False,
    out: Out = None,
    set_: Set = None,
    seed: Seed = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Make problems and traces, verify and filter them. What was dropped is listed with its reason."""
    resolved, run = open_run(recipe, out, set_, seed, dry_run, as_json)
    if ask_again:
        from h1r.data.curate.plan import ask_teacher_again

        note(f"asked again: {counted(ask_teacher_again(run.stage('curate')), 'problem')}")
    summary = run_stage("pool" if pool is Pool.RL else "curate", resolved, run, False, as_json, resumable=False)
    if as_json:
        print_json(summary)
    else:
        from rich.console import Console

        from h1r.data.curate.plan import summary_table

        Console().print(summary_table(summary))
        print(f"wrote {run.path}")


SFT_ON_FILE = {
    "sft.batch_size": 4,
    "sft.micro_batch_size": 1,
    "sft.seq_len": 4096,
    "eval.max_tokens": 4096,
}
"""What `h1r sft FILE` sets whatever it trains: a step of 16 thousand tokens. Our choice."""

SMALL = 10_000_000
"""Parameters below which `h1r sft FILE` takes a hundred times the learning rate. Our choice."""


def _sft_on_file(checkpoint: Path, on_cards: bool) -> dict[str, Any]:
    """The keys of `h1r sft FILE`, by the model that it trains.

    Weights are kept in fp32, since steps this small change none that is stored in bfloat16; cards compute in bfloat16,
    as the paper does, and CPUs in fp32, which their kernels take. The learning rate is the paper's times the root of
    what the step is of the paper's 19 million tokens, of a small model more. Our choice."""
    from safetensors import safe_open

    count = 0
    for path in checkpoint.glob("*.safetensors"):
        with safe_open(path, "np") as file:
            count += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    if not on_cards:
        import torch

        on_cards = torch.cuda.is_available()
    return {
        **SFT_ON_FILE,
        "sft.compute_dtype": "bfloat16" if on_cards else "float32",
        "sft.optimizer.learning_rate": 3e-3 if 0 < count < SMALL else 3e-5,
    }


def _asked_as(checkpoint: str) -> dict[str, Any]:
    """The keys of how a checkpoint is sampled and has its traces vote, as far as it says: what is trained on from it is
    asked in the same way. Answers of the file may be longer than its own."""
    from h1r.evals.answers import positions_of, sampling_of
    from h1r.run.directory import model_directory, stored_defaults

    sampling, scaling = sampling_of(checkpoint), stored_defaults(checkpoint).get("scaling")
    found: dict[str, Any] = {f"eval.{key}": sampling[key] for key in ("temperature", "top_p") if key in sampling}
    longest = SFT_ON_FILE["eval.max_tokens"]
    if (positions := positions_of(model_directory(checkpoint))) is not None:
        longest = min(longest, positions // 2)
        found["eval.max_tokens"] = longest
    if isinstance(scaling, dict):
        found["scaling"] = {**scaling, "max_tokens": max(longest, scaling.get("max_tokens", longest))}
    return found


def sft(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE|FILE",
            help="A recipe, a run directory, or, with --model, a file of conversations or of questions and answers "
            "(.jsonl, .json, .csv, .parquet).",
        ),
    ],
    model: Annotated[
        str | None, typer.Option("--model", metavar="CHECKPOINT", help="Fine-tune this checkpoint or run's model.")
    ] = None,
    columns: Columns = None,
    out: Out = None,
    set_: Set = None,
    seed: Seed = None,
    resume: Resume = False,
    dry_run: DryRun = False,
    gpus: Gpus = None,
    tokens: Annotated[
        float | None,
        typer.Option(
            "--tokens",
            callback=finite,
            min=1,
            metavar="N",
            help="With --gpus: of the data, as in 30e9, for the run's time.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Fine-tune on curated traces, or on a file as it is."""
    from h1r.data.file_kinds import format_of
    from h1r.data.own import check_conversations
    from h1r.run.directory import model_directory

    keys: dict[str, Any] = {}
    target: str | dict[str, Any] = recipe
    if model is not None:
        keys = {"model.checkpoint": str(model_directory(model)), "model.preset": None}
    if not Path(recipe).is_dir() and (Path(recipe).name != "recipe.json" and format_of(recipe)):
        if model is None:
            raise UserError(f"{recipe} is a file of data; say what to fine-tune on it, as in --model CHECKPOINT")
        if not Path(recipe).is_file():
            raise UserError(f"no file {recipe}; check the path")
        target = {"name": Path(recipe).name.split(".")[0] or "sft"}
        mapping = parse_columns(columns)
        check_conversations(Path(recipe), mapping)
        quiet(as_json)
        begin_loading(model)
        keys |= _sft_on_file(model_directory(model), on_cards=gpus is not None)
        keys |= _asked_as(model)
        keys |= {"sft.data": recipe, "sft.columns": mapping}
    elif columns:
        raise UserError("--columns is for a file of data; in a recipe they are sft.columns or those of a source")
    if gpus is not None:
        _plan("sft", target, gpus, set_, seed, dry_run, as_json, keys, tokens)
    elif tokens is not None:
        raise UserError("--tokens is for the plan of a run; give --dry-run --gpus too")
    _train("sft", target, out, set_, seed, resume, dry_run, as_json, keys)


def rl(
    recipe: Target,
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="CHECKPOINT", help="Start from this checkpoint, not from the run's SFT model."),
    ] = None,
    problems: Annotated[
        str | None,
        typer.Option(
            "--problems", metavar="FILE.jsonl", help="Train on these problems, not on the run's curated ones."
        ),
    ] = None,
    out: Out = None,
    set_: Set = None,
    seed: Seed = None,
    resume: Resume = False,
    dry_run: DryRun = False,
    gpus: Gpus = None,
    as_json: AsJson = False,
) -> None:
    """Reinforcement learning (GRPO) from the SFT model. Selects the RL problems first when that was not done."""
    given = {"rl.checkpoint": model, "rl.problems": problems}
    set_ = [*(f"{key}={json.dumps(value)}" for key, value in given.items() if value is not None), *(set_ or [])]
    if gpus is not None:
        _plan("rl", recipe, gpus, set_, seed, dry_run, as_json)
    _train("rl", recipe, out, set_, seed, resume, dry_run, as_json)


def _plan(
    stage: Literal["sft", "rl"],
    target: str | dict[str, Any],
    gpus: str,
    set_: list[str] | None,
    seed: int | None,
    dry_run: bool,
    as_json: bool,
    keys: Mapping[str, Any] | None = None,
    tokens: float | None = None,
) -> None:
    """Prints what the stage needs of the cards, and ends the command."""
    from h1r.train.plan.cards import parse_cards

    cards = parse_cards(gpus)
    if not dry_run:
        raise UserError("--gpus plans a run without starting it; give --dry-run too")
    from h1r.train.plan.plan import plan, told
    from h1r.train.plan.run_time import documents_at_hand, run_time

    recipe, directory = resolved_recipe(target, set_, seed, keys)
    made, run = plan(recipe, stage, cards), None
    if made.fits:
        documents = documents_at_hand(recipe, directory) if stage == "sft" and tokens is None else None
        run = run_time(recipe, made, documents, tokens)
    if as_json:
        print_json({**made.as_json(), "run": run and run.as_json()})
    else:
        print("\n".join(told(made, run.told() if run else ())))
    raise typer.Exit(0 if made.fits else 1)


def _train(
    stage: str,
    target: str | dict[str, Any],
    out: Path | None,
    set_: list[str] | None,
    seed: int | None,
    resume: bool,
    dry_run: bool,
    as_json: bool,
    keys: Mapping[str, Any] | None = None,
) -> None:
    from h1r import pipeline

    resolved, run = open_run(target, out, set_, seed, dry_run, as_json, keys, resume)
    if stage == "rl" and pipeline.finished(run, "pool") is None:
        run_stage("pool", resolved, run, False, as_json, resumable=False)
    summary = run_stage(stage, resolved, run, resume, as_json, resumable=True)
    if as_json:
        print_json(summary)
    else:
        print(f"{stage} is finished; the model is {run.path / stage / 'model'}")


def run_stage(
    stage: str, recipe: Recipe, run: Run, resume: bool, as_json: bool, resumable: bool, partial: bool = False
) -> dict[str, Any]:
    from h1r import pipeline

    quiet(as_json)
    how = f"`h1r {stage} --resume {run.path}` goes on" if resumable else "run it again; what was finished is kept"
    with stopping(how):
        return pipeline.run_stage(stage, recipe, run, resume, partial)
