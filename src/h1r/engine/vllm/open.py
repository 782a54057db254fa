"""Opens vLLM for `[engine] kind = "vllm"`."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from h1r.config import EngineSection
from h1r.engine.following import Following
from h1r.engine.protocol import Engine
from h1r.engine.source import Source, dtype_of
from h1r.engine.vllm.engine import VLLMEngine
from h1r.models import save


@contextmanager
def open_vllm(section: EngineSection, tokenizer: Any, source: Source) -> Iterator[Engine]:
    """An engine on the source's checkpoint, or on one written for it; beside a trainer it takes changed weights."""
    with ExitStack() as stack:
        live, directory = source.live, source.directory
        checkpoint = Path(directory) if directory is not None and Path(directory).is_dir() else None
        dtype = torch.float32 if live is None else live.dtype
        if checkpoint is None:
            written = source.model()
            dtype = written.dtype
            checkpoint = save(written, stack.enter_context(tempfile.TemporaryDirectory(prefix="h1r-model-")))
        elif live is None:
            dtype = dtype_of(checkpoint)
        on_gpu = torch.cuda.is_available()
        engine = VLLMEngine(
            checkpoint,
            tokenizer,
            section,
            dtype=str(dtype).removeprefix("torch.") if section.dtype == "auto" else section.dtype,
            max_model_len=section.max_model_len,
            # On a GPU vLLM's process has the card's memory to itself when it ends, and starts beside distributed ones.
            in_process=not on_gpu and not (torch.distributed.is_available() and torch.distributed.is_initialized()),
            options={"gpu_memory_utilization": section.gpu_memory_utilization} if on_gpu else None,
        )
        stack.callback(engine.close)
        if live is None:
            yield engine
            return
        yield Following(engine, live)
