"""One `stream` call of the native engine in progress. One iteration:

    admit    a chunk of the next prompts is prefilled; every trace of a finished prompt starts as a copy of its state
    sample   one token for each of the n running rows, with log-probability and confidence
    finish   ended rows leave, the last rows take their place, so running rows are always [0, n)
    decode   rows [0, n) of the cache take the new tokens in

While rows run, an iteration prefills one chunk at most, so a long prompt does not hold them up. Sampling, confidence
and stopping work on the whole batch; Python touches single traces only when they start and when they end (and at every
token of a trace with stop strings, or whose tokens somebody asks for).

**Fair admission.** Prompts go through the model in order of arrival, with one exception. While the oldest needs more
than one chunk, every second chunk goes to later prompts that are no longer than a chunk, as many as fit into it
together, and these start at once where slots are free. So a short prompt waits for a long one no longer than a chunk
takes, and a long one is delayed to twice its chunks at most, since nothing overtakes it once it has been prefilled.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from h1r.engine.confidence_window import recent_means
from h1r.engine.native.kept_states import KeptState, KeptStates
from h1r.engine.native.memory import MemoryPlan, group_of
from h1r.engine.native.runner import BROKEN, DOUBTFUL, FULL, LOOPED, STOPPED, Runner
from h1r.engine.native.slots import Request, Row, Slots
from h1r.engine.protocol import Running
from h1r.engine.stop_strings import holds_stop_string, text_of
from h1r.models import CausalLM
from h1r.records import FinishReason, Trace
from h1r.response.loops import LoopWatch

_REASONS: dict[int, FinishReason] = {
    STOPPED: "stop", DOUBTFUL: "confidence", FULL: "length", BROKEN: "error", LOOPED: "repetition",
}  # fmt: skip
_BROKEN_LOGITS = "the model's logits are not finite numbers; its weights may hold NaN or infinite values"


class Drawn(NamedTuple):
    """One token of trace `sample_index` of a request, as in the `Trace` later."""

    sample_index: int
    token_id: int
    logprob: float
    confidence: float


class Batch:
    """The requests of one plan; others may be added where the plan covers them."""

    def __init__(
        self,
        model: CausalLM,
        runner: Runner,
        plan: MemoryPlan,
        requests: Sequence[Request],
        prefill_tokens: int,
        eos_token_ids: Sequence[int],
        tokenizer: Any,
        kept: KeptStates,
    ) -> None:
        self.model, self.runner, self.plan = model, runner, plan
        self.prefill_tokens, self.eos_token_ids, self.tokenizer = prefill_tokens, eos_token_ids, tokenizer
        self.kept = kept
        self.waiting: deque[Request] = deque(requests)
        self.rows: list[Row] = []
        self._decoded = 0
        self._base = 0
        """The largest of `Row.base`: a row grows by one token a step, so the host knows the longest without asking."""
        self.prefilling: Prefill | None = None
        self.overtaking: list[Request] = []
        """Short prompts that were prefilled before an older one, and have traces that did not start yet."""
        self._overtaken = False
        """Whether the last chunk was one of these."""
        self.drawn: dict[int, list[Drawn]] = {}
        """By the number of a request that somebody listens to, tokens of traces that ended before they were told."""
        self.cache = model.new_cache(plan.sequences, plan.tokens)
        self.slots = Slots(plan.sequences, model.config.vocab_size, plan.new_tokens, model.device)
        self._look_at(requests)
        self.runner.begin(self.cache, self.slots, [request.params for request in requests])

    @property
    def busy(self) -> bool:
        return bool(self.waiting or self.rows)

    @property
    def requests(self) -> list[Request]:
        """Those with traces that did not end."""
        return list({id(one): one for one in (*(row.request for row in self.rows), *self.waiting)}.values())

    @property
    def traces(self) -> int:
        """How many did not end."""
        return len(self.rows) + sum(request.params.n - request.started for request in self.waiting)

    def add(self, request: Request) -> None:
        """A request that the plan covers comes last."""
        self.waiting.append(request)
        self._look_at(self.requests)
        self.runner.widen([request.params])

    @torch.inference_mode()
    def move(self, plan: MemoryPlan) -> None:
        """Takes what runs into a larger cache and more slots, those of `plan`."""
        n = len(self.rows)
        cache = self.model.new_cache(plan.sequences, plan.tokens)
        slots = Slots(plan.sequences, self.model.config.vocab_size, plan.new_tokens, self.model.device)
        if n:
            rows = torch.arange(n, device=self.model.device)
            cache.copy_rows_(rows, self.cache, rows, int(self.cache.lengths[:n].max()))
            slots.take_over(self.slots, n)
        self.runner.end()
        self.plan, self.cache, self.slots = plan, cache, slots
        self.runner.reserve(plan.call_tokens)
        self.runner.begin(cache, slots, [request.params for request in self.requests])

    def _look_at(self, requests: Sequence[Request]) -> None:
        self.has_stop_strings = any(request.params.stop for request in requests)
        self.has_loops = any(request.params.loop for request in requests)

    @torch.inference_mode()
    def step(self) -> list[Trace]:
        """One iteration; returns the traces that ended in it."""
        self._admit()
        if not self.rows:
            return []
        finished = self._sample()
        if self.rows:
            self._decoded += 1
            self.runner.decode(len(self.rows), self._base + self._decoded)
        return finished

    @torch.inference_mode()
    def cancel(self, prompt_index: int) -> list[Trace]:
        self.waiting = deque(request for request in self.waiting if request.index != prompt_index)
        self.overtaking = [request for request in self.overtaking if request.index != prompt_index]
        rows = [i for i, row in enumerate(self.rows) if row.request.index == prompt_index]
        return self._remove(rows, ["cancelled"] * len(rows))

    def withdraw(self, prompt_index: int) -> list[Request]:
        """Takes out the requests of one prompt that have traces which did not start; those that run go on."""
        found = [request for request in self.waiting if request.index == prompt_index]
        self.waiting = deque(request for request in self.waiting if request.index != prompt_index)
        self.overtaking = [request for request in self.overtaking if request.index != prompt_index]
        for request in found:
            request.prefix = request.logits = None
        return found

    @torch.inference_mode()
    def untold(self, prompt_indices: Collection[int]) -> dict[int, list[Drawn]]:
        """By request, the tokens of running traces that this has not told yet."""
        rows = [i for i, row in enumerate(self.rows) if row.request.index in prompt_indices]
        counts = dict(enumerate(self.slots.state["count"][: len(self.rows)].tolist()))
        return self._tell(rows, counts) if rows else {}

    @torch.inference_mode()
    def progress(self) -> list[Running]:
        n = len(self.rows)
        if not n:
            return []
        count_B = self.slots.state["count"][:n]
        slot_B = torch.arange(n, device=count_B.device)
        mean_B = recent_means(self.slots.confidences, slot_B, count_B, self.slots.state["window"][:n])
        return [
            Running(row.request.index, row.sample_index, count, mean if count else None)
            for row, count, mean in zip(self.rows, count_B.tolist(), mean_B.tolist(), strict=True)
        ]

    def written(self, prompt_index: int, sample_index: int, first: int) -> list[int]:
        for i, row in enumerate(self.rows):
            if (row.request.index, row.sample_index) == (prompt_index, sample_index):
                ids: list[int] = self.slots.tokens[i, first : int(self.slots.state["count"][i])].tolist()
                return ids
        return []

    def _admit(self) -> None:
        """Starts waiting traces while slots are free."""
        chunk_taken = False
        while self.waiting and len(self.rows) < self.plan.sequences:
            request = self._prefilled()
            if request is None:
                if chunk_taken and self.rows:
                    return
                chunk_taken = True
                self._prefill()
                continue
            free = self.plan.sequences - len(self.rows)
            self._start(request, min(free, request.params.n - request.started))
            if request.started == request.params.n:
                self.waiting.remove(request)
                if request.params.keep_prompt:
                    self._keep_prompt(request)
                if request in self.overtaking:
                    self.overtaking.remove(request)
                request.prefix = request.logits = None

    def _prefilled(self) -> Request | None:
        """The request whose traces start next, if it has been through the model."""
        if self.waiting[0].prefix is not None:
            return self.waiting[0]
        return next(iter(self.overtaking), None)

    def _prefill(self) -> None:
        """One chunk; see the module for whose."""
        oldest = self.waiting[0]
        if self.prefilling is not None and oldest in self.prefilling.requests:
            if not self._overtaken and (short := [one for one in self.waiting if self._may_overtake(one)]):
                self.overtaking = group_of(short, self.plan.sequences, self.prefill_tokens)
                Prefill(self.model, self.overtaking, self.prefill_tokens, self.kept).advance(self.runner)
                self._overtaken = True
                return
        else:
            group = group_of(self.waiting, self.plan.sequences, self.prefill_tokens)
            self.prefilling = Prefill(self.model, group, self.prefill_tokens, self.kept)
        self._overtaken = False
        if self.prefilling.advance(self.runner):
            self.prefilling = None

    def _may_overtake(self, request: Request) -> bool:
        return request.prefix is None and request is not self.waiting[0] and len(request.prompt) <= self.prefill_tokens

    def _start(self, request: Request, count: int) -> None:
        assert request.prefix is not None
        first, samples = len(self.rows), range(request.started, request.started + count)
        self.cache.fork_(first, count, request.prefix, request.prefix_row, len(request.prompt))
        self.slots.start(first, request, samples, (*self.eos_token_ids, *request.params.stop_token_ids))
        base = len(request.prompt) - self._decoded
        self._base = max(self._base, base) if self.rows else base
        loop = request.params.loop
        self.rows.extend(Row(request, sample, base, watch=LoopWatch(loop) if loop else None) for sample in samples)
        request.started += count

    def _sample(self) -> list[Trace]:
        n = len(self.rows)
        ended = self.runner.sample(n)
        stopped = self._stop_strings() if self.has_stop_strings else ()
        looped = self._loops() if self.has_loops else ()
        if not (ended or any(stopped) or any(looped)):
            return []
        codes = self.slots.reason[:n].tolist()
        for i, found in enumerate(looped):
            if found and codes[i] in (0, FULL):
                codes[i] = LOOPED
        for i, found in enumerate(stopped):
            if found and codes[i] != BROKEN:
                codes[i] = STOPPED
        leaving = [i for i, code in enumerate(codes) if code]
        return self._remove(leaving, [_REASONS[codes[i]] for i in leaving])

    def _tell(self, rows: Sequence[int], counts: Mapping[int, int]) -> dict[int, list[Drawn]]:
        """By request, the tokens of rows from where they were told to up to their counts."""
        slots, told = self.slots, [self.rows[i].told for i in rows]
        new = [counts[i] - first for i, first in zip(rows, told, strict=True)]
        if max(new) <= 0:
            return {}
        device, last = slots.reason.device, slots.tokens.shape[1] - 1
        row_R1 = torch.tensor(rows, device=device)[:, None]
        at_RW = (torch.tensor(told, device=device)[:, None] + torch.arange(max(new), device=device)).clamp(max=last)
        columns = (of[row_R1, at_RW].tolist() for of in (slots.tokens, slots.logprobs, slots.confidences))
        found: dict[int, list[Drawn]] = {}
        for i, count, *of_row in zip(rows, new, *columns, strict=True):
            row = self.rows[i]
            tokens = [Drawn(row.sample_index, *one) for one in zip(*(values[:count] for values in of_row), strict=True)]
            if tokens:
                found.setdefault(row.request.index, []).extend(tokens)
            row.told = counts[i]
        return found

    def _stop_strings(self) -> list[bool]:
        found = []
        for row, token in zip(self.rows, self.slots.state["last"].tolist(), strict=False):
            if not row.request.params.stop:
                found.append(False)
                continue
            row.text_ids.append(token)
            found.append(holds_stop_string(self.tokenizer, row.text_ids, row.request.params.stop))
        return found

    def _loops(self) -> list[bool]:
        last = self.slots.state["last"].tolist()
        return [row.watch is not None and row.watch.add(token) for row, token in zip(self.rows, last, strict=False)]

    def _remove(self, leaving: list[int], reasons: Sequence[FinishReason]) -> list[Trace]:
        """Takes rows out as traces and closes the gaps with the last rows."""
        traces = [self._trace(i, reason) for i, reason in zip(leaving, reasons, strict=True)]
        counts = {i: trace.num_tokens for i, trace in zip(leaving, traces, strict=True)}
        if listened := [i for i in leaving if self.rows[i].request.listen]:
            for number, tokens in self._tell(listened, counts).items():
                self.drawn.setdefault(number, []).extend(tokens)
        for i, trace in zip(leaving, traces, strict=True):
            if self.rows[i].request.params.keep_state and trace.finish_reason == "stop":
                self._keep(i, trace)
        n = len(self.rows) - len(leaving)
        gone = set(leaving)
        holes = [i for i in leaving if i < n]
        movers = [i for i in range(n, len(self.rows)) if i not in gone]
        if holes:
            target = torch.tensor(holes, device=self.model.device)
            source = torch.tensor(movers, device=self.model.device)
            self.cache.copy_rows_(target, self.cache, source, int(self.cache.lengths[source].max()))
            self.slots.move(target, source)
            for hole, mover in zip(holes, movers, strict=True):
                self.rows[hole] = self.rows[mover]
        del self.rows[n:]
        self._base = max((row.base for row in self.rows), default=0)
        return traces

    def _keep(self, i: int, trace: Trace) -> None:
        """Copies a row's state, where there is room. Its last token has not been through the model."""
        token_ids = self.rows[i].request.prompt + trace.token_ids[:-1]
        num_bytes = self.plan.per_sequence  # at least what it takes
        if token_ids and self.kept.make_room(num_bytes):
            cache = self.model.new_cache(1, len(token_ids))
            cache.fork_(0, 1, self.cache, i, len(token_ids))
            self.kept.add(KeptState(token_ids, cache, num_bytes))

    def _keep_prompt(self, request: Request) -> None:
        """Copies the state that its traces began with, where there is room."""
        num_bytes = self.plan.per_sequence
        if self.kept.make_room_for_prompt(request.prompt, num_bytes):
            assert request.prefix is not None
            cache = self.model.new_cache(1, len(request.prompt))
            cache.fork_(0, 1, request.prefix, request.prefix_row, len(request.prompt))
            self.kept.add(KeptState(request.prompt, cache, num_bytes))

    def _trace(self, i: int, reason: FinishReason) -> Trace:
        row, slots = self.rows[i], self.slots
        broken = reason == "error"
        n = int(slots.state["count"][i]) - broken  # the last token was drawn from what are no probabilities
        ids = slots.tokens[i, :n].tolist()
        request = row.request
        return Trace(
            prompt_index=request.index,
            sample_index=row.sample_index,
            token_ids=ids,
            text=text_of(self.tokenizer, ids, bool(n and slots.ends[i, ids[-1]]), request.params.stop),
            logprobs=slots.logprobs[i, :n].tolist(),
            sampling_logprobs=slots.sampling_logprobs[i, :n].tolist(),
            confidences=slots.confidences[i, :n].tolist(),
            finish_reason=reason,
            seed=request.params.seed + row.sample_index,
            error=_BROKEN_LOGITS if broken else None,
        )


