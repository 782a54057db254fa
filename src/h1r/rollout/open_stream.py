"""A stream of an engine that takes in prompts at any time: what engines over other engines are made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Iterator

from h1r.engine.protocol import Engine, Prompt, Running, SamplingParams
from h1r.records import Trace


class OpenStream:
    """Prompts have numbers in the order of `add`, and traces the number of their prompt as `prompt_index`.

    Iterating it runs what was added, before or meanwhile, and ends when nothing runs. What is added after that waits
    for the next iteration, which opens another stream of the engine.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._count = 0
        self._waiting: list[tuple[int, Prompt, SamplingParams]] = []
        self._numbers: list[int] = []
        """Of each prompt of the engine's stream in progress; empty without one."""

    @property
    def waits(self) -> bool:
        """Whether a prompt was added that no iteration has begun yet."""
        return bool(self._waiting)

    def add(self, prompt: Prompt, params: SamplingParams) -> int:
        """The prompt's number."""
        number, self._count = self._count, self._count + 1
        if self._numbers:
            self._engine.add(prompt, params)
            self._numbers.append(number)
        else:
            self._waiting.append((number, prompt, params))
        return number

    def __iter__(self) -> Iterator[Trace]:
        while self._waiting:
            begun, self._waiting = self._waiting, []
            self._numbers = [number for number, _, _ in begun]
            live = self._engine.stream([prompt for _, prompt, _ in begun], [params for _, _, params in begun])
            try:
                for trace in live:
                    yield self._renumber(trace)
            finally:
                self._numbers = []
                if isinstance(live, Generator):
                    live.close()

    def cancel(self, number: int) -> list[Trace]:
        """See `Engine.cancel`."""
        self._waiting = [one for one in self._waiting if one[0] != number]
        if number not in self._numbers:
            return []
        return [self._renumber(trace) for trace in self._engine.cancel(self._numbers.index(number))]

    def progress(self) -> list[Running]:
        """See `Engine.progress`."""
        if not self._numbers:
            return []
        return [
            dataclasses.replace(one, prompt_index=self._numbers[one.prompt_index]) for one in self._engine.progress()
        ]

    def _renumber(self, trace: Trace) -> Trace:
        trace.prompt_index = self._numbers[trace.prompt_index]
        return trace
