"""The command that serves: serve."""

from __future__ import annotations

from contextlib import AbstractContextManager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated

import typer

from h1r.cli.common import Set, check_checkpoint, finite, stopping
from h1r.common.hub import SHIPPED
from h1r.common.torch_ahead import importing
from h1r.errors import UserError

if TYPE_CHECKING:
    from h1r.serve.app import Service


def serve(
    what: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[CHECKPOINT|RUN|URL...]",
            help="A checkpoint directory, run directory or hub id; or the addresses of servers of one model, with /v1. "
            "Default: the model that comes with the package.",
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Address to listen on. Others than loopback need H1R_API_KEY.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, metavar="N", help="Port to listen on; 0: any free one.")
    ] = 8000,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="What clients call the model. Default: the directory's name.")
    ] = None,
    set_: Set = None,
    max_budget: Annotated[int, typer.Option(min=1, metavar="N", help="Most traces of one DeepConf request.")] = 512,
    max_requests: Annotated[
        int, typer.Option(min=1, metavar="N", help="Most requests in progress; more are told to come again.")
    ] = 512,
    drain_seconds: Annotated[
        float,
        typer.Option(callback=finite, min=0, metavar="SECONDS", help="How long requests may go on after SIGTERM."),
    ] = 20.0,
    stream_interval: Annotated[
        float,
        typer.Option(
            callback=finite,
            min=0,
            metavar="SECONDS",
            help="How long tokens of a stream wait to be written together, at most: 0.05 s where that costs little, "
            "longer with many streams. The first is written at once.",
        ),
    ] = 0.25,
    log_prompts: Annotated[bool, typer.Option("--log-prompts", help="Log what is asked, too.")] = False,
    otel: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Send OpenTelemetry traces to this collector, as http://127.0.0.1:4318."),
    ] = None,
) -> None:
    """Serve an OpenAI-compatible API. DeepConf is an option of every request."""
    if find_spec("prometheus_client") is None:  # the extra is installed as a whole
        raise UserError("h1r serve needs more packages; run `pip install 'open-h1r[serve]'`")
    what = what or [SHIPPED]
    addresses = [one for one in what if one.startswith(("http://", "https://"))]
    if len(what) > 1 and len(addresses) < len(what):
        raise UserError("one checkpoint is served at a time, or any number of URLs of one model")
    if addresses and name is not None:
        raise UserError("--name is for a checkpoint; servers name their model themselves")
    if not addresses:
        check_checkpoint(what[0])
    from h1r.serve.limits import Limits
    from h1r.serve.run import listening
    from h1r.serve.run import serve as run

    limits = Limits(budget=max_budget, requests=max_requests, drain_s=drain_seconds, stream_interval_s=stream_interval)

    def opened() -> AbstractContextManager[Service]:
        with importing():  # while the server listens already
            from h1r.serve.opening import opened_service

        return opened_service(what, name, set_ or [], limits, log_prompts, otel)

    with stopping("start it again"):
        run(opened, listening(host, port), limits)
