"""A process that answers a line of JSON with a line of JSON, so that engines take turns without sharing anything."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any


class Answering:
    """Starts it. `ready`: its first line, which it writes when it can be asked. environment: what differs in it; None:
    unset. name: whose it is; hint: what to do where it ends by itself, which is a `SystemExit`."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str | None] | None = None,
        hint: str = "its error is above",
        silent: bool = False,
    ) -> None:
        self.name, self._hint = name, hint
        variables = {**os.environ, **(environment or {})}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL if silent else None,
            text=True, env={name: value for name, value in variables.items() if value is not None},
        )  # fmt: skip
        self.ready = self._answer()

    def ask(self, asked: Any) -> Any:
        """Its answer."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # said below
            print(json.dumps(asked), file=self._process.stdin, flush=True)
        return self._answer()

    def end(self) -> None:
        """Nothing that it holds is worth waiting for."""
        self._process.kill()
        self._process.communicate()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended with {self._process.wait()}; {self._hint}")
        return json.loads(line)
