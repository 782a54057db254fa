"""A logits processor that slows a vLLM server down while a file exists, for tests of what is seen while it runs.

A small model takes hundreds of steps a second. On a busy machine the server's front end then reads them all before it
passes one on: nobody outside sees a trace grow, which no model of any use is fast enough for.
"""

from __future__ import annotations

import os
import time
from typing import Any

from vllm.v1.sample.logits_processor import LogitsProcessor

FILE, SECONDS = "H1R_TEST_PACE_FILE", 0.01


class Paced(LogitsProcessor):  # type: ignore[misc,unused-ignore]
    def __init__(self, vllm_config: Any, device: Any, is_pin_memory: bool) -> None:
        self.file = os.environ[FILE]

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: Any) -> None:
        pass

    def apply(self, logits: Any) -> Any:
        if os.path.exists(self.file):
            time.sleep(SECONDS)
        return logits
