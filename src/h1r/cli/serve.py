"""The command that serves: serve."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from h1r.cli.common import Set, check_checkpoint, stopping
from h1r.common.hub import SHIPPED, local_directory
from h1r.errors import UserError


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
        float, typer.Option(min=0, metavar="SECONDS", help="How long requests may go on after SIGTERM.")
    ] = 20.0,
    log_prompts: Annotated[bool, typer.Option("--log-prompts", help="Log what is asked, too.")] = False,
    otel: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Send OpenTelemetry traces to this collector, as http://127.0.0.1:4318."),
    ] = None,
) -> None:
    """Serve an OpenAI-compatible API. DeepConf is an option of every request."""
    try:
        import sse_starlette  # noqa: F401 - the extra is installed as a whole
    except ImportError:
        raise UserError("h1r serve needs more packages; run `pip install 'open-h1r[serve]'`") from None
    what = what or [SHIPPED]
    addresses = [one for one in what if one.startswith(("http://", "https://"))]
    if len(what) > 1 and len(addresses) < len(what):
        raise UserError("one checkpoint is served at a time, or any number of URLs of one model")
    if not addresses:
        check_checkpoint(what[0])
    from h1r.serve.limits import Limits
    from h1r.serve.logs import RequestLog
    from h1r.serve.run import listening
    from h1r.serve.run import serve as run

    limits = Limits(budget=max_budget, requests=max_requests, drain_s=drain_seconds)
    where, log = listening(host, port), RequestLog(log_prompts)
    spans = None
    if otel is not None:
        from h1r.serve.spans import spans_to

        spans = spans_to(otel)
    from h1r.config.text import parse_override

    overrides = dict(map(parse_override, set_ or []))
    if addresses:
        from h1r.common.servers import api_key
        from h1r.config import resolve
        from h1r.serve.urls import open_urls

        recipe = resolve({"name": "defaults"}, overrides, "--set")
        key = api_key(recipe.engine.key_variable)
        with stopping("start it again"), open_urls(addresses, recipe, limits, key) as served:
            run(served, where, limits, log, spans)
        return
    from h1r.evals.answers import recipe_of
    from h1r.serve.local import Local
    from h1r.serve.model import open_model

    recipe = recipe_of(what[0], overrides)
    with stopping("start it again"), open_model(what[0], name or _name(what[0], recipe.name), recipe) as model:
        run(Local(model, limits), where, limits, log, spans)


def _name(checkpoint: str, recipe: str) -> str:
    """That of the directory; that of the recipe where the directory is a run or its `model`."""
    path = local_directory(checkpoint) or Path(checkpoint)
    inside = next((one for one in (path, *path.parents[:2]) if (one / "recipe.json").exists()), None)
    return recipe if inside is not None and recipe else path.resolve().name
