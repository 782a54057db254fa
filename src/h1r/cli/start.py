"""Commands about runs and recipes as such: init writes a recipe, ls lists the runs."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from h1r.cli.common import AsJson, checkpoint_of, print_json
from h1r.common.files import replace_directory, write_text
from h1r.common.packaged import packaged
from h1r.common.progress import note
from h1r.common.prose import size
from h1r.common.terminal import shown
from h1r.errors import UserError

if TYPE_CHECKING:
    from h1r.run.listing import Listed


SMALL_BYTES = 200 << 20
_GUIDE = re.compile(r"\[([^\[\]\n]*+)\]\((?:\.\./)++[a-z]++/guide/[\w-]++\.md\)")


class Task(StrEnum):
    SFT = "sft"
    RL = "rl"
    EVAL = "eval"
    CURATE = "curate"
    EXAMPLES = "examples"


def init(
    task: Annotated[
        Task,
        typer.Argument(
            metavar="TASK",
            help="What the recipe is for: sft, rl, eval or curate. Or examples: all that the guides name.",
        ),
    ],
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="Where to write. Default: TASK.toml, or examples/, here.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", metavar="CHECKPOINT", help="Written in as the checkpoint.")
    ] = None,
    data: Annotated[str | None, typer.Option("--data", metavar="FILE", help="Written in as the data.")] = None,
) -> None:
    """Write a commented recipe for a task, or the examples."""
    if task is Task.EXAMPLES:
        if model is not None or data is not None:
            raise UserError("the examples name their models and data themselves; leave --model and --data out")
        _write_examples(file or Path("examples"))
        return
    from h1r.config.recipe import PLACEHOLDERS
    from h1r.run.directory import prompt_of

    path = file or Path(f"{task.value}.toml")
    template = packaged("recipes", "tasks", f"{task.value}.toml")
    text = template.read_text(encoding="utf-8").replace(f"{task.value}.toml", path.name)
    for place, value in zip(PLACEHOLDERS, (model, data), strict=True):
        if value is not None:
            text = text.replace(f'"{place}"', json.dumps(value, ensure_ascii=False))
    if task in (Task.SFT, Task.RL) and model is not None and _is_small(model):
        text = _for_small(text, task.value)
    if task is Task.EVAL and model is not None and checkpoint_of(model) and (asked := prompt_of(model)):
        text = re.sub("(?m)^prompt = .*", lambda _: f"prompt = {json.dumps(asked)} # as in its training", text)
    if path.exists():
        raise UserError(f"{path} is there already; name another file")
    with _writing(path):
        write_text(path, text)
    missing = " and ".join(f'"{place}"' for place in PLACEHOLDERS if f'"{place}"' in text)
    note((f"put your own in for {missing}, then " if missing else "") + f"run `h1r {task.value} {quote(str(path))}`")


def _for_small(text: str, task: str) -> str:
    """The recipe with steps that move a small model, and numbers that hold them. Our choice."""
    rate = {"sft": "3e-3", "rl": "1e-4"}[task]
    text = re.sub("(?m)^learning_rate = .*", f"learning_rate = {rate} # as so small a model needs", text)
    return text.replace(f"\n[{task}.optimizer]", '\ncompute_dtype = "float32"\n' + f"\n[{task}.optimizer]", 1)


def _is_small(model: str) -> bool:
    """Whether a checkpoint here has less than `SMALL_BYTES` of weights, which steps as small as a large one's hardly
    move. Our choice."""
    path = checkpoint_of(model)
    weights = list(Path(path).glob("*.safetensors")) if path else []
    return bool(weights) and sum(one.stat().st_size for one in weights) < SMALL_BYTES


def _write_examples(directory: Path) -> None:
    """Copies the examples of the package. Their recipes name data as examples/..., so that commands of the guides run
    in the directory above."""
    if directory.exists():
        raise UserError(f"{directory} is there already; name another directory")
    source, unwanted = packaged("examples"), shutil.ignore_patterns("__pycache__")

    def fill(new: Path) -> None:
        shutil.copytree(source, new, ignore=unwanted, dirs_exist_ok=True)
        for page in new.rglob("*.md"):  # the guides do not come along; pages name the command that shows them, too
            text = page.read_text(encoding="utf-8")
            page.write_text(_GUIDE.sub(r"\1", text), encoding="utf-8")

    with _writing(directory):
        replace_directory(directory, fill)
    note(
        f"{directory / 'README.md'} says what each shows and needs"
        + ("" if directory == Path("examples") else "; their commands and recipes call the directory examples/")
    )


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Says that it is written; `UserError` where it cannot be."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}; name another place") from None
    print(f"wrote {path}")


def ls(
    directory: Annotated[
        Path, typer.Argument(metavar="[DIR]", help="Directory that the runs lie in. Default: runs.")
    ] = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """List runs with their state, score and size. The run that was used last comes first."""
    from h1r.run.listing import runs_in

    found = runs_in(directory)
    if as_json:
        print_json([{**dataclasses.asdict(run), "path": str(run.path)} for run in found])
        return
    rows = [(str(run.path), run.state, _scores(run), size(run.size_bytes)) for run in found]
    for line in _listing(rows, shutil.get_terminal_size().columns if sys.stdout.isatty() else None):
        print(shown(line))
    if not rows:
        note(f"no runs in {directory}")


def _scores(run: Listed) -> str:
    """`rl: held-out 81.5%, own 66.7%`; empty where nothing was asked."""
    scores = ", ".join(f"{name} {100 * score:.1f}%" for name, score in run.scores.items())
    return f"{run.model}: {scores}" if scores else ""


def _listing(rows: Sequence[tuple[str, str, str, str]], width: int | None) -> list[str]:
    """A table of (run, state, scores, size); where it is wider than `width`, a paragraph for each run."""
    heading = ("run", "state", "pass@1 of the last model", "size")
    widths = [max(map(len, column)) for column in zip(heading, *rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(wide) for cell, wide in zip(row, widths, strict=True)).rstrip() for row in (heading, *rows)
    ]
    if width is None or max(map(len, lines)) <= width:
        return lines
    lines = []
    for run, state, scores, takes in rows:
        lines.append(run)
        for text in (f"{state}, {takes}", scores):
            lines += textwrap.wrap(text, width, initial_indent="    ", subsequent_indent="    ")
    return lines
