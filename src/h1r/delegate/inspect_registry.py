"""What inspect_ai finds of ours by its entry point: models as `h1r/CHECKPOINT`, and the sandbox `h1r`.

inspect_ai imports this file when it looks for a name, so what needs torch is imported only when a model is asked for.
"""

from __future__ import annotations

from typing import Any

from inspect_ai.model import ModelAPI, modelapi
from inspect_ai.util import sandboxenv

from h1r.delegate.inspect_sandbox import SandboxFolder


@modelapi(name="h1r")
def h1r() -> type[ModelAPI]:
    """Our engines as a provider of models."""
    from h1r.delegate.inspect_model import H1R

    return H1R


@sandboxenv(name="h1r")
def sandbox() -> type[Any]:
    """Our sandbox as an environment of tasks."""
    return SandboxFolder
