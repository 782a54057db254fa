"""What runs inside vLLM's workers: our sampling as a logits processor, and what it records of each trace.

vLLM finds the classes by name (`vllm.py` passes the names), in whatever process its workers live.

* `TraceSampler` draws every token with `engine/sampling.py`, the native engine's code: the same seeds give the same
  tokens, log-probabilities and confidences have one definition, and what a sequence draws does not depend on its batch.
  vLLM's own sampler then sees one possible token per row. vLLM's per-request seeds are not used: on a CPU they fail
  with chunked prefill (0.32: "CPU Generator does not use offset").
* `SeededSampler` gives the same draws to the client of a server.
* `WorkerExtension` adds the calls that fetch what these recorded.
* Weights arrive through `transfer.py`, which the import of this module makes known to vLLM.

Work per step is tensor work over the batch, with no host synchronisation of its own; Python lists are touched only when
the batch changes and when a trace ends. Shapes: B rows of the batch, S slots of the record, T tokens, V vocabulary.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import vllm  # type: ignore[import-not-found,unused-ignore]
from torch import Tensor
from vllm.v1.sample.logits_processor import (  # type: ignore[import-not-found,unused-ignore]
    BatchUpdate,
    LogitsProcessor,
    MoveDirectionality,
)

from h1r.engine.confidence_window import Windows, recent_means
from h1r.engine.protocol import SamplingParams
from h1r.engine.sampling import choose, uniform
from h1r.engine.vllm.stream import KEY
from h1r.engine.vllm.transfer import RECEIVED
from h1r.engine.vllm.versions import untested

if why := untested(str(vllm.__version__)):  # a server that was told to load this ends with the sentence
    raise ImportError(why)

MAX_NAME_CHARS = 200
Recorded = tuple[list[int], list[float], list[float], list[float], int]
"""Tokens, log-probabilities, sampling log-probabilities, confidences, and after how many tokens the mean confidence
first fell below the threshold (0: it did not)."""


@dataclass
class _Row:
    """One trace. `output` is vLLM's own list of the tokens that count; a prefill in chunks samples some that do not."""

    request: dict[str, Any]
    output: list[int]
    slot: int


@dataclass
class _Batch:
    """The rows of the running batch as tensors [B], rebuilt when the batch changes."""

    rows: list[_Row]
    index: Tensor
    slot: Tensor
    key: Tensor
    temperature: Tensor | None
    filters: tuple[Tensor | None, Tensor | None, Tensor | None]
    threshold: Tensor | None
    window: Tensor
    end: Tensor
    confidence_top_k: int


