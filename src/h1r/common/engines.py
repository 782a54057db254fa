"""Engines by the name that `[engine] kind` gives them. What registers, and how it is called: `h1r.engine.choose`."""

from __future__ import annotations

from typing import Any, Literal

from h1r.common.registry import Registry

ENGINES: Registry[Any] = Registry(
    "engine",
    {
        "native": "h1r.engine.native.open:open_native",
        "vllm": "h1r.engine.vllm.open:open_vllm",
        "server": "h1r.engine.server.open:open_server",
        "endpoint": "h1r.engine.endpoint.open:open_endpoint",
    },
)
"""Functions that open an engine, or classes of engines (see `h1r.engine.choose.open_engine`)."""
Weights = Literal["auto", "bfloat16", "int8"]
"""Of `engine.weights`: what a decoder stores its matrices as; `auto`: as it computes."""
engine = ENGINES.register
"""Decorator of such a function or class: `@h1r.engine("mine")`, then `kind = "mine"`."""
