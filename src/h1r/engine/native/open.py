"""Opens the native engine for `[engine] kind = "native"`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from h1r.common.progress import note
from h1r.config import EngineSection
from h1r.engine.native.engine import NativeEngine
from h1r.engine.native.select_runner import require_narrow
from h1r.engine.protocol import Engine
from h1r.engine.source import Source
from h1r.errors import UserError
from h1r.kernels.selection import select
from h1r.models import CausalLM


@contextmanager
def open_native(section: EngineSection, tokenizer: Any, source: Source) -> Iterator[Engine]:
    """An engine on the source's model itself, cast where `engine.dtype` says so. Raises `UserError` for narrow weights
    beside a trainer, or where C cannot run."""
    if section.weights != "auto" and source.in_training:
        raise UserError(
            f"engine.weights = {section.weights} is refused beside a trainer: the log-probabilities of what is sampled "
            "must be those of the weights that are trained; leave it out for RL, and give it to eval, solve, generate, "
            "serve or chat with --set"
        )
    model = source.model()
    wanted = None if section.dtype == "auto" else getattr(torch, section.dtype)
    if wanted not in (None, model.dtype):
        if source.live is not None:
            raise UserError(
                f"engine.dtype = {section.dtype} is not what the trainer computes in, with whose weights the native "
                f"engine samples ({str(model.dtype).removeprefix('torch.')}); set rl.compute_dtype to the same, or "
                "leave engine.dtype out"
            )
        model = _cast(model, wanted)
    require_narrow(model, section.weights)
    yield NativeEngine(model, tokenizer, section)


def _cast(model: CausalLM, dtype: torch.dtype) -> CausalLM:
    """The model in another type, with the kernels it had where they take that type."""
    try:
        kernels = select(model.kernels.name, model.device, dtype)
    except UserError:
        kernels = select("auto", model.device, dtype)
        note(f"kernels in {str(dtype).removeprefix('torch.')}: {kernels.name} ({kernels.reason})")
    return model.cast(dtype).use(kernels)
