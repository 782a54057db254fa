"""What `h1r serve` serves, from the words of its command line. Imports torch, which the server does not wait for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from h1r.common.hub import local_directory
from h1r.config.text import parse_override
from h1r.evals.answers import recipe_of
from h1r.serve.app import Served, Service
from h1r.serve.limits import Limits
from h1r.serve.local import Local
from h1r.serve.logs import RequestLog
from h1r.serve.model import open_model
from h1r.serve.urls import open_urls


@contextmanager
def opened_service(
    what: Sequence[str],
    name: str | None,
    changes: Sequence[str],
    limits: Limits,
    log_prompts: bool = False,
    collector: str | None = None,
) -> Iterator[Service]:
    """The application around a checkpoint, run directory or hub id, called `name`, or around servers of one model.
    changes: recipe keys, as `threads=2`. collector: where its spans go. `UserError` for what cannot be served."""
    overrides = dict(map(parse_override, changes))
    with ExitStack() as things:
        spans = None
        if collector is not None:
            from h1r.serve.spans import spans_to

            spans = spans_to(collector)
            things.callback(spans.close)
        if what[0].startswith(("http://", "https://")):
            served: Served = things.enter_context(open_urls(what, overrides, limits))
        else:
            recipe = recipe_of(what[0], overrides)
            called = name or name_of(what[0], recipe.name)
            model = open_model(what[0], called, recipe, limits.stream_interval_s)
            served = Local(things.enter_context(model), limits)
        yield Service(served, limits, RequestLog(log_prompts), spans)


def name_of(checkpoint: str, recipe: str) -> str:
    """That of the directory; that of the recipe where the directory is a run or its `model`."""
    path = local_directory(checkpoint) or Path(checkpoint)
    inside = next((one for one in (path, *path.parents[:2]) if (one / "recipe.json").exists()), None)
    return recipe if inside is not None and recipe else path.resolve().name
