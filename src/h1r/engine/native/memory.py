"""What a call of the native engine will take in memory, before anything is allocated, and how many sequences fit.

    total = fixed + sequences * per_sequence + prompts + graphs

    per_sequence  recurrent state, convolution tail, keys and values of T tokens (`KVCache.bytes_per_slot`), logits
                  and end tokens over the vocabulary, and what is kept of each new token (`Slots.bytes_per_slot`); in
                  PyTorch also the temporaries of a step (`runner_bytes`)
    fixed         in C: packed weights, scratch, rotary table (`runner_bytes`)
    prompts       caches of the prompts prefilled together, and their logits; in PyTorch also the temporaries of their
                  prefill (`CausalLM.prefill_bytes`) as far as they are more than those of a step, which does not
                  run then; the same again for short prompts, where they may overtake a long one
    graphs        on CUDA: the temporaries of a step again, in the graphs' own pool, and what the driver keeps of the
                  graphs; what an earlier call measured where that is more (`graphs.py`)

Weights of the model itself are the caller's and not counted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from h1r.common.memory import free_memory_bytes, installed_memory_bytes
from h1r.common.prose import size
from h1r.config import EngineSection
from h1r.engine.native.memory_bytes import prefill_bytes, runner_bytes
from h1r.engine.native.runner import is_filtered
from h1r.engine.native.slots import Request, Slots
from h1r.models import CausalLM

SHARE_OF_FREE = 0.8
SHARE_OF_ALL = 0.5
"""Of what the machine has, where nobody tells what is free (Macs). Our choice."""
_MEND = "lower max_tokens or shorten the prompt, or raise engine.memory_gib"


@dataclass(frozen=True)
class MemoryPlan:
    """Sizes in bytes; `sequences` of up to `tokens` tokens each, `call_tokens` in one pass through the model."""

    sequences: int
    tokens: int
    new_tokens: int
    call_tokens: int
    fixed: int
    per_sequence: int
    prompts: int
    graphs: int
    budget: float

    @property
    def total(self) -> int:
        return self.fixed + self.sequences * self.per_sequence + self.prompts + self.graphs

    def covers(self, other: MemoryPlan) -> bool:
        """Whether what was allocated by this plan does for `other`, a plan of as many sequences."""
        names = ("tokens", "new_tokens", "call_tokens", "fixed", "per_sequence", "prompts", "graphs")
        return all(getattr(self, name) >= getattr(other, name) for name in names)

    def sentence(self) -> str:
        limit = "" if self.budget == float("inf") else f" of {size(self.budget)}"
        return (
            f"memory: {self.sequences} x {size(self.per_sequence)} for sequences of up to {self.tokens} tokens"
            f" + {size(self.prompts)} for prompts + {size(self.fixed)} for packed weights and scratch"
            f"{f' + {size(self.graphs)} for CUDA graphs' if self.graphs else ''} = {size(self.total)}{limit}"
        )


def group_of(waiting: Sequence[Request], slots: int, prefill_tokens: int) -> list[Request]:
    """The first requests whose prompts are prefilled together: as many as slots need and `prefill_tokens` allows."""
    group: list[Request] = []
    traces = longest = 0
    for request in waiting:
        longest = max(longest, len(request.prompt))
        if group and (traces >= slots or longest * (len(group) + 1) > prefill_tokens):
            break
        group.append(request)
        traces += request.params.n
    return group


def plan_for(
    model: CausalLM,
    section: EngineSection,
    requests: Sequence[Request],
    budget: float,
    measured_graphs: int = 0,
    sequences: int = 0,
) -> MemoryPlan:
    """For these requests: as many sequences as `budget` allows, perhaps none. measured_graphs: bytes that the graphs of
    earlier calls took. sequences: as many as this are of use, even where the requests have fewer traces."""
    most = min(section.max_sequences, max(sequences, sum(request.params.n for request in requests)))
    found = plan_of(model, section, requests, budget, most, measured_graphs)
    fits, too_many = 0, most
    while found.total > budget and too_many - fits > 1:
        middle = (fits + too_many) // 2
        if plan_of(model, section, requests, budget, middle, measured_graphs).total <= budget:
            fits = middle
        else:
            too_many = middle
    return found if found.total <= budget else plan_of(model, section, requests, budget, fits, measured_graphs)


def plan_of(
    model: CausalLM,
    section: EngineSection,
    requests: Sequence[Request],
    budget: float,
    sequences: int,
    measured_graphs: int,
) -> MemoryPlan:
    """For these requests and so many sequences, whatever the budget."""
    config, dtype = model.config, model.dtype
    tokens = max(request.budget for request in requests)
    new_tokens = max(request.params.max_tokens for request in requests)
    groups = _groups(requests, sequences, section.prefill_tokens)
    chunk = min(section.prefill_tokens, max(rows * longest for rows, longest in groups))
    call_tokens = max(chunk, sequences)
    filtered = any(is_filtered(request.params) for request in requests)
    runner = runner_bytes(model, call_tokens, tokens, filtered, section.enforce_eager, section.weights)
    steps = sequences * runner.per_slot

    def prompt_bytes(rows: int, longest: int) -> int:
        columns = min(longest, max(1, section.prefill_tokens // rows))
        return rows * (model.cache_type.bytes_per_slot(config, longest, dtype) + 4 * config.vocab_size) + max(
            0, prefill_bytes(model, rows, columns, longest) - steps
        )

    prompts = max(prompt_bytes(*group) for group in groups)
    overtaking = [request for request in requests if len(request.prompt) <= section.prefill_tokens]
    if overtaking and len(overtaking) < len(requests):
        # Which of them come together depends on when. A group has traces for the slots and no more.
        most = min(len(overtaking), -(-sequences // min(request.params.n for request in overtaking)))
        lengths = {len(request.prompt) for request in overtaking}
        prompts += max(prompt_bytes(min(most, section.prefill_tokens // length), length) for length in lengths)
    each = model.cache_type.bytes_per_slot(config, tokens, dtype) + Slots.bytes_per_slot(config.vocab_size, new_tokens)
    return MemoryPlan(
        sequences, tokens, new_tokens, call_tokens, runner.fixed, each + runner.per_slot, prompts,
        max(runner.graphs + sequences * runner.graphs_per_slot, measured_graphs), budget,
    )  # fmt: skip


def _groups(requests: Sequence[Request], sequences: int, prefill_tokens: int) -> list[tuple[int, int]]:
    """Rows and longest prompt of each group of `group_of`, in order."""
    found: list[tuple[int, int]] = []
    at = 0
    while at < len(requests):
        group = group_of(requests[at:], sequences, prefill_tokens)
        found.append((len(group), max(len(request.prompt) for request in group)))
        at += len(group)
    return found


def waves(
    model: CausalLM,
    section: EngineSection,
    requests: Sequence[Request],
    budget: float,
    measured_graphs: int = 0,
) -> tuple[list[tuple[MemoryPlan, list[Request]]], list[tuple[Request, str]]]:
    """Requests in groups that each fit the budget, to be run one after another, and those that can never fit, each
    with a sentence. One group when all fit together; else the longest requests wait for the next."""
    fitting, refused = [], []
    for request in requests:
        alone = plan_for(model, section, [request], budget, measured_graphs)
        if alone.sequences:
            fitting.append(request)
        else:
            needed = plan_of(model, section, [request], budget, 1, measured_graphs).total
            refused.append((
                request,
                f"prompt ({len(request.prompt)}) and max_tokens ({request.params.max_tokens}) need "
                f"{size(needed)} of memory, the engine has {size(budget)}; {_MEND}",
            ))  # fmt: skip
    result = []
    while fitting:
        wave, later = list(fitting), []
        while not (found := plan_for(model, section, wave, budget, measured_graphs)).sequences:
            longest = max(wave, key=lambda request: request.budget)
            wave.remove(longest)
            later.append(longest)
        result.append((found, wave))
        fitting = later[::-1]
    return result, refused


def budget_bytes(section: EngineSection, device: torch.device, held: int) -> float:
    """The recipe's `engine.memory_gib`, or 0.8 of what is free on the device plus the bytes that this engine holds
    already. Where the system does not say what is free, half of what the machine has; infinite without that too."""
    if section.memory_gib is not None:
        return section.memory_gib * 2**30
    if device.type == "cuda":
        # What PyTorch keeps for itself but nothing uses is free to this process.
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return SHARE_OF_FREE * (torch.cuda.mem_get_info(device)[0] + kept) + held
    if (free := free_memory_bytes()) is not None:
        return SHARE_OF_FREE * free + held
    return SHARE_OF_ALL * (installed_memory_bytes() or math.inf)
