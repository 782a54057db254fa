"""Model families behind one interface: `load`, `load_weights`, `save`, `build`, `CausalLM`.

torch is imported on first use. `registry.py` knows the families; one folder each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from h1r.models.causal_lm import CausalLM as CausalLM
    from h1r.models.checkpoint import build as build
    from h1r.models.checkpoint import load as load
    from h1r.models.checkpoint import load_weights as load_weights
    from h1r.models.checkpoint import save as save

__all__ = ["CausalLM", "build", "load", "load_weights", "save"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from h1r.models import checkpoint

    return getattr(checkpoint, name)
