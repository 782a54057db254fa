"""One JSON line on standard error for each request. Prompts and answers are in it only where the operator asks."""

from __future__ import annotations

import json
import sys
import time
from typing import Any, TextIO


class RequestLog:
    """prompts: whether a request's body is logged, too."""

    def __init__(self, prompts: bool = False, quiet: bool = False, stream: TextIO | None = None) -> None:
        self.prompts, self._quiet, self._stream = prompts, quiet, stream

    def write(self, **values: Any) -> None:
        """A line; what is None is left out. Only ASCII, so that no text of a request commands a terminal."""
        if not self._quiet:
            line = {"time": round(time.time(), 3), **{key: one for key, one in values.items() if one is not None}}
            print(json.dumps(line), file=self._stream or sys.stderr, flush=True)
