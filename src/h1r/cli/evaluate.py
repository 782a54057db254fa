"""The command `eval`: a run's models, a checkpoint, or a model behind an API."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from h1r.cli.common import AsJson, DryRun, Out, Seed, Set, open_run, print_json, print_report
from h1r.cli.stages import run_stage
from h1r.common.reading import lines
from h1r.errors import UserError

if TYPE_CHECKING:
    from h1r.config import EvalSection, Recipe

MODELS = ("base", "sft", "rl")
QUESTION = ("question", "problem", "prompt")
ANSWER = ("answer", "expected_answer", "final_answer", "target")
BOXED = "{question}\n\nPlease reason step by step, and put your final answer within \\boxed{}."
_KINDS = {".jsonl": "jsonl", ".json": "json", ".csv": "csv", ".parquet": "parquet"}


def eval_(
    recipe: Annotated[
        str | None,
        typer.Argument(
            metavar="[RECIPE]", help="A recipe, or a run directory. Without one: --model and --benchmark say all."
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            help="base, sft, rl: models of the run (repeat; default: all that exist). Or a checkpoint, or with --url "
            "the name of a model there.",
        ),
    ] = None,
    benchmark: Annotated[
        list[str] | None,
        typer.Option(
            "--benchmark",
            metavar="FILE",
            help="Problems with answers (.jsonl, .json, .parquet), or a TOML file with [[eval.benchmarks]]. In place "
            "of the recipe's. Repeat.",
        ),
    ] = None,
    url: Annotated[
        list[str] | None,
        typer.Option("--url", help="Ask an OpenAI-compatible API here, with its /v1. Repeat for several servers."),
    ] = None,
    key_variable: Annotated[
        str | None, typer.Option("--key-variable", metavar="NAME", help="Environment variable that holds its key.")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="NAME", help="Only this benchmark. Repeat.")
    ] = None,
    limit: Annotated[int, typer.Option(min=0, help="Only the first so many problems of each benchmark.")] = 0,
    scaling: Annotated[bool, typer.Option(help="Also majority and DeepConf at the recipe's budgets.")] = True,
    out: Out = None,
    set_: Set = None,
    seed: Seed = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Held-out accuracy and benchmarks: pass@1 with intervals, majority and DeepConf, and the tokens each spent."""
    named = [one for one in model or [] if one not in MODELS]
    stages = [one for one in model or [] if one in MODELS]
    if recipe is None and not ((named or url) and benchmark):
        raise UserError("give a recipe, or --model and --benchmark, as in `h1r eval --model DIR --benchmark F.jsonl`")
    keys = {**_model_keys(named, stages, url), **({"engine.key_variable": key_variable} if key_variable else {})}
    if benchmark:
        keys["eval.benchmarks"] = [table for file in benchmark for table in tables_of(file)]
    target = recipe or {"name": re.sub(r"[^\w.-]+", "-", named[0] if named else "endpoint").strip("-.") or "model"}
    resolved, run = open_run(target, out, set_, seed, dry_run, as_json, keys)
    partial = bool(only or limit)
    resolved = resolved.model_copy(update={"eval": part_of(resolved.eval, only or [], limit)})
    alone = resolved.engine.kind == "endpoint"
    if alone:
        existing = ["base"]
    else:
        from h1r.evals.stages import models_of

        existing = models_of(run)
    todo = [f"eval_{which}" for which in stages or existing]
    todo += ["scaling"] * (scaling and not partial and not alone and existing != ["base"])
    results = {one: run_stage(one, resolved, run, False, as_json, resumable=False, partial=partial) for one in todo}
    if as_json:
        print_json(results)
    else:
        _print_tables(resolved, results)
        print_report(run.path, as_json)
    if any(result.get("unfinished") for result in results.values()):
        raise typer.Exit(1)


def _model_keys(named: Sequence[str], stages: Sequence[str], url: Sequence[str] | None) -> dict[str, Any]:
    """Recipe keys that say whose model is asked."""
    if len(named) > 1 or (named and stages):
        raise UserError(f"--model {named[-1]} is no model of a run, so it stands alone; evaluate one after the other")
    if url:
        found: dict[str, Any] = {"engine.kind": "endpoint", "engine.urls": list(url), "engine.url": None}
        return found | ({"engine.endpoint.model": named[0]} if named else {})
    return {"model.checkpoint": named[0]} if named else {}


def part_of(section: EvalSection, only: Sequence[str], limit: int) -> EvalSection:
    """The benchmarks called `only` (empty: all), and the first `limit` problems of each (0: all) under a name of their
    own; held-out problems are left out where it is a part. `UserError` for a name that is not there."""
    names = [one.name for one in section.benchmarks]
    if missing := [one for one in only if one not in names]:
        raise UserError(f"no benchmark is called {missing[0]}; there are {', '.join(names) or 'none'}")
    kept = [one for one in section.benchmarks if not only or one.name in only]
    if limit:
        first = {"limit": limit, "expect": 0}
        kept = [one.model_copy(update={**first, "name": f"{one.name}-first{limit}"}) for one in kept]
    whole = not only and not limit
    return section.model_copy(update={"benchmarks": kept, "held_out": section.held_out and whole})


def tables_of(file: str) -> list[dict[str, Any]]:
    """The `[[eval.benchmarks]]` of a TOML file, or one that reads a file of problems whose columns have usual names."""
    path = Path(file)
    if path.suffix == ".toml":
        try:
            tree = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read {file}: {error}") from None
        found = tree.get("eval", {}).get("benchmarks", [])
        if not found:
            raise UserError(f"{file} has no [[eval.benchmarks]]; give a recipe that has, or a file of problems")
        return list(found)
    plain = path.with_suffix("") if path.suffix in (".gz", ".zst") else path
    kind = _KINDS.get(plain.suffix)
    if kind is None or not path.is_file():
        raise UserError(f"--benchmark {file} is no file of problems (.jsonl, .json, .parquet) and no TOML file")
    columns = {} if kind != "jsonl" else _columns(path)
    return [
        {"name": plain.stem, "kind": kind, "path": str(path.resolve()), "columns": columns, "prompt": BOXED},
    ]


def _columns(path: Path) -> dict[str, str]:
    try:
        row = json.loads(next((line for _, line in lines(path)), b"{}"))
    except ValueError:
        row = {}
    found = {}
    for field, names in (("question", QUESTION), ("answer", ANSWER)):
        column = next((name for name in names if isinstance(row, dict) and name in row), None)
        if column is None:
            raise UserError(
                f"the first row of {path} has no {' or '.join(names)}; say which column is what in [[eval.benchmarks]] "
                "of a TOML file, and give that to --benchmark"
            )
        found[field] = column
    return found


def _print_tables(recipe: Recipe, results: dict[str, dict[str, Any]]) -> None:
    if not any("benchmarks" in result for result in results.values()):
        return
    from rich.console import Console

    from h1r.evals.summary import benchmark_table

    Console().print(benchmark_table(results, recipe))
