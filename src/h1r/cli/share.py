"""Commands that give a trained model to others: export, push."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from h1r.common.hub import local_directory
from h1r.errors import UserError

Model = Annotated[str, typer.Argument(metavar="RUN|CHECKPOINT", help="A run (its last model), or a checkpoint.")]


class Form(StrEnum):
    HF = "hf"
    GGUF = "gguf"
    DATASET = "dataset"


def export(
    model: Model,
    to: Annotated[
        Form,
        typer.Option(
            "--to",
            help="hf: a directory for transformers and vLLM. gguf: for llama.cpp. dataset: what a run has curated, "
            "for `datasets`.",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="PATH", help="Where to write. Default: NAME-hf or NAME.gguf here.")
    ] = None,
    converter: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="llama.cpp's source tree, or its conversion script. Default: $LLAMA_CPP."),
    ] = None,
    outtype: Annotated[
        str, typer.Option(metavar="NAME", help="Type of GGUF's weights, as llama.cpp calls them: f32, bf16, q8_0.")
    ] = "f32",
) -> None:
    """Write a model for other programs, or curated data.

    A model is a directory for transformers and vLLM, with tokenizer, chat template, sampling defaults and a card, or a
    file for llama.cpp.
    """
    from h1r.run.export import export_directory, export_gguf

    if to is Form.DATASET:
        from h1r.data.publish import export_data

        print(f"wrote {export_data(Path(model), out or Path(f'{Path(model).resolve().name}-data'))}")
        return
    source, name = _local(model), (local_directory(model) or Path(model)).resolve().name
    if to is Form.HF:
        print(f"wrote {export_directory(source, out or Path(f'{name}-hf'))}")
    else:
        print(f"wrote {export_gguf(source, out or Path(f'{name}.gguf'), converter, outtype)}")


def push(
    model: Model,
    repository: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Repository on the Hugging Face hub.")],
    private: Annotated[bool, typer.Option("--private", help="Make a repository that others do not see.")] = False,
    data: Annotated[bool, typer.Option("--data", help="What the run has curated, as a data set.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would be uploaded and stop.")] = False,
) -> None:
    """Upload a model, or curated data, to the hub, as one commit. HF_TOKEN holds the key."""
    from h1r.run.export import push as upload

    if data:
        from tempfile import TemporaryDirectory

        from h1r.data.publish import export_data

        with TemporaryDirectory() as folder:
            written = export_data(Path(model), Path(folder) / "data")
            if dry_run:
                _list(path for path in written.rglob("*") if path.is_file())
            else:
                print(f"pushed to {upload(written, repository, private, 'dataset')}")
        return
    source = _local(model)
    if dry_run:
        _list(path for path in source.iterdir() if path.is_file() and not path.name.startswith("."))
        return
    print(f"pushed to {upload(source, repository, private)}")


def _list(files: Iterable[Path]) -> None:
    print("\n".join(f"{path.stat().st_size:>12,}  {path.name}" for path in sorted(files)))


def _local(name: str) -> Path:
    """The directory of a checkpoint, or of a run's last model; `UserError` for one of the hub."""
    from h1r.run.directory import model_directory

    directory = model_directory(name)
    if not (directory / "config.json").exists():
        raise UserError(f"{name} is no run and no checkpoint directory here; give one")
    return directory
