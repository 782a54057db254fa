"""Opens the native engine for `[engine] kind = "native"`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from h1r.common.progress import note
from h1r.config import EngineSection
from h1r.engine.native.engine import NativeEngine
from h1r.engine.protocol import Engine
from h1r.engine.source import Source
from h1r.errors import UserError
from h1r.kernels.selection import select
from h1r.models import CausalLM


@contextmanager
def open_native(section: EngineSection, tokenizer: Any, source: Source) -> Iterator[Engine]:
    """An engine on the source's model itself, cast where `engine.dtype` says so."""
    model = source.model()
    wanted = None if section.dtype == "auto" else getattr(torch, section.dtype)
    if wanted not in (None, model.dtype):
        if source.live is not None:
            raise UserError(
                f"engine.dtype = {section.dtype} is not what the trainer computes in, with whose weights the native "
                f"engine samples ({str(model.dtype).removeprefix('torch.')}); set rl.compute_dtype, or leave it out"
            )
        model = _cast(model, wanted)
    yield NativeEngine(model, tokenizer, section)


def _cast(model: CausalLM, dtype: torch.dtype) -> CausalLM:
    """The model in another type, with the kernels it had where they take that type."""
    try:
        kernels = select(model.kernels.name, model.device, dtype)
    except UserError:
        kernels = select("auto", model.device, dtype)
        note(f"kernels in {str(dtype).removeprefix('torch.')}: {kernels.name} ({kernels.reason})")
    return model.cast(dtype).use(kernels)
