"""Recorded complete traces played back as if an engine were generating them, to price other budgets and settings.

The concurrency model: `slots` sequences are decoded together, one token each per step; requests wait in the order in
which they came and enter a slot as soon as one is free; prefill takes no time. A trace ends at its recorded end, or
earlier at the first full window below its request's threshold, or in its request's loop; where that is its last token,
an end token or a stop string comes first, and running out of tokens does not, as in the engines. At a cancellation,
traces in slots have spent the tokens of the steps since they entered, and waiting ones have spent nothing.
`slots=None`: every request starts at once.
"""

from __future__ import annotations

import dataclasses
import heapq
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from h1r.engine.protocol import Prompt, Running, SamplingParams
from h1r.records import FinishReason, Trace
from h1r.response.loops import loop_end
from h1r.scaling.answer_groups import AnswerGroups
from h1r.scaling.answers import Extract, extract_answer
from h1r.scaling.ballot import Method, Solution
from h1r.scaling.confidence import stop_length
from h1r.scaling.run import solve_many


def simulate_many(
    problems: Sequence[Sequence[Trace]],
    params: Method,
    *,
    slots: int | None = None,
    extract: Extract | Sequence[Extract] = extract_answer,
    groups: Sequence[AnswerGroups] | None = None,
) -> list[Solution]:
    """`solve_many` on recorded traces, all problems sharing the slots. Trace j of a problem is `problems[i][j]`.

    Raises `ValueError` when a problem has fewer traces than the budget, or one that is not complete.
    """
    for index, traces in enumerate(problems):
        if len(traces) < params.budget:
            raise ValueError(
                f"problem {index} has {len(traces)} recorded traces, fewer than the budget {params.budget}"
            )
    engine = ReplayEngine(problems, slots)
    prompts = [[index] for index in range(len(problems))]
    return solve_many(engine, prompts, params, seeds=[0] * len(problems), extract=extract, groups=groups)


def cut(trace: Trace, length: int, reason: FinishReason) -> Trace:
    """A trace as it was after `length` tokens. Text belongs to whole ones."""
    return dataclasses.replace(
        trace, finish_reason=reason, text=trace.text if length == trace.num_tokens else "",
        token_ids=trace.token_ids[:length], logprobs=trace.logprobs[:length],
        sampling_logprobs=trace.sampling_logprobs[:length], confidences=trace.confidences[:length],
    )  # fmt: skip


@dataclasses.dataclass(slots=True)
class _Request:
    prompt_index: int
    sample_index: int
    trace: Trace
    params: SamplingParams
    start: int = 0
    length: int = 0
    reason: FinishReason = "stop"

    def begin(self, now: int) -> None:
        """Settles where the trace will end; not before it is admitted, since many never are."""
        self.start, self.length, self.reason = now, self.trace.num_tokens, self.trace.finish_reason
        ended = self.length + (self.trace.finish_reason == "length")
        if self.params.loop is not None:
            at = loop_end(self.trace.token_ids, self.params.loop)
            if at is not None and at < ended:
                self.length, self.reason, ended = at, "repetition", at + 1
        if self.params.confidence_threshold is not None:
            window, threshold = self.params.confidence_window, self.params.confidence_threshold
            at = stop_length(self.trace.confidences, window, threshold)
            if at is not None and at < ended:
                self.length, self.reason = at, "confidence"

    def result(self, length: int, reason: FinishReason) -> Trace:
        trace = cut(self.trace, length, reason)
        trace.prompt_index, trace.sample_index = self.prompt_index, self.sample_index
        return trace


class ReplayEngine:
    """An engine over recorded traces: prompt `[i]` with seed s yields `recorded[i][s + j]` as its trace j."""

    def __init__(self, recorded: Sequence[Sequence[Trace]], slots: int | None = None) -> None:
        for index, traces in enumerate(recorded):
            for j, trace in enumerate(traces):
                if trace.finish_reason in ("confidence", "repetition", "cancelled"):
                    raise ValueError(f"problem {index}, trace {j} was cut short and cannot be replayed")
        self._recorded = recorded
        self._slots = slots
        self._now = 0
        self._count = 0
        self._waiting: deque[_Request] = deque()
        self._running: list[tuple[int, int, int, _Request]] = []

    @property
    def steps(self) -> int:
        """Steps since the stream began, each a token for every slot in use."""
        return self._now

    def generate(self, prompts: Sequence[Prompt], params: SamplingParams | Sequence[SamplingParams]) -> list[Trace]:
        return sorted(self.stream(prompts, params), key=lambda trace: (trace.prompt_index, trace.sample_index))

    def stream(self, prompts: Sequence[Prompt], params: SamplingParams | Sequence[SamplingParams]) -> Iterator[Trace]:
        every = [params] * len(prompts) if isinstance(params, SamplingParams) else list(params)
        self._now, self._running, self._count = 0, [], 0
        self._waiting = deque()
        for prompt, of in zip(prompts, every, strict=True):
            self.add(prompt, of)
        while self._waiting or self._running:
            self._admit()
            self._now = self._running[0][0]
            ended: list[_Request] = []
            while self._running and self._running[0][0] == self._now:
                ended.append(heapq.heappop(self._running)[-1])
            for request in ended:
                yield request.result(request.length, request.reason)

    def add(self, prompt: Prompt, params: SamplingParams) -> int:
        index, self._count = self._count, self._count + 1
        recorded = self._recorded[prompt[0]]
        self._waiting.extend(_Request(index, j, recorded[params.seed + j], params) for j in range(params.n))
        return index

    def cancel(self, prompt_index: int) -> list[Trace]:
        self._waiting = deque(request for request in self._waiting if request.prompt_index != prompt_index)
        gone = sorted(entry[1:] for entry in self._running if entry[-1].prompt_index == prompt_index)
        self._running = [entry for entry in self._running if entry[-1].prompt_index != prompt_index]
        heapq.heapify(self._running)
        return [entry[-1].result(self._now - entry[-1].start, "cancelled") for entry in gone]

    def watch(self, look: Callable[[], None] | None) -> None:
        """Nothing is decoded, so there is nothing to look at."""

    def progress(self) -> list[Running]:
        return []

    def load_weights(self, weights: Mapping[str, Any] | str | Path) -> None:
        raise NotImplementedError("recorded traces have no weights")

    def _admit(self) -> None:
        while self._waiting and (self._slots is None or len(self._running) < self._slots):
            request = self._waiting.popleft()
            request.begin(self._now)
            entry = (self._now + request.length, request.prompt_index, request.sample_index, request)
            heapq.heappush(self._running, entry)
