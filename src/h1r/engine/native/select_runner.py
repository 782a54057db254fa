"""Which runner takes the steps of the native engine: C, CUDA graphs, or PyTorch."""

from __future__ import annotations

from h1r.engine.native.c_decoder import obstacle
from h1r.engine.native.graphs import GraphRunner
from h1r.engine.native.runner import NativeRunner, Runner, TorchRunner
from h1r.models import CausalLM


def runner_for(model: CausalLM, max_tokens: int, kept: Runner | None = None, enforce_eager: bool = False) -> Runner:
    """The C runner where it can run, with scratch for calls of `max_tokens` tokens and the model's present weights.
    `kept`, an earlier one for this model, gives its memory."""
    if obstacle(model):
        if not with_graphs(model, enforce_eager):
            return TorchRunner(model, enforce_eager)
        return GraphRunner(model)
    if isinstance(kept, NativeRunner):
        kept.reserve(max_tokens)
        kept.refresh()
        return kept
    return NativeRunner(model, max_tokens)


def with_graphs(model: CausalLM, enforce_eager: bool) -> bool:
    """Whether `runner_for` records CUDA graphs."""
    return model.device.type == "cuda" and not enforce_eager
