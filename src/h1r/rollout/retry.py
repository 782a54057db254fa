"""The policy for traces that the engine fails at (`finish_reason` "error"), the same wherever traces are generated.

1. A failed trace is asked for again with its own seed, when the rest of the call has ended: `rollout.attempts` times
   in all, after a wait that begins with `rollout.backoff_s` and doubles.
2. What fails every time is handed out as it is and counts as an error: no part of a score, a vote or a gradient.
3. When more than `max_failed_share` of the traces of one call do, the call raises `UserError` with the reason of the
   first one.
4. A prompt that no engine of the model can answer (too long, or with ids outside the vocabulary) is not asked again,
   and does not count in that share: the others go on. A call with nothing else raises `UnanswerableError`.
"""

from __future__ import annotations

import dataclasses
import reprlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from h1r.common.progress import note
from h1r.common.servers import Retries
from h1r.config.rollout import RolloutSection
from h1r.engine.protocol import Engine, Prompt, Running, SamplingParams
from h1r.engine.requests import has_no_room, is_unanswerable, one_per_prompt
from h1r.errors import UserError
from h1r.records import Trace
from h1r.rollout.open_stream import OpenStream
from h1r.rollout.prompts import ProblemPrompt

if TYPE_CHECKING:
    import torch


__all__ = ["RetryingEngine", "UnanswerableError", "has_no_room", "is_unanswerable"]


class UnanswerableError(UserError):
    """None of the prompts of a call can be answered; `traces` says so of each."""

    def __init__(self, sentence: str, traces: Sequence[Trace]) -> None:
        super().__init__(sentence)
        self.traces = traces


@dataclass(eq=False)
class _Asked:
    """A prompt of the engine's stream: whose traces they are, and how often these have failed."""

    prompt_index: int
    first: int
    failures: int = 0


class RetryingEngine:
    """`engine`, with that policy. Without failures its streams are those of `engine`."""

    def __init__(self, engine: Engine, section: RolloutSection) -> None:
        self._engine, self._section = engine, section
        self._retries = Retries(section.attempts, section.backoff_s)
        self._stream = OpenStream(engine)
        self._asked: list[_Asked] = []
        self._prompts: list[Prompt] = []
        self._params: list[SamplingParams] = []
        self._cancelled: set[int] = set()

    def generate(self, prompts: Sequence[Prompt], params: SamplingParams | Sequence[SamplingParams]) -> list[Trace]:
        """See `Engine.generate`."""
        return sorted(self.stream(prompts, params), key=lambda trace: (trace.prompt_index, trace.sample_index))

    def stream(self, prompts: Sequence[Prompt], params: SamplingParams | Sequence[SamplingParams]) -> Iterator[Trace]:
        """See `Engine.stream`. Raises `UserError` when too many traces failed at every attempt."""
        each = one_per_prompt(prompts, params)
        self._stream, self._asked, self._cancelled = OpenStream(self._engine), [], set()
        self._prompts, self._params = [], []
        for prompt, one in zip(prompts, each, strict=True):
            self.add(prompt, one)
        left: list[Trace] = []
        lost: list[Trace] = []
        unanswerable: list[Trace] = []
        while self._stream.waits:
            again: list[tuple[Trace, int]] = []
            for trace in self._stream:
                failures = self._renumber(trace).failures + 1
                if trace.finish_reason != "error":
                    yield trace
                elif failures < self._section.attempts and not is_unanswerable(trace.error):
                    again.append((trace, failures))
                else:
                    left.append(trace)
            left += [trace for trace, _ in again if trace.prompt_index in self._cancelled]
            again = [(trace, failures) for trace, failures in again if trace.prompt_index not in self._cancelled]
            if again:
                time.sleep(self._retries.wait_s(max(failures for _, failures in again)))
                for trace, failures in again:
                    self._ask_again(trace, failures)
                continue
            unanswerable += [trace for trace in left if is_unanswerable(trace.error)]
            lost += [trace for trace in left if not is_unanswerable(trace.error)]
            self._refuse(lost, unanswerable)
            handed, left = left, []
            yield from sorted(handed, key=lambda trace: not is_unanswerable(trace.error))
        if unanswerable:
            found = len({trace.prompt_index for trace in unanswerable})
            note(f"{found} of {len(self._prompts)} prompts cannot be answered, the first since {unanswerable[0].error}")

    def add(self, prompt: Prompt, params: SamplingParams) -> int:
        """See `Engine.add`."""
        index = len(self._prompts)
        self._prompts.append(prompt)
        self._params.append(params)
        self._asked.append(_Asked(index, 0))
        self._stream.add(prompt, params)
        return index

    def cancel(self, prompt_index: int) -> list[Trace]:
        """See `Engine.cancel`. Failed traces of that prompt are not asked for again."""
        self._cancelled.add(prompt_index)
        traces = []
        for number, asked in enumerate(self._asked):
            if asked.prompt_index == prompt_index:
                traces += self._stream.cancel(number)
        for trace in traces:
            self._renumber(trace)
        return traces

    def watch(self, look: Callable[[], None] | None) -> None:
        """See `Engine.watch`."""
        self._engine.watch(look)

    def progress(self) -> list[Running]:
        """See `Engine.progress`."""
        return [
            dataclasses.replace(one, prompt_index=asked.prompt_index, sample_index=asked.first + one.sample_index)
            for one in self._stream.progress()
            for asked in [self._asked[one.prompt_index]]
        ]

    def load_weights(self, weights: Mapping[str, torch.Tensor] | str | Path) -> None:
        """See `Engine.load_weights`."""
        self._engine.load_weights(weights)

    def _ask_again(self, trace: Trace, failures: int) -> None:
        """Asks for this trace and no other."""
        params = self._params[trace.prompt_index]
        self._asked.append(_Asked(trace.prompt_index, trace.sample_index, failures))
        alone = dataclasses.replace(params, n=1, seed=params.seed + trace.sample_index)
        self._stream.add(self._prompts[trace.prompt_index], alone)

    def _renumber(self, trace: Trace) -> _Asked:
        asked = self._asked[trace.prompt_index]
        trace.prompt_index, trace.sample_index = asked.prompt_index, asked.first + trace.sample_index
        return asked

    def _refuse(self, failed: Sequence[Trace], unanswerable: Sequence[Trace]) -> None:
        """Raises when too many of all traces asked for so far are lost."""
        asked = sum(one.n for one in self._params)
        if len(unanswerable) == asked:
            raise UnanswerableError(self._nothing(unanswerable[0]), unanswerable)
        total = asked - len(unanswerable)
        if len(failed) <= self._section.max_failed_share * total:
            return
        first = failed[0]
        if len(failed) == total:
            raise UserError(self._nothing(first))
        attempts = self._section.attempts
        times = {1: "once", 2: "twice"}.get(attempts, f"{attempts} times")
        raise UserError(
            f"the engine failed at {len(failed)} of {total} traces, {times} each, and rollout.max_failed_share = "
            f"{self._section.max_failed_share:g} allows fewer; the first: {first.error}{self._about(first)}"
        )

    def _nothing(self, first: Trace) -> str:
        return f"the engine generated nothing: {first.error}{self._about(first)}"

    def _about(self, trace: Trace) -> str:
        prompt = self._prompts[trace.prompt_index]
        return f" (asked {reprlib.repr(prompt.problem.question)})" if isinstance(prompt, ProblemPrompt) else ""
