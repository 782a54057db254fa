"""Requests of the native engine from the moment they are added until their traces are handed out.

They run in one `Batch`, whose cache and slots are as large as `memory.py` finds room for. A request that is added while
a batch runs joins it. Where the batch is too small (shorter slots, or fewer of them than could be used now), its rows
move to a larger one if both fit the memory side by side for the moment of copying. Where they do not, the request waits
until the batch has ended, and so do all that come after it: nothing that fits overtakes what does not for ever.

When nothing is left, cache and slots are given back; the next request reads the model's weights anew.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from h1r.common.progress import note
from h1r.common.prose import size
from h1r.config import EngineSection
from h1r.engine.native.batch import Batch, Drawn
from h1r.engine.native.graphs import GraphRunner
from h1r.engine.native.kept_states import KeptStates
from h1r.engine.native.memory import MemoryPlan, budget_bytes, plan_for, plan_of, waves
from h1r.engine.native.runner import Runner
from h1r.engine.native.select_runner import runner_for
from h1r.engine.native.slots import Request
from h1r.engine.protocol import Prompt, Running, SamplingParams
from h1r.engine.requests import ONE_TOP_K, Rooms, failed, refusal
from h1r.engine.weights_version import weights_version
from h1r.models import CausalLM
from h1r.records import Trace


@dataclass
class _Listener:
    """Tokens of a request that nobody has read yet, and how many of its traces are still to end."""

    left: int
    tokens: deque[Drawn] = field(default_factory=deque)


WORTH_SAYING = 2**30
"""Bytes of a plan that people want to know of even where it bounds nothing. Our choice."""


class Scheduler:
    """See `NativeEngine`, whose `add`, `step`, `cancel` and `tokens` these are."""

    def __init__(self, model: CausalLM, section: EngineSection, tokenizer: Any, eos_token_ids: Sequence[int]) -> None:
        self.model, self.section, self.tokenizer, self.eos_token_ids = model, section, tokenizer, eos_token_ids
        self.memory: MemoryPlan | None = None
        self.kept = KeptStates()
        self.runner: Runner | None = None
        self._batch: Batch | None = None
        self._count = 0
        self._rooms = Rooms()
        self._waiting: list[Request] = []
        """What is in no batch yet, in order of arrival."""
        self._ended: list[Trace] = []
        """Traces that ended without a step: of requests that cannot be met."""
        self._listeners: dict[int, _Listener] = {}
        self._passed_by: list[Trace] = []
        """Traces that ended while `tokens` took the steps."""
        self._confidence_top_k: int | None = None
        self._version = weights_version(model)
        """Of the weights that the kept states were computed with."""
        self._budget = 0.0
        self._announced = 0
        self._said_how = False
        self._measured_graphs = 0

    @property
    def busy(self) -> bool:
        """Whether a trace has not been handed out yet."""
        return bool(self._passed_by) or self._running

    @property
    def _running(self) -> bool:
        return bool(self._ended or self._waiting or self._batch is not None)

    def restart(self) -> None:
        """The next request is number 0."""
        self._count = 0
        self._rooms.clear()

    def add(self, prompt: Prompt, params: SamplingParams, listen: bool = False) -> int:
        config = self.model.config
        number = self._count
        params = self._rooms.fitted(number, prompt, params, config.max_position_embeddings)
        why = refusal(prompt, params, self.tokenizer, config.vocab_size, config.max_position_embeddings)
        if why is None:
            if self._confidence_top_k not in (None, params.confidence_top_k):
                raise ValueError(ONE_TOP_K)
            self._confidence_top_k = params.confidence_top_k
        self._count += 1
        if listen:
            self._listeners[number] = _Listener(params.n)
        if why is None:
            self._waiting.append(Request(number, [int(token) for token in prompt], params, listen=listen))
        else:
            self._ended += failed(number, params, why)
        return number

    def step(self) -> list[Trace]:
        """One iteration of the batch; the traces that ended since the last one."""
        before, self._passed_by = self._passed_by, []
        return before + self._step()

    def _step(self) -> list[Trace]:
        try:
            if self._waiting:
                self._place()
            ended, self._ended = self._ended, []
            if self._batch is not None:
                ended += self._batch.step()
                self._hear(self._batch)
                if not self._batch.busy:
                    self._end_batch()
        except BaseException:
            self.close()
            raise
        self._rooms.tell(ended)
        for trace in ended:
            self._one_less(trace.prompt_index)
        if not self._running:
            self._confidence_top_k = None
        return ended

    def tokens(self, number: int) -> Iterator[Drawn]:
        """The tokens of a request that was added with `listen`, as they are drawn; takes steps where there is none."""
        listener = self._listeners.get(number)
        if listener is None:
            raise KeyError(f"request {number} was not added with listen=True, or its tokens have been read")
        while True:
            if self._batch is not None:
                listener.tokens += self._batch.untold([number]).get(number, [])
            while listener.tokens:
                yield listener.tokens.popleft()
            if not listener.left or not self._running:
                self._listeners.pop(number, None)
                return
            self._passed_by += self._step()

    def drawn(self, numbers: Collection[int], of_ended: bool = False) -> dict[int, list[Drawn]]:
        found: dict[int, list[Drawn]] = {}
        listened = self._listeners.keys() & numbers
        running = {} if of_ended or self._batch is None or not listened else self._batch.untold(listened)
        for number in listened:
            listener = self._listeners[number]
            if new := [*listener.tokens, *running.get(number, ())]:
                found[number] = new
            listener.tokens.clear()
            if not listener.left:
                del self._listeners[number]
        return found

    def withdraw(self, number: int) -> int:
        unstarted = [one for one in self._waiting if one.index == number]
        self._waiting = [one for one in self._waiting if one.index != number]
        if self._batch is not None:
            unstarted += self._batch.withdraw(number)
            if not self._batch.busy:
                self._end_batch()
        taken = sum(request.params.n - request.started for request in unstarted)
        for request in unstarted:
            request.params = replace(request.params, n=max(1, request.started))
        if number in self._listeners:
            self._listeners[number].left -= taken
        return taken

    def cancel(self, number: int) -> list[Trace]:
        self._waiting = [request for request in self._waiting if request.index != number]
        traces: list[Trace] = []
        if self._batch is not None:
            traces = self._batch.cancel(number)
            self._rooms.tell(traces)
            self._hear(self._batch)
            if not self._batch.busy:
                self._end_batch()
        if number in self._listeners:
            self._listeners[number].left = 0
        return traces

    def progress(self) -> list[Running]:
        return self._batch.progress() if self._batch is not None else []

    def written(self, prompt_index: int, sample_index: int, first: int) -> list[int]:
        return self._batch.written(prompt_index, sample_index, first) if self._batch is not None else []

    def close(self) -> None:
        """Drops whatever runs and waits."""
        self._waiting, self._ended, self._passed_by, self._listeners = [], [], [], {}
        self._confidence_top_k = None
        self._end_batch()

    def _place(self) -> None:
        """Takes waiting requests into the batch that runs, or into a new one."""
        if self._batch is None:
            self._begin_batch()
            return
        while self._waiting and self._joins(self._batch, self._waiting[0]):
            self._batch.add(self._waiting.pop(0))

    def _joins(self, batch: Batch, request: Request) -> bool:
        """Whether a request fits the batch, which may become larger for it and for those that wait behind it."""
        there, old = batch.requests, batch.plan
        alike = plan_of(self.model, self.section, [*there, request], self._budget, old.sequences, self._measured_graphs)
        fits = old.covers(alike)
        traces = batch.traces + sum(one.params.n for one in self._waiting)
        if fits and min(traces, self.section.max_sequences) <= old.sequences:
            return True
        # Twice as many, so that requests that come one by one are not copied for each of them.
        larger = plan_for(
            self.model, self.section, [*there, *self._waiting], self._budget - old.total + old.fixed,
            self._measured_graphs, 2 * old.sequences,
        )  # fmt: skip
        if larger.sequences > old.sequences or (not fits and larger.sequences >= max(1, len(batch.rows))):
            batch.move(larger)
            self._announce(larger, traces)
            return True
        return fits

    def _begin_batch(self) -> None:
        held = self.memory.fixed if self.memory is not None else 0
        version = weights_version(self.model)
        share = max((_share_kept(request.params) for request in self._waiting), default=0.0)
        if not share or version != self._version:
            self.kept.clear()
        self._version = version
        self._budget = budget_bytes(self.section, self.model.device, held + self.kept.num_bytes)
        # A machine that does not say what is free has no bound, and no share of one can be taken away.
        self.kept.limit = self._budget * share if share else 0.0
        if math.isfinite(self._budget):
            self._budget -= self.kept.limit
        wanted = sum(request.params.n for request in self._waiting)
        found, refused = waves(self.model, self.section, self._waiting, self._budget, self._measured_graphs)
        for request, why in refused:
            self._ended += failed(request.index, request.params, why)
            wanted -= request.params.n
        self._waiting = [request for _, later in found[1:] for request in later]
        if not found:
            return
        plan, requests = found[0]
        self.runner = runner_for(
            self.model, plan.call_tokens, self.runner, self.section.enforce_eager, self.section.weights
        )
        self._announce(plan, wanted)
        self._batch = Batch(
            self.model, self.runner, plan, requests, self.section.prefill_tokens, self.eos_token_ids, self.tokenizer,
            self.kept,
        )  # fmt: skip

    def _announce(self, plan: MemoryPlan, wanted: int) -> None:
        """Says how tokens are decoded, and what memory it takes where that is much, or bounds what runs at once.

        wanted: traces that would run at once if memory were no bound.
        """
        self.memory = plan
        assert self.runner is not None
        if not self._said_how:
            note(f"decoding: {self.runner.how}{self._nothing_to_enforce()}", repeat=False)
            self._said_how = True
        wanted = min(wanted, self.section.max_sequences)
        few = plan.sequences < wanted
        if plan.total > 2 * self._announced and (few or plan.total >= WORTH_SAYING):
            note(plan.sentence() + (f"; {wanted} would run at once with more" if few else ""))
            self._announced = plan.total

    def _end_batch(self) -> None:
        """Cache and slots are gone before the next ones come. What the graphs of a batch took counts from then on."""
        if self._batch is None:
            return
        runner, plan, self._batch = self._batch.runner, self._batch.plan, None
        if isinstance(runner, GraphRunner) and runner.graph_bytes > self._measured_graphs:
            self._measured_graphs = runner.graph_bytes
            note(
                f"CUDA graphs: {runner.recorded} recorded in {runner.seconds:.1f} s, they took "
                f"{size(runner.graph_bytes)} where {size(plan.graphs)} were counted"
            )
        runner.end()

    def _nothing_to_enforce(self) -> str:
        if self.section.enforce_eager and self.model.device.type != "cuda":
            return "; engine.enforce_eager changes nothing, since CUDA graphs need a GPU"
        return ""

    def _hear(self, batch: Batch) -> None:
        for number, tokens in batch.drawn.items():
            if number in self._listeners:
                self._listeners[number].tokens += tokens
        batch.drawn.clear()

    def _one_less(self, number: int) -> None:
        if number in self._listeners:
            self._listeners[number].left -= 1


def _share_kept(params: SamplingParams) -> float:
    """How much of the memory is for states that it has kept: of many long traces, or of some prompts."""
    return 0.5 if params.keep_state else 0.125 if params.keep_prompt else 0.0
