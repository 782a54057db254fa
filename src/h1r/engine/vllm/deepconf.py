"""DeepConf's early stop for anybody's vLLM: a logits processor that is there when this package is installed.

    llm.generate(prompts, SamplingParams(extra_args={"deepconf_threshold": 17.2, "deepconf_window": 2048}))
    curl .../v1/completions -d '{..., "vllm_xargs": {"deepconf_threshold": 17.2}}'

Source: arXiv 2508.15260, sections 3.1 and 3.2. The confidence of a token is the negative mean log-probability, in nats,
of the `deepconf_top_k` most probable tokens under the model's own distribution; a group is the last `deepconf_window`
tokens. Once so many exist, the first group whose mean lies below `deepconf_threshold` ends the trace: its next token
can only be one that ends the turn. The same definition, to the code, as in this project's engines (`sampling.py`,
`confidence_window.py`).

Registered in the group `vllm.logits_processors` through `vllm_plugin.py`. vLLM 0.32 has two model runners with an
interface each, and refuses to start when a plugin lacks the one in force; this class has both. Work per step is tensor
work over the batch, without synchronisation with the host. Left out: what a trace's confidences were (ask for
`logprobs=20` and average), and the confidences before a preemption, after which the window begins anew.

A client learns that a trace was stopped, and did not end by itself, when it names an end token that the model never
writes, in `deepconf_end_token_ids` and in `stop_token_ids`: the choice's `stop_reason` is then that token.

Arguments come from anybody who can send a request, and all share the state that they size: `DeepConfRequest.of` bounds
them where a request comes in, and the worker, which knows the vocabulary, once more.

Shapes: B rows of a batch, S slots of requests, E end tokens, V vocabulary, D draft tokens of a request.
"""

from __future__ import annotations

import logging
import math
import os
from dataclasses import dataclass, replace
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

from h1r.engine.confidence_window import Windows
from h1r.engine.sampling import token_confidence

PREFIX = "deepconf_"
DEFAULTS: dict[str, Any] = {"threshold": None, "window": 2048, "top_k": 20, "end_token_ids": None}
WINDOW_VARIABLE = "H1R_DEEPCONF_MAX_WINDOW"
MAX_WINDOW = int(os.environ.get(WINDOW_VARIABLE, 8192))
"""Tokens, four times the paper's 2,048. The sums of a window take 8 bytes a token for every sequence of a batch."""
MAX_TOP_K = 256
MAX_END_TOKENS = 64
MAX_TOKEN_ID = 1 << 24
"""Above any vocabulary; which ids a model has is known in the worker only."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DeepConfRequest:
    """What a request asks for: nats, tokens, tokens, and the tokens one of which must follow."""

    threshold: float
    window: int
    top_k: int
    ends: tuple[int, ...]

    @staticmethod
    def of(params: SamplingParams) -> DeepConfRequest | None:
        """None for a request that does not ask for it. Raises `ValueError` for arguments that cannot work.

        Without `deepconf_end_token_ids`, the ends are all tokens that end the request; where there are none, which is
        known only in the worker, the request goes on as if it had not asked.
        """
        given = {k.removeprefix(PREFIX): v for k, v in (params.extra_args or {}).items() if k.startswith(PREFIX)}
        if not given:
            return None
        for key in given.keys() - DEFAULTS.keys():
            raise ValueError(
                f"{PREFIX}{key[:40]} is unknown; {', '.join(PREFIX + name for name in DEFAULTS)} are known"
            )
        threshold, window, top_k, ends = (given.get(name, default) for name, default in DEFAULTS.items())
        if not _is_number(threshold):
            raise ValueError(f"{PREFIX}threshold = {_shown(threshold)}; it must be a number of nats")
        for name, value, most in (("window", window, MAX_WINDOW), ("top_k", top_k, MAX_TOP_K)):
            if not _is_whole(value, 1, most):
                hint = f" ({WINDOW_VARIABLE} sets the largest)" if name == "window" else ""
                raise ValueError(
                    f"{PREFIX}{name} = {_shown(value)}; it must be a whole number of tokens from 1 to {most}{hint}"
                )
        chosen = [ends] if isinstance(ends, int | float) else ends
        if chosen is not None and not (
            isinstance(chosen, list | tuple)
            and 1 <= len(chosen) <= MAX_END_TOKENS
            and all(_is_whole(token, 0, MAX_TOKEN_ID) for token in chosen)
        ):
            raise ValueError(
                f"{PREFIX}end_token_ids = {_shown(ends)}; it must be a list of 1 to {MAX_END_TOKENS} token ids"
            )
        stops = set(params.stop_token_ids or ())
        if params.ignore_eos and not (set(chosen) if chosen else stops) <= stops:
            raise ValueError(f"with ignore_eos, {PREFIX}end_token_ids must be among stop_token_ids, to end the request")
        if params.ignore_eos and not stops:
            raise ValueError(f"{PREFIX}threshold needs a token that ends the request, and ignore_eos leaves none")
        named = chosen or sorted(params.all_stop_token_ids)
        if len(named) > MAX_END_TOKENS:
            raise ValueError(
                f"{len(named)} tokens end this request; name at most {MAX_END_TOKENS} in {PREFIX}end_token_ids"
            )
        return DeepConfRequest(float(threshold), int(window), int(top_k), tuple(map(int, named)))


def _is_number(value: Any) -> bool:
    """Whether it is a finite number that a double holds."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and abs(value) <= 1e300  # false for not-a-number; integers compare exactly at any size


def _is_whole(value: Any, least: int, most: int) -> bool:
    """Whether it is a whole number in that range; JSON brings 20 as 20.0 from some clients."""
    return _is_number(value) and least <= value <= most and value == int(value)


def _shown(value: Any) -> str:
    """An argument in a message: nothing that a client sends makes the message long."""
    if isinstance(value, int) and abs(value) >= 1 << 64:
        return "a number of more than 64 bits"
    if isinstance(value, list | tuple):
        return f"{[_shown(one) for one in value[:4]]}{' and more' if len(value) > 4 else ''}"
    return repr(value[:40] if isinstance(value, str) else value)[:80]


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
        speculative = getattr(vllm_config, "speculative_config", None)
        self.drafts = int(speculative.num_speculative_tokens) if speculative is not None else 0
        """Draft tokens of a request in one step, at most. Second runner only: with drafts, the first has no plugins."""
        self.vocab_size = _vocab_size(vllm_config)
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
        DeepConfRequest.of(sampling_params)

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
            request = self._asked_for(params)
            if request is not None:
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
        request = self._asked_for(sampling_params)
        if request is None:
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
            if self.drafts:
                return self._stop(logits, index_B, slot_B, position_B, ctx.expanded_local_pos)
        return self._stop(logits, index_B, slot_B, position_B)

    def _stop(
        self, logits: Tensor, index_B: Tensor, slot_B: Tensor, position_B: Tensor, offset_B: Tensor | None = None
    ) -> Tensor:
        """offset_B: of each row, how many rows of the same request stand before it; None where each has one row."""
        confidence_B = token_confidence(logits[index_B], self.top_k_S[slot_B], self.most)
        below_B = self._record(slot_B, position_B, confidence_B, offset_B)
        ends_BE = self.ends_SE[slot_B]
        kept_BE = logits[index_B[:, None], ends_BE]
        # Where another processor forbids every end for now (min_tokens), the trace ends when they are allowed again.
        stop_B = (below_B > 0) & (position_B >= below_B) & (kept_BE > -math.inf).any(-1)
        stop_rows = torch.zeros(len(logits), dtype=torch.bool, device=self.device).scatter(0, index_B, stop_B)
        logits.masked_fill_(stop_rows[:, None], -math.inf)
        logits[index_B[:, None], ends_BE] = kept_BE
        return logits

    def _record(self, slot_B: Tensor, position_B: Tensor, confidence_B: Tensor, offset_B: Tensor | None) -> Tensor:
        """`Windows.record`, which takes one row of a trace at a time: rows of drafts are recorded one after the other.

        A draft that is refused is recorded again, at the same position, with what follows the token in its place.
        """
        if offset_B is None:
            return self.windows.record(
                slot_B, position_B, confidence_B, self.window_S[slot_B], self.threshold_S[slot_B]
            )
        below_B = torch.zeros_like(position_B)
        nobody = len(self.threshold_S) - 1
        for offset in range(self.drafts + 1):
            turn_B = offset_B == offset
            now_B = torch.where(turn_B, slot_B, nobody)
            found_B = self.windows.record(
                now_B, position_B, confidence_B, self.window_S[now_B], self.threshold_S[now_B]
            )
            below_B = torch.where(turn_B, found_B, below_B)
        return below_B

    def _asked_for(self, params: SamplingParams) -> DeepConfRequest | None:
        """What a request asks for, as far as this model can do it: without ends of its vocabulary it is not stopped.

        Whoever admitted the request has refused what cannot work; what gets here all the same must not end the worker.
        """
        try:
            request = DeepConfRequest.of(params)
        except ValueError as error:
            _log.warning("a request goes on without DeepConf: %s", error)
            return None
        if request is None:
            return None
        ends = tuple(token for token in request.ends if self.vocab_size is None or token < self.vocab_size)
        if len(ends) < len(request.ends):
            _log.warning("DeepConf end tokens outside the vocabulary of %s are left out", self.vocab_size)
        return replace(request, ends=ends) if ends else None

    def _take(self, slot: int, request: DeepConfRequest, first: int) -> None:
        self._reserve(slot, request)
        ends = [*request.ends, *[request.ends[0]] * (self.ends_SE.shape[1] - len(request.ends))]
        self.ends_SE[slot] = torch.tensor(ends, device=self.device)
        self.threshold_S[slot], self.window_S[slot], self.top_k_S[slot] = (
            request.threshold, request.window, request.top_k
        )  # fmt: skip
        self.windows.start(slot, first)

    def _reserve(self, slot: int, request: DeepConfRequest) -> None:
        old, E = self.ends_SE.shape
        # The second runner's rows may be of any slot, asked for or not.
        S = max(old, 16, 1 << slot.bit_length()) if self.state is None else self.state.max_num_reqs
        S += self.drafts > 0 and self.state is not None  # a slot that no request has, for `_record`
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
        # A draft that is refused has taken a place behind the tokens that stay.
        self.windows.reserve(S, request.window + self.drafts)
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


def _vocab_size(vllm_config: Any) -> int | None:
    """Tokens that the model has logits for; None where vLLM does not say."""
    model = getattr(vllm_config, "model_config", None)
    return int(model.get_vocab_size()) if model is not None else None