class TraceSampler(LogitsProcessor):  # type: ignore[misc,unused-ignore]
    """Chooses the token of every row and keeps what a `Trace` needs until `collect` asks for it.

    A trace whose mean confidence over the window falls below its threshold is made to end: its next token is its end
    token, which is not part of the trace.
    """

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        self.device = device
        self.rows: dict[int, _Row] = {}
        self.traces: dict[str, _Row] = {}
        self.free: list[int] = []
        self.logprobs_ST, self.sampling_ST, self.confidences_ST = (torch.zeros(0, 0, device=device) for _ in range(3))
        self.windows = Windows(device)
        self._batch: _Batch | None = None

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        if batch_update is None:
            return
        self._batch = None
        for index in batch_update.removed:
            self._leave(self.rows.pop(index, None))
        for index, params, _, output in batch_update.added:
            self._leave(self.rows.pop(index, None))
            if request := self._request(params):
                self.rows[index] = self._row(request, output)
        for a, b, direction in batch_update.moved:
            row_a, row_b = self.rows.pop(a, None), self.rows.pop(b, None)
            if row_a is not None:
                self.rows[b] = row_a
            if row_b is not None and direction == MoveDirectionality.SWAP:
                self.rows[a] = row_b

    def apply(self, logits: Tensor) -> Tensor:
        if not self.rows:
            return logits
        batch = self._batch = self._batch or self._tensors()
        position_B = torch.tensor([len(row.output) for row in batch.rows], device=self.device)
        self._reserve_tokens(max(len(row.output) for row in batch.rows) + 1)
        logits_BV = logits[batch.index]
        draw_B = uniform(batch.key, position_B)
        choice = choose(logits_BV, draw_B, batch.temperature, *batch.filters, batch.confidence_top_k)
        place = (batch.slot, position_B)
        self.logprobs_ST[place] = choice.logprob
        self.sampling_ST[place] = choice.sampling_logprob
        self.confidences_ST[place] = choice.confidence
        token_B = choice.token
        if batch.threshold is not None:
            below_B = self.windows.record(batch.slot, position_B, choice.confidence, batch.window, batch.threshold)
            token_B = torch.where((below_B > 0) & (position_B >= below_B), batch.end, token_B)
        logits[batch.index] = -torch.inf
        logits[batch.index, token_B] = 0.0
        return logits

    def collect(self, names: Sequence[str]) -> list[Recorded]:
        """What was recorded for these traces, in order; empty for one that never started. Forgets them."""
        found: list[Recorded] = []
        for name in names:
            row = self.traces.pop(name, None)
            found.append(([], [], [], [], 0) if row is None else self._recorded(row))
            if row is not None:
                self.free.append(row.slot)
        return found

    def progress(self, names: Sequence[str]) -> list[tuple[int, float | None] | None]:
        """Of these traces, in order: tokens so far, and the mean confidence of the last `window` of them (None before
        the first); None for one that has not started."""
        begun = [row for name in names if (row := self.traces.get(name)) is not None and row.output]
        means: dict[int, float] = {}
        if begun:
            slot, count, window = (
                torch.tensor(numbers, device=self.device)
                for numbers in zip(*((r.slot, len(r.output), r.request["window"]) for r in begun), strict=True)
            )
            recent = recent_means(self.confidences_ST, slot, count, window)
            means = {row.slot: mean for row, mean in zip(begun, recent.tolist(), strict=True)}
        rows = (self.traces.get(name) for name in names)
        return [None if row is None else (len(row.output), means.get(row.slot)) for row in rows]

    def _recorded(self, row: _Row) -> Recorded:
        n = len(row.output)
        streams = [
            buffer[row.slot, :n].tolist() for buffer in (self.logprobs_ST, self.sampling_ST, self.confidences_ST)
        ]
        return list(row.output), streams[0], streams[1], streams[2], int(self.windows.below_S[row.slot])

    def _request(self, params: Any) -> dict[str, Any] | None:
        request: dict[str, Any] | None = (params.extra_args or {}).get(KEY)
        return request

    def _leave(self, row: _Row | None) -> None:
        """A row leaves the batch; what was recorded stays for `collect`, or until the trace comes back."""

    def _row(self, request: dict[str, Any], output: list[int]) -> _Row:
        """A new trace takes a slot; one that comes back after preemption still has its own."""
        row = self.traces.get(request["name"])
        if row is None:
            if not self.free:
                self._reserve_slots()
            row = self.traces[request["name"]] = _Row(request, output, self.free.pop())
            stops = request["threshold"] > -math.inf
            self.windows.reserve(len(self.logprobs_ST), request["window"] if stops else 1)
            self.windows.start(row.slot)
        row.output = output
        return row

    def _tensors(self) -> _Batch:
        index = sorted(self.rows)
        rows = [self.rows[i] for i in index]

        def column(name: str, dtype: torch.dtype) -> Tensor:
            return torch.tensor([row.request[name] for row in rows], dtype=dtype, device=self.device)

        def where_set(name: str, off: float, dtype: torch.dtype) -> Tensor | None:
            return None if all(row.request[name] == off for row in rows) else column(name, dtype)

        return _Batch(
            rows=rows,
            index=torch.tensor(index, device=self.device),
            slot=torch.tensor([row.slot for row in rows], device=self.device),
            key=column("key", torch.long),
            temperature=where_set("temperature", 1.0, torch.float32),
            filters=(
                where_set("top_k", 0, torch.long),
                where_set("top_p", 1.0, torch.float64),
                where_set("min_p", 0.0, torch.float64),
            ),
            threshold=where_set("threshold", -torch.inf, torch.float64),
            window=column("window", torch.long),
            end=torch.tensor([row.request["end"] or 0 for row in rows], device=self.device),
            confidence_top_k=rows[0].request["confidence_top_k"],
        )

    def _reserve_slots(self) -> None:
        old, T = self.logprobs_ST.shape
        self.free.extend(range(old, max(16, 2 * old)))
        self._resize(max(16, 2 * old), T)

    def _reserve_tokens(self, needed: int) -> None:
        S, old = self.logprobs_ST.shape
        if needed > old:
            self._resize(S, max(64, 2 * old, needed))

    def _resize(self, S: int, T: int) -> None:
        for name in ("logprobs_ST", "sampling_ST", "confidences_ST"):
            old = getattr(self, name)
            new = old.new_zeros(S, T)
            new[: old.shape[0], : old.shape[1]] = old
            setattr(self, name, new)