class Prefill:
    """Prompts that go through the model together, a chunk of their columns at a time, into a cache of their own.

    Of a prompt whose beginning is `kept`, the columns are what follows.
    """

    def __init__(self, model: CausalLM, requests: list[Request], chunk_tokens: int, kept: KeptStates) -> None:
        self.requests = requests
        device = model.device
        self._cache = model.new_cache(len(requests), max(len(request.prompt) for request in requests))
        rest = []
        for row, request in enumerate(requests):
            state = kept.take(request.prompt)
            if state is not None:
                self._cache.fork_(row, 1, state.cache, 0, len(state.token_ids))
            rest.append(request.prompt[0 if state is None else len(state.token_ids) :])
        self._lengths = torch.tensor([len(ids) for ids in rest], device=device)
        self._ids_BT = torch.zeros(len(requests), max(map(len, rest)), dtype=torch.long, device=device)
        for row, ids in enumerate(rest):
            self._ids_BT[row, : len(ids)] = torch.tensor(ids, device=device)
        self._columns = max(1, chunk_tokens // len(requests))
        self._done = 0

    def advance(self, runner: Runner) -> bool:
        """Takes one chunk; when it was the last, the requests have their prefix and logits, and the answer is True."""
        chunk = self._ids_BT[:, self._done : self._done + self._columns]
        counts: Tensor = (self._lengths - self._done).clamp(0, chunk.shape[1])
        ending = ((self._lengths > self._done) & (self._lengths <= self._done + chunk.shape[1])).nonzero().squeeze(1)
        logits = runner.prefill(self._cache, chunk, counts, ending)
        for place, row in enumerate(ending.tolist()):
            self.requests[row].logits = logits[place]
        self._done += chunk.shape[1]
        if self._done < self._ids_BT.shape[1]:
            return False
        for row, request in enumerate(self.requests):
            request.prefix, request.prefix_row = self._cache, row
        return True
