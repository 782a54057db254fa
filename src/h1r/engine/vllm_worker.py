"""What runs inside vLLM's workers: our sampling as a logits processor, and weights that arrive as safetensors files.

vLLM finds the classes by name (`vllm.py` passes the names), in whatever process its workers live.

* `TraceSampler` draws every token with `engine/sampling.py`, the native engine's code: the same seeds give the same
  tokens, log-probabilities and confidences have one definition, and what a sequence draws does not depend on its batch.
  vLLM's own sampler then sees one possible token per row. vLLM's per-request seeds are not used: on a CPU they fail
  with chunked prefill (0.32: "CPU Generator does not use offset").
* `SeededSampler` gives the same draws to the client of a server.
* `FileWeightTransfer` is a backend of vLLM's weight-transfer interface.
* `WorkerExtension` adds the calls that fetch what `TraceSampler` recorded.

Work per step is tensor work over the batch, with no host synchronisation of its own; Python lists are touched only when
the batch changes and when a trace ends. Shapes: B rows of the batch, S slots of the record, T tokens, V vocabulary.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from vllm.distributed.weight_transfer import (  # type: ignore[import-not-found,unused-ignore]
    WeightTransferEngine,
    WeightTransferEngineFactory,
)
from vllm.distributed.weight_transfer.base import (  # type: ignore[import-not-found,unused-ignore]
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.model_executor.layers.mamba.mamba_mixer2 import MambaMixer2  # type: ignore[import-not-found,unused-ignore]
from vllm.model_executor.model_loader.reload import (  # type: ignore[import-not-found,unused-ignore]
    finalize_layerwise_reload,
    initialize_layerwise_reload,
)
from vllm.platforms import current_platform  # type: ignore[import-not-found,unused-ignore]
from vllm.v1.sample.logits_processor import (  # type: ignore[import-not-found,unused-ignore]
    BatchUpdate,
    LogitsProcessor,
    MoveDirectionality,
)

from h1r.engine.sampling import choose, uniform
from h1r.engine.vllm_stream import KEY
from h1r.engine.windows import Windows

BACKEND = "h1r_files"
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
    temperature: Tensor
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
            if row is None:
                found.append(([], [], [], [], 0))
                continue
            n = len(row.output)
            streams = [
                buffer[row.slot, :n].tolist() for buffer in (self.logprobs_ST, self.sampling_ST, self.confidences_ST)
            ]
            found.append((list(row.output), streams[0], streams[1], streams[2], int(self.windows.below_S[row.slot])))
            self.free.append(row.slot)
        return found

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
            temperature=column("temperature", torch.float32),
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
    """The same draws for the client of a server (`vllm_server.py`), which is started with this class as a processor.

    A request asks for it with `h1r_key`, its random stream's key as text, beside `h1r_temperature`, `h1r_top_k`,
    `h1r_top_p` and `h1r_min_p` in `vllm_xargs`, and temperature 0 for vLLM's own sampler. Nothing is kept.
    """

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
            except (TypeError, ValueError):
                raise ValueError(f"h1r_{name} = {value!r} is no number") from None
        if not -(2**63) <= request["key"] < 2**63:
            raise ValueError("h1r_key has more than 64 bits")
        return request

    def _request(self, params: Any) -> dict[str, Any] | None:
        request = self._parsed(params)
        return None if request is None else {**request, "name": next(_names)}

    def _leave(self, row: _Row | None) -> None:
        if row is not None:
            self.collect([row.request["name"]])


_names = (f"served-{number}" for number in itertools.count())


class WorkerExtension:
    """Methods that vLLM adds to its workers, for `collective_rpc`."""

    def h1r_collect(self, names: Sequence[str]) -> list[Recorded]:
        runner: Any = self.model_runner  # type: ignore[attr-defined]
        processors: Any = runner.input_batch.logitsprocs.non_argmax_invariant
        sampler = next(processor for processor in processors if isinstance(processor, TraceSampler))
        return sampler.collect(names)


@dataclass
class FilesInitInfo(WeightTransferInitInfo):  # type: ignore[misc,unused-ignore]
    """Files need no rendezvous."""


@dataclass
class FilesUpdateInfo(WeightTransferUpdateInfo):  # type: ignore[misc,unused-ignore]
    """files: safetensors files in checkpoint format which every worker can read."""

    files: list[str]


class FileWeightTransfer(WeightTransferEngine):  # type: ignore[misc,unused-ignore]
    """Weights in checkpoint format from safetensors files. Each tensor is written into the storage it already has."""

    init_info_cls = FilesInitInfo
    update_info_cls = FilesUpdateInfo

    def init_transfer_engine(self, init_info: FilesInitInfo) -> None:
        pass

    def start_weight_update(self) -> None:
        initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: FilesUpdateInfo) -> None:
        model: Any = self.model
        model.load_weights(_tensors_of(update_info.files))

    def finish_weight_update(self) -> None:
        finalize_layerwise_reload(self.model, self.model_config)

    def shutdown(self) -> None:
        pass


def _tensors_of(files: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
    for file in files:
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118
                yield name, tensors.get_tensor(name)


def _no_states_from_inside_a_prefill() -> None:
    """Has vLLM's scheduler cut prefills at the borders of blocks, where it stores states for prefix caching.

    0.32 instead lets a mixer hand out the state at a border in the middle of a pass, which its CPU kernel cannot do:
    the first lone prompt longer than a block would end the engine with an IndexError.
    """
    mixer: Any = MambaMixer2
    honest = mixer.get_kv_cache_spec

    def spec(self: Any, vllm_config: Any) -> Any:
        found: Any = honest(self, vllm_config)
        if not getattr(found, "num_prefill_checkpoint_blocks", 0):
            return found
        return replace(found, num_prefill_checkpoint_blocks=0, prefill_checkpoint_alignment=None)

    mixer.get_kv_cache_spec = spec


if BACKEND not in WeightTransferEngineFactory._registry:
    WeightTransferEngineFactory.register_engine(BACKEND, FileWeightTransfer)
    if current_platform.is_cpu():
        _no_states_from_inside_a_prefill()
