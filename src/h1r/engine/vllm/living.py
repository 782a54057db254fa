"""vLLM's objects in this process, behind which its core runs in another. Imports no vLLM."""

from __future__ import annotations

from functools import wraps
from typing import Any

from h1r.errors import EngineLostError


class Living:
    """`of` as it is, but for what it says when the core has died: `EngineLostError`, in place of `dead`."""

    def __init__(self, of: Any, dead: type[Exception]) -> None:
        self._of, self._dead = of, dead

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._of, name)
        if not callable(found):
            return found

        @wraps(found)
        def call(*arguments: Any, **options: Any) -> Any:
            try:
                return found(*arguments, **options)
            except self._dead as error:
                raise EngineLostError(
                    "vLLM's own process has died, and what it said is above, if it said anything; look whether the "
                    "machine had memory for it (engine.gpu_memory_utilization, engine.max_sequences), and run the "
                    "command again (a training run goes on with --resume)"
                ) from error

        return call
