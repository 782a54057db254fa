"""Opens the client of a server for `[engine] kind = "server"`."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from h1r.common.progress import note
from h1r.config import EngineSection
from h1r.engine.following import Following
from h1r.engine.protocol import Engine
from h1r.engine.server.engine import EXTENSION, SAMPLER, VLLMServer
from h1r.engine.source import Source
from h1r.errors import UserError
from h1r.models import save


@contextmanager
def open_server(section: EngineSection, tokenizer: Any, source: Source) -> Iterator[Engine]:
    """The client of a server, which is told to take the weights it should have where it has others."""
    engine = VLLMServer(section.addresses, tokenizer, section)
    if source.in_training and not engine.knows_sampling_logprobs:
        raise UserError(
            f"the server at {engine.url} does not tell the log-probabilities that training needs; start it with "
            f"{EXTENSION} {SAMPLER}"
        )
    if (model := source.live) is not None:
        with tempfile.TemporaryDirectory(prefix="h1r-model-", dir=section.weights_directory) as first:
            # As a checkpoint, for its configuration to be compared, too.
            engine.load_weights(save(model, first))
        yield Following(engine, model)
        return
    directory = source.directory
    if directory is None:
        raise UserError(f"the server at {engine.url} runs {engine.root}, and this model lies in no checkpoint")
    if Path(directory).resolve() != Path(engine.root).resolve() or engine.has_other_weights:
        note(f"{engine.url}: taking the weights of {directory}")
        engine.load_weights(directory)
    yield engine
