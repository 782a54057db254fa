"""The command line: parse, call one room, print. Nothing is decided here that a room could decide.

A user's mistake is one sentence on standard error and exit code 2; Ctrl-C is one sentence that says how to go on and
exit code 130. Rooms are imported inside the commands, so that `h1r --help` needs no torch.
"""

from __future__ import annotations

import dataclasses
import importlib.resources
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from h1r import pipeline
from h1r.config import Recipe, load_recipe
from h1r.errors import UserError
from h1r.progress import quiet
from h1r.recipe_text import parse_override, to_toml
from h1r.run import Run

app = typer.Typer(
    help="Open-H1R: curate, fine-tune, reinforce and scale a hybrid reasoning model, and see what each step gains.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Target = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE", help="A recipe (TOML file, or the name of a built-in one such as `tiny`), or a run directory."
    ),
]
Checkpoint = Annotated[str, typer.Argument(help="A falcon_h1 checkpoint directory, a hub id, or a run directory.")]
Out = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Run directory. Default: runs/RECIPE-NAME.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one recipe key, as in rl.steps=5. Repeat."),
]
Seed = Annotated[int | None, typer.Option("--seed", help="The recipe's seed.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the resolved recipe and stop.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint of the run.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, and no progress.")]


class Pool(StrEnum):
    SFT = "sft"
    RL = "rl"


class Model(StrEnum):
    BASE = "base"
    SFT = "sft"
    RL = "rl"


class Dtype(StrEnum):
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT64 = "float64"


class StoppedError(Exception):
    """Ctrl-C, with the sentence that says how to go on."""


def main(argv: Sequence[str] | None = None) -> int:
    """The `h1r` program; returns its exit code or raises `SystemExit` with it."""
    try:
        app(args=None if argv is None else list(argv), prog_name="h1r")
    except UserError as error:
        print(f"h1r: {error}", file=sys.stderr)
        return 2
    except StoppedError as stop:
        print(f"\nh1r: stopped; {stop}", file=sys.stderr)
        return 130
    return 0


