"""Commands that look at what is there: report, watch, parity."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from h1r.cli.common import AsJson, print_json, print_report, stopping
from h1r.common.hub import local_directory
from h1r.common.progress import quiet
from h1r.errors import UserError


class Dtype(StrEnum):
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT64 = "float64"


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="One run directory, or several to compare.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="PAGE",
            help="Where to write. Default: report.html in the run; runs/comparison.html for two or more.",
        ),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also save the main plot of one run; the suffix is the format.")
    ] = None,
    timeline: Annotated[
        Path | None,
        typer.Option(
            "--timeline", metavar="FILE", help="Also write RL's steps as trace events (JSON), for chrome://tracing."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write the report of a run, or a page that compares several. Writes report.html and report.json."""
    twice = next((run for i, run in enumerate(runs) if run.resolve() in [one.resolve() for one in runs[:i]]), None)
    if twice is not None:
        raise UserError(f"{twice} is named twice; a run is compared with others")
    if out is not None and not out.absolute().parent.parent.is_dir():
        raise UserError(f"--out {out}: there is no directory {out.absolute().parent.parent}; make it first")
    if plot is not None:
        if len(runs) != 1:
            raise UserError(f"--plot shows one run, but {len(runs)} were named; leave one")
        from h1r.report import save_main_plot

        save_main_plot(runs[0], plot)
    if timeline is not None:
        if len(runs) != 1:
            raise UserError(f"--timeline shows one run, but {len(runs)} were named; leave one")
        from h1r.report import collect
        from h1r.report.timeline import write_timeline

        write_timeline(collect(runs[0]), timeline)
    if len(runs) == 1:
        print_report(runs[0], as_json, out, benchmarks=True)
        return
    from h1r.report import collect_several, comparison_tables, write_comparison_of

    reports = collect_several(runs)
    page = write_comparison_of(reports, out or Path("runs/comparison.html"))
    if as_json:
        print(page.with_suffix(".json").read_text(encoding="utf-8"))
        return
    from rich.console import Console

    Console().print(*comparison_tables(reports))
    print(f"report: {page}")


def watch(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory, of a run in progress or of any other.")],
    web: Annotated[bool, typer.Option("--web", help="A page for a browser on this machine instead.")] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, metavar="N", help="Port of the page; 0: any free one.")] = 8001,
) -> None:
    """Show how far a run is: stages, curves, rollouts, time left. Reads its files alone."""
    with stopping("the run goes on; watch it again at any time"):
        if not web:
            from rich.console import Console

            from h1r.report.live_view import watch as show

            show(run, Console())
            return
        from h1r.report.live_server import live_server

        with live_server(run, port) as server:
            print(f"http://127.0.0.1:{server.server_port}/", flush=True)
            server.serve_forever()


def parity(
    name: Annotated[
        str,
        typer.Argument(
            metavar="CHECKPOINT_OR_PRESET",
            help="A checkpoint directory, a hub id, or a preset, which gets random weights.",
        ),
    ],
    only: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="One check, or all that begin with this word. Repeat.")
    ] = None,
    dtype: Annotated[
        Dtype, typer.Option(help="Type of weights and arithmetic; tolerances go with it.")
    ] = Dtype.FLOAT32,
    device: Annotated[
        str | None, typer.Option(metavar="DEVICE", help="Where to compute. Default: cuda where there is any, else cpu.")
    ] = None,
    kernels: Annotated[
        str,
        typer.Option(metavar="NAME", help="Implementation of the operators: auto, reference, torch, native or triton."),
    ] = "auto",
    layers: Annotated[int | None, typer.Option(metavar="N", help="Check only the first N layers.")] = None,
    tokens: Annotated[
        int | None,
        typer.Option(metavar="N", help="Length of the inputs, in tokens. Default: three chunks of the model's scan."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Seed of inputs and random weights.")] = 0,
    text: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Text on which narrow weights are compared. Default: what the model itself writes."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check that the model computes the same on every path.

    Packed, padded, cached, saved and reloaded, in other implementations, and over several processes.
    """
    quiet(as_json)
    if "/" in name:  # no preset: a path that is not there is refused before the imports, which take seconds
        local_directory(name)
    from h1r.parity import run

    with stopping("run it again"):
        found = run(
            name, only=only or (), dtype=dtype.value, device=device, kernels=kernels, layers=layers, tokens=tokens,
            seed=seed, text=text, announce=None if as_json else print,
        )  # fmt: skip
    if as_json:
        print_json(found.to_json())
    else:
        from rich.console import Console

        Console().print(found.table())
        print(found.summary())
    if not found.passed:
        raise typer.Exit(1)