class SeededSampler(TraceSampler):
    """The same draws for the client of a server (`engine/server/`), which is started with this class as a processor.

    A request asks for it with `h1r_key`, its random stream's key as text, beside `h1r_temperature`, `h1r_top_k`,
    `h1r_top_p` and `h1r_min_p` in `vllm_xargs`, and temperature 0 for vLLM's own sampler. What is recorded of one with
    an `h1r_name` is kept for `collect`, of as many that are not running as two full batches; the others leave nothing.
    """

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        super().__init__(vllm_config, device, is_pin_memory)
        self.most_kept = 2 * int(vllm_config.scheduler_config.max_num_seqs)
        self.kept: dict[str, None] = {}
        """Names of traces with a record that are not in the batch: they ended, or vLLM preempted them."""
        self.taken: set[str] = set()
        """Names of traces in the batch whose record was collected, so that nobody asks for it again."""

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Called when a request comes in. Raises `ValueError`; vLLM makes it its own, status 400."""
        cls._parsed(sampling_params)

    @staticmethod
    def _parsed(params: Any) -> dict[str, Any] | None:
        given: dict[str, Any] = params.extra_args or {}
        if "h1r_key" not in given:
            return None
        request: dict[str, Any] = {"threshold": -math.inf, "window": 1, "end": None, "confidence_top_k": 1}
        for name, default in (("key", ""), ("temperature", 1.0), ("top_k", 0), ("top_p", 1.0), ("min_p", 0.0)):
            value: Any = given.get(f"h1r_{name}", default)
            try:
                request[name] = float(value) if isinstance(default, float) else int(value)
            except (TypeError, ValueError, OverflowError):
                raise ValueError(f"h1r_{name} = {str(value)[:40]!r} is no number") from None
        # The ranges, which are the protocol's; a top_k beyond any vocabulary would not fit a tensor.
        SamplingParams(
            temperature=request["temperature"], top_p=request["top_p"], top_k=request["top_k"], min_p=request["min_p"]
        )
        request["top_k"] = min(request["top_k"], 1 << 24)
        if not -(2**63) <= request["key"] < 2**63:
            raise ValueError("h1r_key has more than 64 bits")
        own = given.get("h1r_name")
        if own is not None and not (isinstance(own, str) and len(own) <= MAX_NAME_CHARS):
            raise ValueError(f"h1r_name = {str(own)[:40]!r} is no text of at most {MAX_NAME_CHARS} characters")
        return {**request, "own_name": own}

    def collect(self, names: Sequence[str]) -> list[Recorded]:
        """As of `TraceSampler`; of a trace that still runs, what there is so far."""
        running = {row.request["name"]: row for row in self.rows.values()}
        found = []
        for name in names:
            if name in running:
                # Its slot is in use until it leaves the batch.
                self.taken.add(name)
                found.append(self._recorded(running[name]))
            else:
                self.kept.pop(name, None)
                found += super().collect([name])
        return found

    def _request(self, params: Any) -> dict[str, Any] | None:
        request = self._parsed(params)
        return None if request is None else {**request, "name": request["own_name"] or next(_names)}

    def _row(self, request: dict[str, Any], output: list[int]) -> _Row:
        self.kept.pop(request["name"], None)
        return super()._row(request, output)

    def _leave(self, row: _Row | None) -> None:
        if row is None:
            return
        name = row.request["name"]
        if row.request["own_name"] is None or name in self.taken:
            self.taken.discard(name)
            super().collect([name])
            return
        self.kept[name] = None
        while len(self.kept) > self.most_kept:
            # Its client is gone, or it would have asked.
            super().collect([oldest := next(iter(self.kept))])
            del self.kept[oldest]


_names = (f"served-{number}" for number in itertools.count())


class WorkerExtension:
    """Methods that vLLM adds to its workers, for `collective_rpc`."""

    def h1r_collect(self, names: Sequence[str]) -> list[Recorded]:
        return self._h1r_sampler().collect(names)

    def h1r_sampling_logprobs(self, names: Sequence[str]) -> list[list[float]]:
        return [sampling_logprobs for _, _, sampling_logprobs, _, _ in self.h1r_collect(names)]

    def h1r_progress(self, names: Sequence[str]) -> list[tuple[int, float | None] | None]:
        return self._h1r_sampler().progress(names)

    def h1r_received(self) -> dict[str, int]:
        """Checksum of each tensor of the weights that this worker took last, by name; empty before the first."""
        return dict(RECEIVED)

    def h1r_unreadable(self, files: Sequence[str]) -> list[str]:
        """Which of these files this worker cannot read."""
        return [file for file in files if not os.access(file, os.R_OK)]

    def _h1r_sampler(self) -> TraceSampler:
        runner: Any = self.model_runner  # type: ignore[attr-defined]
        processors: Any = runner.input_batch.logitsprocs.non_argmax_invariant
        return next(processor for processor in processors if isinstance(processor, TraceSampler))
