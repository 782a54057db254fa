"""The command `eval`: a run's models, a checkpoint, or a model behind an API."""

from __future__ import annotations

import re
import textwrap
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from h1r.cli.common import (
    AsJson,
    Columns,
    DryRun,
    Out,
    Seed,
    Set,
    checkpoint_of,
    of_runs,
    open_run,
    parse_columns,
    print_json,
    print_report,
    resolved_recipe,
)
from h1r.cli.stages import run_stage
from h1r.common.progress import note
from h1r.common.terminal import shown
from h1r.common.torch_ahead import begin_loading
from h1r.errors import UserError
from h1r.run.names import checkpoint_name

if TYPE_CHECKING:
    from h1r.config import EvalSection, Recipe
    from h1r.run.directory import Run

MODELS = ("base", "sft", "rl")
CHOICE = (
    "Answer this multiple choice question. End with one line of the form `Answer: X`, where X is a letter."
    "\n\n{question}\n\n{options}"
)
BOXED = "{question}\n\nPlease reason step by step, and put your final answer within \\boxed{}."


def eval_(
    recipe: Annotated[
        str | None,
        typer.Argument(
            metavar="[RECIPE|CHECKPOINT]",
            help="A recipe, a run directory, or, with --benchmark, a checkpoint (directory or hub id).",
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            metavar="NAME",
            help="base, sft, rl: models of the run (repeat; default: all that exist). Or a checkpoint, or with --url "
            "the name of a model there.",
        ),
    ] = None,
    benchmark: Annotated[
        list[str] | None,
        typer.Option(
            "--benchmark",
            metavar="FILE",
            help="Problems with answers (.jsonl, .json, .csv, .parquet), or a TOML file with [[eval.benchmarks]]. In "
            "place of the recipe's. Repeat.",
        ),
    ] = None,
    columns: Columns = None,
    prompt: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="What the model is asked for a --benchmark of problems, with {question} in it. Default: as it was "
            "asked in training, where its checkpoint says so; else the question, and a request to reason and to box "
            "the answer.",
        ),
    ] = None,
    url: Annotated[
        list[str] | None,
        typer.Option(
            "--url", metavar="URL", help="Ask an OpenAI-compatible API here, with its /v1. Repeat for several servers."
        ),
    ] = None,
    key_variable: Annotated[
        str | None, typer.Option("--key-variable", metavar="NAME", help="Environment variable that holds its key.")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="NAME", help="Only this benchmark. Repeat.")
    ] = None,
    without: Annotated[
        list[str] | None, typer.Option("--without", metavar="NAME", help="All benchmarks but this one. Repeat.")
    ] = None,
    limit: Annotated[
        int, typer.Option(min=0, metavar="N", help="Only the first N problems of each benchmark; 0: all.")
    ] = 0,
    scaling: Annotated[bool, typer.Option(help="Also majority and scaling.method at its budgets.")] = True,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="As for sft and rl; an evaluation goes on where it stopped without it, too."),
    ] = False,
    out: Out = None,
    set_: Set = None,
    seed: Seed = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Measure accuracy on held-out problems and benchmarks.

    Reports pass@1 with intervals, majority voting and DeepConf (or another scaling.method), and the tokens that each
    spent.
    """
    sampling: dict[str, Any] = {}
    directory, given = None, recipe
    named = [one for one in model or [] if one not in MODELS]
    if recipe is not None and (directory := checkpoint_of(recipe)):
        if not benchmark:
            raise UserError(f"{recipe} is a checkpoint; say what to ask it, as in --benchmark FILE.jsonl")
        if model:
            raise UserError(f"{recipe} is a checkpoint, and so is --model {model[0]}; name one")
        recipe, named = None, [directory]
    stages = [one for one in model or [] if one in MODELS]
    if recipe is None and not ((named or url) and benchmark):
        raise UserError("give a recipe, or a checkpoint and --benchmark, as in `h1r eval CHECKPOINT --benchmark FILE`")
    mapping = parse_columns(columns)
    tables = [table for file in benchmark or [] for table in tables_of(file, mapping, prompt)]
    if directory:
        if not as_json:
            begin_loading(given or directory)
        from h1r.evals.answers import sampling_of
        from h1r.run.directory import stored_defaults

        sampling = {f"eval.{key}": value for key, value in sampling_of(directory).items()}
        if isinstance(votes_as := stored_defaults(directory).get("scaling"), dict):
            sampling["scaling"] = votes_as
    keys = {
        **sampling,
        **_model_keys(named, stages, url),
        **({"engine.key_variable": key_variable} if key_variable else {}),
    }
    if benchmark:
        keys["eval.benchmarks"] = tables
        asked = None if url else named[0] if named else _asked_of(recipe, out, set_, keys)
        if asked and not prompt and (own := _own_prompt(asked)):
            keys["eval.benchmarks"] = [table for file in benchmark for table in tables_of(file, mapping, own=own)]
    elif columns or prompt:
        raise UserError(f"{'--columns' if columns else '--prompt'} is for a --benchmark FILE of problems; give one")
    target = recipe or {"name": _run_name(named[0] if named else "endpoint")}
    resolved, run = open_run(target, out, set_, seed, dry_run, as_json, keys, resume)
    partial = bool(only or without or limit)
    with run.leaving_nothing():
        resolved = resolved.model_copy(update={"eval": part_of(resolved.eval, only or [], limit, without or [])})
    alone = resolved.engine.kind == "endpoint"
    existing = ["base"] if alone else _models_of(resolved, run)
    todo = [f"eval_{which}" for which in stages or existing]
    votes = scaling and not partial and not alone and existing != ["base"]
    todo += ["scaling"] * (votes and not (resolved.eval.benchmarks and _lacks_held_out(resolved, run)))
    results = {one: run_stage(one, resolved, run, False, as_json, resumable=False, partial=partial) for one in todo}
    if as_json:
        print_json(results)
    else:
        _print_tables(resolved, run, results)
        print_report(run.path, as_json)
    if any(result.get("unfinished") for result in results.values()):
        raise typer.Exit(1)


def _lacks_held_out(recipe: Recipe, run: Run) -> bool:
    """Whether nothing was curated for the run, as for one of `h1r sft FILE`: votes are of held-out problems."""
    from h1r.train.start import data_directory

    return not (data_directory(recipe, run) / "held_out.jsonl").exists()


def _models_of(recipe: Recipe, run: Run) -> list[str]:
    """The models of a run that can be asked. RL from a checkpoint has no base model of its own: nothing says what
    tokenizer it would have."""
    named = recipe.model.checkpoint or recipe.tokenizer.path or recipe.sft.leading_data
    has_base = bool(named) or (run.path / "curate" / "tokenizer").is_dir()
    trained = run.models()
    return trained if trained and not has_base else ["base", *trained]


def _run_name(model: str) -> str:
    """A run's name from that of a model: of a path its last three parts, as in `demo-rl-model`; `h1r-small` of the
    package's own."""
    path = Path(model).expanduser()
    named = checkpoint_name(str(path.resolve())) if path.is_dir() else model
    return re.sub(r"[^\w.-]+", "-", named).strip("-.") or "model"


