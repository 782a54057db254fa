"""Opens `[engine] kind = "endpoint"`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from h1r.config import EngineSection
from h1r.engine.endpoint.engine import ONLY_BENCHMARKS, EndpointEngine
from h1r.engine.protocol import Engine
from h1r.engine.source import Source
from h1r.errors import UserError


@contextmanager
def open_endpoint(section: EngineSection, tokenizer: Any, source: Source) -> Iterator[Engine]:
    """The engine, for callers that send messages: they have no tokenizer. `UserError` for all others."""
    if tokenizer is not None or source.live is not None:
        raise UserError(ONLY_BENCHMARKS)
    with closing(EndpointEngine(section)) as engine:
        yield engine
