"""The tracker that every run has: a file of JSON lines, one for each step of a stage."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from h1r.common.files import write_text


class Metrics:
    """`metrics.jsonl`: one flat JSON object per step, flushed at once.

    On resume at step N, lines of step N and later (written by the attempt that died) are cut off, so that a step has
    one line.
    """

    def __init__(self, path: str | Path, start_step: int = 0) -> None:
        self.path = Path(path)
        kept = [line for line in read_metrics(self.path) if line["step"] < start_step] if self.path.exists() else []
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))
        self._handle = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 - lives as long as the stage

    def log(self, step: int, values: Mapping[str, float | None]) -> None:
        """Appends the line of one step. NaN and infinity become null: they are no JSON, and no measurement."""
        sane = {key: value if value is not None and math.isfinite(value) else None for key, value in values.items()}
        self._handle.write(json.dumps({"step": step, "time": round(time.time(), 3), **sane}) + "\n")
        self._handle.flush()

    def close(self) -> None:
        self._handle.close()


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a metrics file; a torn last line (the writer was killed) is left out."""
    lines = []
    for text in Path(path).read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines
