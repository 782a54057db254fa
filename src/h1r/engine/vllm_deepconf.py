"""DeepConf's early stop for anybody's vLLM: a logits processor that is there when this package is installed.

    llm.generate(prompts, SamplingParams(extra_args={"deepconf_threshold": 17.2, "deepconf_window": 2048}))
    curl .../v1/completions -d '{..., "vllm_xargs": {"deepconf_threshold": 17.2}}'

Source: arXiv 2508.15260, sections 3.1 and 3.2. The confidence of a token is the negative mean log-probability, in nats,
of the `deepconf_top_k` most probable tokens under the model's own distribution; a group is the last `deepconf_window`
tokens. Once so many exist, the first group whose mean lies below `deepconf_threshold` ends the trace: its next token
can only be one that ends the turn. The same definition, to the code, as in this project's engines (`windows.py`,
`sampling.py`).

Registered in the group `vllm.logits_processors`. vLLM 0.32 has two model runners with an interface each, and refuses to
start when a plugin lacks the one in force; this class has both. Work per step is tensor work over the batch, without
synchronisation with the host. Left out: what a trace's confidences were (ask for `logprobs=20` and average), and the
confidences before a preemption, after which the window begins anew.

Shapes: B rows of a batch, S slots of requests, E end tokens, V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from vllm.sampling_params import SamplingParams  # type: ignore[import-not-found,unused-ignore]
from vllm.v1.sample.logits_processor import (  # type: ignore[import-not-found,unused-ignore]
    BatchUpdate,
    LogitsProcessor,
    MoveDirectionality,
)
from vllm.v1.worker.gpu.sample.logits_processor.interface import (  # type: ignore[import-not-found,unused-ignore]
    LogitsProcessor as LogitsProcessorV2,
)

from h1r.engine.sampling import token_confidence
from h1r.engine.windows import Windows

PREFIX = "deepconf_"
DEFAULTS: dict[str, Any] = {"threshold": None, "window": 2048, "top_k": 20, "end_token_ids": None}


@dataclass(frozen=True)
class Request:
    """What a request asks for: nats, tokens, tokens, and the tokens one of which must follow."""

    threshold: float
    window: int
    top_k: int
    ends: tuple[int, ...]

    @staticmethod
    def of(params: SamplingParams) -> Request | None:
        """None for a request that does not ask for it. Raises `ValueError` for arguments that cannot work.

        Without `deepconf_end_token_ids`, the ends are all tokens that end the request; where there are none, which is
        known only in the worker, the request goes on as if it had not asked.
        """
        given = {k.removeprefix(PREFIX): v for k, v in (params.extra_args or {}).items() if k.startswith(PREFIX)}
        if not given:
            return None
        for key in given.keys() - DEFAULTS.keys():
            raise ValueError(f"{PREFIX}{key} is unknown; {', '.join(PREFIX + name for name in DEFAULTS)} are known")
        threshold, window, top_k, ends = (given.get(name, default) for name, default in DEFAULTS.items())
        if not _is(threshold, float) or not math.isfinite(threshold):
            raise ValueError(f"{PREFIX}threshold = {threshold!r}; it must be a number of nats")
        for name, value in (("window", window), ("top_k", top_k)):
            if not _is(value, int) or value < 1:
                raise ValueError(f"{PREFIX}{name} = {value!r}; it must be a whole number of tokens, 1 or more")
        chosen = [ends] if _is(ends, int) else ends
        if chosen is not None and not (
            isinstance(chosen, list | tuple) and chosen and all(_is(t, int) for t in chosen)
        ):
            raise ValueError(f"{PREFIX}end_token_ids = {ends!r}; it must be a list of token ids")
        stops = set(params.stop_token_ids or ())
        if params.ignore_eos and not (set(chosen) if chosen else stops) <= stops:
            raise ValueError(f"with ignore_eos, {PREFIX}end_token_ids must be among stop_token_ids, to end the request")
        if params.ignore_eos and not stops:
            raise ValueError(f"{PREFIX}threshold needs a token that ends the request, and ignore_eos leaves none")
        return Request(
            float(threshold), int(window), int(top_k), tuple(map(int, chosen or sorted(params.all_stop_token_ids)))
        )


def _is(value: Any, kind: type) -> bool:
    """JSON brings 20 as 20.0 from some clients."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and (kind is float or float(value).is_integer())


@dataclass
class _Rows:
    """Rows of a batch that may be stopped, as tensors [B]; rebuilt when the batch changes."""

    index: Tensor
    slot: Tensor
    outputs: list[list[int]]


class DeepConf(LogitsProcessor, LogitsProcessorV2):  # type: ignore[misc,unused-ignore]
    """See the module. One runner makes it with (config, device, is_pin_memory), the other with (config, state)."""

    def __init__(self, vllm_config: Any, device_or_state: Any, is_pin_memory: bool | None = None) -> None:
        self.state = device_or_state if is_pin_memory is None else None
        self.device: torch.device = device_or_state.device if is_pin_memory is None else device_or_state
        self.pinned = bool(is_pin_memory)
        self.windows = Windows(self.device)
        self.ends_SE = torch.zeros(0, 1, dtype=torch.long, device=self.device)
        self.threshold_S = torch.zeros(0, dtype=torch.float64, device=self.device)
        self.window_S, self.top_k_S = (torch.zeros(0, dtype=torch.long, device=self.device) for _ in range(2))
        self.most = 1
        """Largest top_k of any request so far."""
        self.slots: dict[int, tuple[int, list[int]]] = {}
        """Batch index -> slot, and vLLM's list of the request's output. First runner only."""
        self.free: list[int] = []
        self.asked: set[int] = set()
        """Slots that hold a request which may be stopped. Second runner only."""
        self._rows: _Rows | None = None

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Called when a request comes in. Raises `ValueError`; vLLM makes it its own, status 400."""
        Request.of(sampling_params)

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """First runner: what joined, left and moved in the batch."""
        if batch_update is None:
            return
        self._rows = None
        for index in batch_update.removed:
            self._leave(index)
        for index, params, _, output in batch_update.added:
            self._leave(index)
            request = Request.of(params)
            if request is not None and request.ends:
                if not self.free:
                    old = len(self.threshold_S)
                    self.free.extend(range(old, max(16, 2 * old)))
                slot = self.free.pop()
                self._take(slot, request, len(output))
                self.slots[index] = slot, output
        for a, b, direction in batch_update.moved:
            at_a, at_b = self.slots.pop(a, None), self.slots.pop(b, None)
            if at_a is not None:
                self.slots[b] = at_a
            if at_b is not None and direction == MoveDirectionality.SWAP:
                self.slots[a] = at_b
            elif at_b is not None:
                self.free.append(at_b[0])

    def add_request(self, req_idx: int, sampling_params: SamplingParams) -> bool:
        """Second runner: a request takes slot `req_idx`."""
        assert self.state is not None
        self.asked.discard(req_idx)
        request = Request.of(sampling_params)
        if request is None or not request.ends:
            if req_idx < len(self.threshold_S):
                self.threshold_S[req_idx] = -math.inf
                self.windows.start(req_idx)
            return False
        self._take(req_idx, request, 0)
        # After a preemption, tokens of the answer come back as part of the prefill and are not seen.
        self.windows.first_S[req_idx] = int(self.state.prefill_len.np[req_idx] - self.state.prompt_len.np[req_idx])
        self.asked.add(req_idx)
        return True

    def apply(self, logits: Tensor, ctx: Any = None) -> Tensor:
        """Logits [B, V] in place: where a trace must end, all but its end tokens lose their chance."""
        if ctx is None:
            if not self.slots:
                return logits
            rows = self._rows = self._rows or self._tensors()
            lengths = torch.tensor([len(output) for output in rows.outputs], pin_memory=self.pinned)
            index_B, slot_B, position_B = rows.index, rows.slot, lengths.to(self.device, non_blocking=True)
        else:
            if self.asked.isdisjoint(ctx.idx_mapping_np.tolist()):
                return logits
            assert self.state is not None
            slot_B = ctx.expanded_idx_mapping.long()
            index_B = torch.arange(len(slot_B), device=self.device)
            # Below 0 in the middle of a prompt, whose last piece samples position 0 for good.
            position_B = (ctx.pos.long() + 1 - self.state.prompt_len.gpu[slot_B].long()).clamp_min(0)
        return self._stop(logits, index_B, slot_B, position_B)

    def _stop(self, logits: Tensor, index_B: Tensor, slot_B: Tensor, position_B: Tensor) -> Tensor:
        confidence_B = token_confidence(logits[index_B], self.top_k_S[slot_B], self.most)
        below_B = self.windows.record(slot_B, position_B, confidence_B, self.window_S[slot_B], self.threshold_S[slot_B])
        ends_BE = self.ends_SE[slot_B]
        kept_BE = logits[index_B[:, None], ends_BE]
        # Where another processor forbids every end for now (min_tokens), the trace ends when they are allowed again.
        stop_B = (below_B > 0) & (position_B >= below_B) & (kept_BE > -math.inf).any(-1)
        stop_rows = torch.zeros(len(logits), dtype=torch.bool, device=self.device).scatter(0, index_B, stop_B)
        logits.masked_fill_(stop_rows[:, None], -math.inf)
        logits[index_B[:, None], ends_BE] = kept_BE
        return logits

    def _take(self, slot: int, request: Request, first: int) -> None:
        self._reserve(slot, request)
        ends = [*request.ends, *[request.ends[0]] * (self.ends_SE.shape[1] - len(request.ends))]
        self.ends_SE[slot] = torch.tensor(ends, device=self.device)
        self.threshold_S[slot], self.window_S[slot], self.top_k_S[slot] = (
            request.threshold, request.window, request.top_k
        )  # fmt: skip
        self.windows.start(slot, first)

    def _reserve(self, slot: int, request: Request) -> None:
        old, E = self.ends_SE.shape
        # The second runner's rows may be of any slot, asked for or not.
        S = max(old, 16, 1 << slot.bit_length()) if self.state is None else self.state.max_num_reqs
        if len(request.ends) > E:
            more = self.ends_SE[:, :1].expand(-1, len(request.ends) - E)
            self.ends_SE = torch.cat([self.ends_SE, more], dim=1)
        if old < S:
            grown = self.ends_SE.new_zeros(S - old, self.ends_SE.shape[1])
            self.ends_SE = torch.cat([self.ends_SE, grown])
            never = torch.full((S - old,), -math.inf, dtype=torch.float64, device=self.device)
            self.threshold_S = torch.cat([self.threshold_S, never])
            self.window_S, self.top_k_S = (
                torch.cat([one, one.new_ones(S - old)]) for one in (self.window_S, self.top_k_S)
            )
        self.windows.reserve(S, request.window)
        self.most = max(self.most, request.top_k)

    def _leave(self, index: int) -> None:
        found = self.slots.pop(index, None)
        if found is not None:
            self.free.append(found[0])

    def _tensors(self) -> _Rows:
        index = sorted(self.slots)
        return _Rows(
            index=torch.tensor(index, device=self.device),
            slot=torch.tensor([self.slots[i][0] for i in index], device=self.device),
            outputs=[self.slots[i][1] for i in index],
        )