def _model_keys(named: Sequence[str], stages: Sequence[str], url: Sequence[str] | None) -> dict[str, Any]:
    """Recipe keys that say whose model is asked."""
    if len(named) > 1 or (named and stages):
        raise UserError(f"--model {named[-1]} is no model of a run, so it stands alone; evaluate one after the other")
    if url:
        found: dict[str, Any] = {"engine.kind": "endpoint", "engine.urls": list(url), "engine.url": None}
        return found | ({"engine.endpoint.model": named[0]} if named else {})
    return {"model.checkpoint": named[0]} if named else {}


def part_of(section: EvalSection, only: Sequence[str], limit: int, without: Sequence[str] = ()) -> EvalSection:
    """The benchmarks, and sets of prompts, called `only` (empty: all) and not in `without`, and the first `limit`
    problems of each (0: all) under a name of their own; held-out problems are left out where it is a part. `UserError`
    for a name that is not there, and where no benchmark is left."""
    names = [one.name for one in (*section.benchmarks, *section.safety)]
    if missing := [one for one in (*only, *without) if one not in names]:
        raise UserError(f"no benchmark is called {missing[0]}; there are {', '.join(names) or 'none'}")
    kept: dict[str, list[Any]] = {}
    for key, rows in (("benchmarks", section.benchmarks), ("safety", section.safety)):
        kept[key] = [one for one in rows if (not only or one.name in only) and one.name not in without]
        if limit:
            first = {"limit": limit, "expect": 0}
            kept[key] = [one.model_copy(update={**first, "name": f"{one.name}-first{limit}"}) for one in kept[key]]
    whole = not (only or without or limit)
    if not whole and not any(kept.values()):
        raise UserError(
            "no benchmark is left; name fewer with --without"
            if names
            else "--limit, --only and --without take a part of benchmarks, and the recipe has none; give --benchmark"
        )
    return section.model_copy(update={**kept, "held_out": section.held_out and whole})


