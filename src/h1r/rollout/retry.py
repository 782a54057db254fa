"""The policy for traces that the engine fails at (`finish_reason` "error"), the same wherever traces are generated.

1. A failed trace is asked for again once, with its own seed, when the rest of the call has ended.
2. What fails twice is handed out as it is and counts as an error: no part of a score, a vote or a gradient.
3. When more than `max_failed_share` of the traces of one call fail twice, the call raises `UserError` with the reason
   of the first one.
4. A prompt that no engine of the model can answer (too long, or with ids outside the vocabulary) is not asked again,
   and does not count in that share: the others go on. A call with nothing else raises `UnanswerableError`.
"""

from __future__ import annotations

import dataclasses
import reprlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from h1r.common.progress import note
from h1r.engine.protocol import Engine, Prompt, Running, SamplingParams
from h1r.engine.requests import is_unanswerable, one_per_prompt
from h1r.errors import UserError
from h1r.records import Trace
from h1r.rollout.prompts import ProblemPrompt

if TYPE_CHECKING:
    import torch


__all__ = ["RetryingEngine", "UnanswerableError", "is_unanswerable"]


class UnanswerableError(UserError):
    """None of the prompts of a call can be answered; `traces` says so of each."""

    def __init__(self, sentence: str, traces: Sequence[Trace]) -> None:
        super().__init__(sentence)
        self.traces = traces


class RetryingEngine:
    """`engine`, with that policy. Without failures its streams are those of `engine`."""

    def __init__(self, engine: Engine, max_failed_share: float) -> None:
        self._engine, self._max_failed_share = engine, max_failed_share
        self._again: list[Trace] = []
        """The failed traces that the inner stream in progress asks for again, one prompt each."""
        self._cancelled: set[int] = set()

    def generate(self, prompts: Sequence[Prompt], params: SamplingParams | Sequence[SamplingParams]) -> list[Trace]:
        """See `Engine.generate`."""
        return sorted(self.stream(prompts, params), key=lambda trace: (trace.prompt_index, trace.sample_index))

    def stream(self, prompts: Sequence[Prompt], params: SamplingParams | Sequence[SamplingParams]) -> Iterator[Trace]:
        """See `Engine.stream`. Raises `UserError` when too many traces failed twice."""
        self._again, self._cancelled = [], set()
        failed: list[Trace] = []
        for trace in self._engine.stream(prompts, params):
            if trace.finish_reason == "error":
                failed.append(trace)
            else:
                yield trace
        if not failed:
            return
        each = one_per_prompt(prompts, params)
        unanswerable = [trace for trace in failed if is_unanswerable(trace.error)]
        failed = [trace for trace in failed if not is_unanswerable(trace.error)]
        twice = [trace for trace in failed if trace.prompt_index in self._cancelled]
        self._again = [trace for trace in failed if trace.prompt_index not in self._cancelled]
        try:
            if self._again:
                for trace in self._engine.stream(
                    [prompts[one.prompt_index] for one in self._again], [_alone(each, one) for one in self._again]
                ):
                    self._renumber(trace)
                    if trace.finish_reason == "error":
                        twice.append(trace)
                    else:
                        yield trace
        finally:
            self._again = []
        total = sum(one.n for one in each)
        if len(unanswerable) == total:
            raise UnanswerableError(_nothing(unanswerable[0], prompts), unanswerable)
        self._refuse(twice, total - len(unanswerable), prompts)
        if unanswerable:
            found = len({trace.prompt_index for trace in unanswerable})
            note(f"{found} of {len(prompts)} prompts cannot be answered, the first since {unanswerable[0].error}")
        yield from (*unanswerable, *twice)

    def cancel(self, prompt_index: int) -> list[Trace]:
        """See `Engine.cancel`. Failed traces of that prompt are not asked for again."""
        self._cancelled.add(prompt_index)
        if not self._again:
            return self._engine.cancel(prompt_index)
        numbers = [number for number, one in enumerate(self._again) if one.prompt_index == prompt_index]
        return [self._renumber(trace) for number in numbers for trace in self._engine.cancel(number)]

    def watch(self, look: Callable[[], None] | None) -> None:
        """See `Engine.watch`."""
        self._engine.watch(look)

    def progress(self) -> list[Running]:
        """See `Engine.progress`."""
        if not self._again:
            return self._engine.progress()
        return [
            dataclasses.replace(one, prompt_index=first.prompt_index, sample_index=first.sample_index)
            for one in self._engine.progress()
            for first in [self._again[one.prompt_index]]
        ]

    def load_weights(self, weights: Mapping[str, torch.Tensor] | str | Path) -> None:
        """See `Engine.load_weights`."""
        self._engine.load_weights(weights)

    def _renumber(self, trace: Trace) -> Trace:
        first = self._again[trace.prompt_index]
        trace.prompt_index, trace.sample_index = first.prompt_index, first.sample_index
        return trace

    def _refuse(self, failed: Sequence[Trace], total: int, prompts: Sequence[Prompt]) -> None:
        if len(failed) <= self._max_failed_share * total:
            return
        first = failed[0]
        if len(failed) == total:
            raise UserError(_nothing(first, prompts))
        raise UserError(
            f"the engine failed at {len(failed)} of {total} traces, twice each, and rollout.max_failed_share = "
            f"{self._max_failed_share:g} allows fewer; the first: {first.error}{_about(first, prompts)}"
        )


def _nothing(first: Trace, prompts: Sequence[Prompt]) -> str:
    return f"the engine generated nothing: {first.error}{_about(first, prompts)}"


def _about(trace: Trace, prompts: Sequence[Prompt]) -> str:
    prompt = prompts[trace.prompt_index]
    return f" (asked {reprlib.repr(prompt.problem.question)})" if isinstance(prompt, ProblemPrompt) else ""


def _alone(each: Sequence[SamplingParams], trace: Trace) -> SamplingParams:
    """The request for this trace and no other."""
    params = each[trace.prompt_index]
    return dataclasses.replace(params, n=1, seed=params.seed + trace.sample_index)
