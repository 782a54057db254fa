"""Which runner takes the steps of the native engine: C, CUDA graphs, or PyTorch."""

from __future__ import annotations

from h1r.common.engines import Weights
from h1r.engine.native.c_decoder import obstacle
from h1r.engine.native.graphs import GraphRunner
from h1r.engine.native.runner import NativeRunner, Runner, TorchRunner
from h1r.errors import UserError
from h1r.models import CausalLM


def runner_for(
    model: CausalLM,
    max_tokens: int,
    kept: Runner | None = None,
    enforce_eager: bool = False,
    weights: Weights = "auto",
) -> Runner:
    """The C runner where it can run, with scratch for calls of `max_tokens` tokens and the model's present weights,
    stored as `weights`. `kept`, an earlier one for this model and kind of weights, gives its memory. Raises `UserError`
    for narrow weights where C cannot run."""
    require_narrow(model, weights)
    if obstacle(model):
        if not with_graphs(model, enforce_eager):
            return TorchRunner(model, enforce_eager)
        return GraphRunner(model)
    if isinstance(kept, NativeRunner):
        kept.reserve(max_tokens)
        kept.renew()
        return kept
    return NativeRunner(model, max_tokens, weights)


def require_narrow(model: CausalLM, weights: Weights) -> None:
    """Raises `UserError` for weights that are narrower than what is computed in, where C cannot run."""
    if weights != "auto" and (why := obstacle(model)):
        raise UserError(
            f"engine.weights = {weights} is for decoding in C, which cannot run here, since {why}; leave it out, or "
            "give what C needs, which `h1r docs engine` says (on a CPU, engine.dtype = float32)"
        )


def with_graphs(model: CausalLM, enforce_eager: bool) -> bool:
    """Whether `runner_for` records CUDA graphs."""
    return model.device.type == "cuda" and not enforce_eager
