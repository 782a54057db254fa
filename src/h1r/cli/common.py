"""Options that several commands share, and what every command does with a recipe, Ctrl-C and JSON.

What `h1r --help` does not need is imported where it is used, here and in the commands.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from h1r.common.hub import is_hub_id, local_directory
from h1r.common.packaged import PREFIX
from h1r.common.progress import note
from h1r.common.terminal import shown_json
from h1r.common.torch_ahead import load_ahead
from h1r.errors import UserError

if TYPE_CHECKING:
    from h1r.config import Recipe
    from h1r.run.directory import Run

Target = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE", help="A recipe (TOML file, or the name of a built-in one such as `tiny`), or a run directory."
    ),
]
Checkpoint = Annotated[
    str,
    typer.Argument(metavar="CHECKPOINT", help="A checkpoint directory, a hub id, or a run directory."),
]
Out = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Run directory. Default: runs/RECIPE-NAME.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one recipe key, as in rl.steps=5. Repeat."),
]
Seed = Annotated[int | None, typer.Option("--seed", metavar="N", help="In place of the recipe's seed.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the resolved recipe and stop.")]
Gpus = Annotated[
    str | None,
    typer.Option(
        "--gpus",
        metavar="NxCARD",
        help="With --dry-run: what the run needs of such cards, as in 8xH200, and whether it fits; exit code 1 if not.",
    ),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint of the run.")]
Columns = Annotated[
    list[str] | None,
    typer.Option(
        "--columns",
        metavar="FIELD=COLUMN",
        help="Which column of the file is what, where its name is not a usual one, as in question=prompt. Repeat.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, and no progress.")]


def finite(value: float | None) -> float | None:
    """What an option with a number is, as its callback: nan passes every bound, and nothing here has a use for inf."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is no number to use")
    return value


class StoppedError(Exception):
    """Ctrl-C, with the sentence that says how to go on."""


def check_checkpoint(name: str) -> None:
    """Says at once what is wrong with a name (`local_directory`), or that loading begins, since the imports take
    seconds; those of torch's libraries begin here."""
    local_directory(name)
    note(f"loading {name}")
    load_ahead()


def checkpoint_of(name: str) -> str | None:
    """The name of a checkpoint: a directory that holds one, or a hub id; None for a run directory, a recipe, and what
    is neither."""
    path = Path(name).expanduser()
    if path.is_dir() or name.startswith(PREFIX):
        path = local_directory(name) or path
        return str(path) if (path / "config.json").exists() and not (path / "recipe.json").exists() else None
    return name if not path.exists() and path.suffix not in (".toml", ".json") and is_hub_id(name) else None


def check_question(text: str) -> None:
    """`UserError` for a question without a word, and for bytes of the command line that are no text."""
    if not text.strip():
        raise UserError("the question is empty; ask one")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise UserError("the question is not UTF-8; give it as text")


def open_run(
    target: str | dict[str, Any],
    out: Path | None,
    set_: list[str] | None,
    seed: int | None,
    dry_run: bool,
    as_json: bool,
    keys: Mapping[str, Any] | None = None,
    resume: bool = False,
) -> tuple[Recipe, Run]:
    """The resolved recipe and its run directory. A run directory stands for its own recipe; a table of keys is one.
    `keys` are laid over it, and `--set` over these. resume: see `Run.open`. A dry run ends here."""
    from h1r.config.text import to_toml
    from h1r.run.directory import Run

    recipe, default = resolved_recipe(target, set_, seed, keys)
    if dry_run:
        print(recipe.model_dump_json(indent=1) if as_json else to_toml(recipe).rstrip())
        raise typer.Exit()
    return recipe, Run.open(out or default or of_runs(recipe.name), recipe, resume)


def resolved_recipe(
    target: str | dict[str, Any], set_: list[str] | None, seed: int | None, keys: Mapping[str, Any] | None = None
) -> tuple[Recipe, Path | None]:
    """The recipe of `open_run`, and the run directory where `target` is one."""
    from h1r.config import find_recipe, load_recipe, resolve
    from h1r.config.text import parse_override

    overrides = {**(keys or {}), **dict(map(parse_override, set_ or []))}
    if seed is not None:
        overrides["seed"] = seed
    if isinstance(target, dict):
        return resolve(target, overrides, "the command line"), None
    directory = Path(target)
    if directory.is_dir():
        return load_recipe(directory / "recipe.json", overrides), directory
    return load_recipe(find_recipe(target), overrides), None


def of_runs(name: str) -> Path:
    """The directory of a run by the name of its recipe; `UserError` for one that would lie elsewhere than in runs/."""
    if not name.strip() or name.startswith(".") or any(one in name for one in "/\\\0"):
        raise UserError(f"a run called {name!r} would not lie in runs/; rename it, or give --out")
    return Path("runs") / name


def parse_columns(given: Sequence[str] | None) -> dict[str, str]:
    """`question=problem` or `question=problem,answer=solution`, repeated, as our field -> column. `UserError` for an
    entry without both, and a field that is given twice."""
    found: dict[str, str] = {}
    for entry in (part for text in given or () for part in text.split(",")):
        field, _, column = (one.strip() for one in entry.partition("="))
        if not field or not column or field in found:
            raise UserError(
                f"--columns {entry}: write FIELD=COLUMN, once for each field, as in --columns question=NAME"
            )
        found[field] = column
    return found


@contextmanager
def stopping(how_to_go_on: str) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        raise StoppedError(how_to_go_on) from None


def print_report(run: Path, as_json: bool, out: Path | None = None, benchmarks: bool = False) -> None:
    """Writes the page, and says what it has in short. benchmarks: their table too, where no command has printed it."""
    from h1r.report import write_report

    page = write_report(run, out)
    numbers = json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))
    if as_json:
        print_json(numbers)
    else:
        from rich.console import Console

        from h1r.evals.summary import reported_benchmarks, result_table

        table = result_table(numbers)
        if table.row_count:
            Console().print(table)
        if benchmarks and numbers["benchmarks"]:
            Console().print(*reported_benchmarks(numbers))
        print(f"report: {page}")


def print_json(value: Any) -> None:
    """On standard output; what is not a number is null, which JSON has no other word for."""
    print(shown_json(json.dumps(_finite(value), indent=1, ensure_ascii=False, allow_nan=False)))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