def _asked_of(target: str | None, out: Path | None, set_: list[str] | None, keys: Mapping[str, Any]) -> str | None:
    """Whom a recipe or a run directory has asked: the model trained last in its run, before that the checkpoint that
    training begins with; None without one."""
    from h1r.run.directory import Run

    if target is None:
        return None
    recipe, directory = resolved_recipe(target, set_, None, keys)
    run = Run(out or directory or of_runs(recipe.name))
    checkpoint = None if recipe.engine.kind == "endpoint" else recipe.model.checkpoint
    return str(run.path) if run.models() else checkpoint


def _own_prompt(model: str) -> str | None:
    """What the training of a checkpoint, or of the model trained last in a run, asked its problems in; said."""
    from h1r.run.directory import prompt_of

    path = Path(model).expanduser()
    if found := prompt_of(str(path) if path.is_dir() else model):
        note(f"asked as in training: {textwrap.shorten(shown(found), 200)} (--prompt asks otherwise)")
    return found


def tables_of(
    file: str, columns: Mapping[str, str] | None = None, prompt: str | None = None, own: str | None = None
) -> list[dict[str, Any]]:
    """The `[[eval.benchmarks]]` of a TOML file, or one that reads a file of problems, whose columns are those given, or
    have usual names. own: what the model asks its problems in where `prompt` is not given."""
    from h1r.data.curate.io.read import expand
    from h1r.data.file_kinds import format_of, plain_name
    from h1r.data.own import columns_of, options_column

    path = Path(expand(file))
    if path.suffix == ".toml":
        if columns or prompt:
            raise UserError(f"{file} says itself what its columns and prompts are; leave --columns and --prompt out")
        try:
            tree = tomllib.loads(path.read_text(encoding="utf-8-sig"))
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read {file}: {error}") from None
        found = tree.get("eval", {}).get("benchmarks", [])
        if not found:
            raise UserError(f"{file} has no [[eval.benchmarks]]; give a recipe that has, or a file of problems")
        return list(found)
    kind = format_of(path)
    if kind is not None and not path.is_file():
        raise UserError(f"--benchmark {file}: no such file; check the path")
    if kind is None:
        raise UserError(f"--benchmark {file} is no file of problems (.jsonl, .json, .csv, .parquet) and no TOML file")
    table: dict[str, Any] = {
        "name": plain_name(path).stem,
        "kind": kind,
        "path": str(path.resolve()),
        "columns": columns_of(path, columns or {}, ("question", "answer"), ()),
        "prompt": prompt or own or BOXED,
        "allow_unusable": "any",
    }
    if options := options_column(path):
        if prompt and "{options}" not in prompt:
            raise UserError(f"{file} has options (`{options}`), which --prompt does not show; put {{options}} into it")
        table |= {"verifier": "choice", "options": [options], "prompt": prompt or CHOICE}
    return [table]


def _print_tables(recipe: Recipe, run: Run, results: dict[str, dict[str, Any]]) -> None:
    from rich.console import Console

    from h1r.common.files import read_json
    from h1r.evals.safety import safety_table
    from h1r.evals.summary import benchmark_tables

    if any("benchmarks" in result for result in results.values()):
        curated = run.path / "curate" / "summary.json"
        contamination = read_json(curated).get("contamination") if curated.exists() else None
        Console().print(*benchmark_tables(results, recipe, contamination))
    for result in results.values():
        if "safety" in result:
            Console().print(safety_table(result["safety"]))