@app.command()
def demo(
    recipe: Annotated[str, typer.Argument(metavar="[RECIPE]", help="Default: the built-in `tiny`.")] = "tiny",
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Run directory. Default: runs/demo.")] = None,
    set_: Set = None,
    seed: Seed = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """The whole loop: curate, SFT, RL, test-time scaling, report. Finished stages are skipped, begun ones go on."""
    resolved, run = _open(
        recipe, Path("runs/demo") if out is None and recipe == "tiny" else out, set_, seed, dry_run, as_json
    )
    quiet(as_json)
    with _stopping(f"`h1r demo {recipe} --out {run.path}` with the same options goes on where it was"):
        for stage, _, ran in pipeline.run_all(resolved, run):
            print(f"{stage}: {'done' if ran else 'already done'}", file=sys.stderr)
        _print_report(run.path, as_json)


@app.command()
def curate(
    recipe: Target,
    pool: Annotated[
        Pool, typer.Option(help="`rl` selects RL problems by pass rate; the SFT model must exist.")
    ] = Pool.SFT,
    out: Out = None,
    set_: Set = None,
    seed: Seed = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Make problems and traces, verify and filter them; say what was dropped and why."""
    resolved, run = _open(recipe, out, set_, seed, dry_run, as_json)
    summary = _run_stage("pool" if pool is Pool.RL else "curate", resolved, run, False, as_json, resumable=False)
    if as_json:
        _print_json(summary)
    else:
        from rich.console import Console

        from h1r.data.curate import summary_table

        Console().print(summary_table(summary))
        print(f"wrote {run.path}")


@app.command()
def sft(
    recipe: Target,
    out: Out = None,
    set_: Set = None,
    seed: Seed = None,
    resume: Resume = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Supervised fine-tuning on the curated traces."""
    _train("sft", recipe, out, set_, seed, resume, dry_run, as_json)


@app.command()
def rl(
    recipe: Target,
    out: Out = None,
    set_: Set = None,
    seed: Seed = None,
    resume: Resume = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Reinforcement learning (GRPO) from the SFT model. Selects the RL problems first when that was not done."""
    _train("rl", recipe, out, set_, seed, resume, dry_run, as_json)


@app.command("eval")
def eval_(
    recipe: Target,
    model: Annotated[
        list[Model] | None,
        typer.Option("--model", help="Which model of the run. Repeat. Default: all that exist."),
    ] = None,
    scaling: Annotated[bool, typer.Option(help="Also majority and DeepConf at the recipe's budgets.")] = True,
    out: Out = None,
    set_: Set = None,
    seed: Seed = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Held-out accuracy: pass@1 with intervals, majority and DeepConf, and the tokens each spent."""
    resolved, run = _open(recipe, out, set_, seed, dry_run, as_json)
    from h1r.evals.stages import models_of

    existing = models_of(run)
    stages = [f"eval_{which}" for which in model or existing] + ["scaling"] * (scaling and existing != ["base"])
    results = {stage: _run_stage(stage, resolved, run, False, as_json, resumable=False) for stage in stages}
    if as_json:
        _print_json(results)
    else:
        _print_report(run.path, as_json)


@app.command()
def generate(
    checkpoint: Checkpoint,
    prompt: Annotated[list[str], typer.Option("--prompt", "-p", help="A question. Repeat for more.")],
    n: Annotated[int, typer.Option("-n", min=1, help="Traces per question.")] = 1,
    temperature: Annotated[float, typer.Option(min=0, help="0 is greedy.")] = 0.6,
    top_p: Annotated[float, typer.Option(min=0.001, max=1)] = 1.0,
    max_tokens: Annotated[int, typer.Option(min=1)] = 512,
    seed: Annotated[int, typer.Option()] = 0,
    as_json: AsJson = False,
) -> None:
    """Answer questions on the terminal."""
    quiet(as_json)
    from h1r.engine.protocol import SamplingParams
    from h1r.evals.answers import generate as answer

    params = SamplingParams(n=n, temperature=temperature, top_p=top_p, max_tokens=max_tokens, seed=seed)
    with _stopping("run it again"):
        traces = answer(checkpoint, prompt, params)
    if as_json:
        _print_json([dataclasses.asdict(trace) for trace in traces])
        return
    for trace in traces:
        if len(traces) > 1:
            print(f"--- question {trace.prompt_index + 1}, trace {trace.sample_index + 1} ---")
        print(trace.text)
        print(f"[{trace.num_tokens} tokens, ended by {trace.finish_reason}]", file=sys.stderr)


@app.command()
def solve(
    checkpoint: Checkpoint,
    question: Annotated[str, typer.Argument(metavar="QUESTION|FILE.jsonl", help="A question, or a file of problems.")],
    recipe: Annotated[
        str | None, typer.Option(help="Recipe whose [scaling] and [engine] apply. Default: that of the run.")
    ] = None,
    set_: Set = None,
    seed: Annotated[int, typer.Option()] = 0,
    as_json: AsJson = False,
) -> None:
    """Answer with DeepConf: many traces, the doubtful ones cut short, the rest voting by confidence."""
    quiet(as_json)
    from h1r.evals.answers import recipe_of
    from h1r.evals.answers import solve as answer

    overrides = dict(map(parse_override, set_ or []))
    resolved = load_recipe(_recipe_file(recipe), overrides) if recipe else recipe_of(checkpoint, overrides)
    with _stopping("run it again"):
        solutions = answer(checkpoint, question, resolved, seed)
    if as_json:
        _print_json([dataclasses.asdict(solution) for solution in solutions])
        return
    for solution in solutions:
        print(solution.lines())


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="PAGE", help="The page of two or more. Default: runs/comparison.html."),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also save the main plot of one run; the suffix is the format.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write report.html and report.json of a run, or one page that compares several."""
    if plot is not None:
        if len(runs) != 1:
            raise UserError(f"--plot shows one run, but {len(runs)} were named; leave one")
        from h1r.evals.report import save_main_plot

        save_main_plot(runs[0], plot)
    if len(runs) == 1:
        _print_report(runs[0], as_json, out)
        return
    from h1r.evals.report import write_comparison

    page = write_comparison(runs, out or Path("runs/comparison.html"))
    print(page.with_suffix(".json").read_text(encoding="utf-8") if as_json else f"report: {page}")


@app.command()
def parity(
    name: Annotated[
        str,
        typer.Argument(
            metavar="CHECKPOINT_OR_PRESET",
            help="A falcon_h1 checkpoint directory, a hub id, or a preset, which gets random weights.",
        ),
    ],
    only: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="One check, or all that begin with this word. Repeat.")
    ] = None,
    dtype: Annotated[Dtype, typer.Option(help="Of weights and arithmetic. Tolerances go with it.")] = Dtype.FLOAT32,
    device: Annotated[str | None, typer.Option(help="Default: cuda where there is any, else cpu.")] = None,
    kernels: Annotated[str, typer.Option(help="auto, reference, torch, native or triton.")] = "auto",
    layers: Annotated[int | None, typer.Option(help="Check only the first so many layers.")] = None,
    tokens: Annotated[int | None, typer.Option(help="Default: three chunks of the model's scan.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of inputs and random weights.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Is the model exact here? Packed, padded, cached, saved, reloaded, in other implementations, over processes."""
    quiet(as_json)
    from h1r.parity import run

    with _stopping("run it again"):
        found = run(
            name, only=only or (), dtype=dtype.value, device=device, kernels=kernels, layers=layers, tokens=tokens,
            seed=seed, announce=None if as_json else print,
        )  # fmt: skip
    if as_json:
        _print_json(found.to_json())
    else:
        from rich.console import Console

        Console().print(found.table())
        print(found.summary())
    if not found.passed:
        raise typer.Exit(1)


def _train(
    stage: str,
    target: str,
    out: Path | None,
    set_: list[str] | None,
    seed: int | None,
    resume: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    resolved, run = _open(target, out, set_, seed, dry_run, as_json)
    if stage == "rl" and pipeline.finished(run, "pool") is None:
        _run_stage("pool", resolved, run, False, as_json, resumable=False)
    summary = _run_stage(stage, resolved, run, resume, as_json, resumable=True)
    if as_json:
        _print_json(summary)
    else:
        print(f"{stage} is finished; the model is {run.path / stage / 'model'}")


def _run_stage(stage: str, recipe: Recipe, run: Run, resume: bool, as_json: bool, resumable: bool) -> dict[str, Any]:
    quiet(as_json)
    how = f"`h1r {stage} --resume {run.path}` goes on" if resumable else "run it again; what was finished is kept"
    with _stopping(how):
        return pipeline.run_stage(stage, recipe, run, resume)


def _open(
    target: str, out: Path | None, set_: list[str] | None, seed: int | None, dry_run: bool, as_json: bool
) -> tuple[Recipe, Run]:
    """The resolved recipe and its run directory. A run directory stands for its own recipe. A dry run ends here."""
    overrides = dict(map(parse_override, set_ or []))
    if seed is not None:
        overrides["seed"] = seed
    directory = Path(target)
    if directory.is_dir():
        recipe, default = load_recipe(directory / "recipe.json", overrides), directory
    else:
        recipe = load_recipe(_recipe_file(target), overrides)
        default = Path("runs") / recipe.name
    if dry_run:
        print(recipe.model_dump_json(indent=1) if as_json else to_toml(recipe).rstrip())
        raise typer.Exit()
    return recipe, Run.open(out or default, recipe)


def _recipe_file(name: str) -> Path:
    """A path as it is; a bare name that is no file is looked up among the recipes that ship with the package."""
    path = Path(name)
    builtin = Path(str(importlib.resources.files("h1r"))) / "recipes"
    if path.exists() or path.suffix or len(path.parts) != 1:
        return path
    if (found := builtin / f"{name}.toml").exists():
        return found
    names = ", ".join(sorted(file.stem for file in builtin.glob("*.toml")))
    raise UserError(f"no recipe {name}: neither a file nor one of the built-in ones ({names}); check the name")


@contextmanager
def _stopping(how_to_go_on: str) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        raise StoppedError(how_to_go_on) from None


def _print_report(run: Path, as_json: bool, out: Path | None = None) -> None:
    from h1r.evals.report import write_report

    page = write_report(run, out)
    numbers = json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))
    if as_json:
        _print_json(numbers)
    else:
        from rich.console import Console

        from h1r.evals.summary import result_table

        table = result_table(numbers)
        if table.row_count:
            Console().print(table)
        print(f"report: {page}")


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    sys.exit(main())
