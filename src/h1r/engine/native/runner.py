"""How a step of the native engine is computed: through the model in PyTorch, or in C (fp32 on a CPU). On CUDA the steps
of PyTorch are recorded and replayed (`graphs.py`).

All read one `KVCache` and one `Slots`, and mean the same by every number (`sampling.py` has the definitions). The
C runner keeps packed copies of the weights, which `refresh` renews.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from h1r.common.engines import Weights
from h1r.engine.native.c_decoder import CDecoder, decoder_class, obstacle
from h1r.engine.native.slots import Slots
from h1r.engine.protocol import SamplingParams, is_doubtful
from h1r.engine.sampling import choose, uniform
from h1r.engine.weights_version import weights_version
from h1r.kernels.cpu.build import library
from h1r.kernels.cpu.structs import Sampler
from h1r.models import CausalLM
from h1r.models.cache import KVCache

STOPPED, DOUBTFUL, FULL, BROKEN, LOOPED = 1, 2, 3, 4, 5
"""Codes in `Slots.reason`; 0 goes on. BROKEN: the logits are no numbers, so that nothing could be chosen. LOOPED is
the batch's own."""


class Runner(Protocol):
    """Computes steps over the first n rows of the `cache` and `slots` that `begin` was given, until `end`."""

    @property
    def how(self) -> str:
        """In what a step is computed, in words, and why."""
        ...

    def begin(self, cache: KVCache, slots: Slots, params: Sequence[SamplingParams]) -> None:
        """For traces with any of these params; `confidence_top_k` is the same in all."""
        ...

    def widen(self, params: Sequence[SamplingParams]) -> None:
        """Traces with these params come, too."""
        ...

    def refresh(self) -> None:
        """The model's weights have new values."""
        ...

    def reserve(self, max_tokens: int) -> None:
        """Scratch for calls of so many tokens."""
        ...

    def prefill(self, cache: KVCache, ids_BT: Tensor, counts_B: Tensor, ending: Tensor) -> Tensor:
        """Takes `counts_B` tokens per row into `cache`, the first of each row of `ids_BT`; logits after the last one of
        the rows `ending`."""
        ...

    def sample(self, n: int) -> bool:
        """One token for each of n rows, from their logits; whether any trace ends with it (`Slots.reason`)."""
        ...

    def decode(self, n: int, longest: int) -> None:
        """The tokens just chosen go through the model: new logits. The longest of the n rows then holds `longest`."""
        ...

    def end(self) -> None:
        """Lets go of cache and slots. The next `begin` brings others."""
        ...


class TorchRunner:
    """Any device and type."""

    def __init__(self, model: CausalLM, enforce_eager: bool = False) -> None:
        self.model, self._enforce_eager = model, enforce_eager

    @property
    def how(self) -> str:
        eager = ", step by step as engine.enforce_eager asks" if self._enforce_eager and self._on_cuda else ""
        return f"in PyTorch{eager}, since {obstacle(self.model)}"

    @property
    def _on_cuda(self) -> bool:
        return self.model.device.type == "cuda"

    def begin(self, cache: KVCache, slots: Slots, params: Sequence[SamplingParams]) -> None:
        self.cache, self.slots = cache, slots
        self._confidence_top_k = params[0].confidence_top_k
        self._filtered, self._may_stop_early, self._scaled = [False for _ in _FILTERS], False, False
        self.widen(params)

    def widen(self, params: Sequence[SamplingParams]) -> None:
        self._filtered = [
            on or any(getattr(one, name) != off for one in params)
            for on, (name, off) in zip(self._filtered, _FILTERS, strict=True)
        ]
        self._may_stop_early |= any(one.confidence_threshold is not None for one in params)
        self._scaled |= any(one.temperature != 1 for one in params)

    def refresh(self) -> None:
        """Nothing to do: the model's own tensors are read."""

    def reserve(self, max_tokens: int) -> None:
        """Nothing to do: PyTorch allocates what it needs."""

    def prefill(self, cache: KVCache, ids_BT: Tensor, counts_B: Tensor, ending: Tensor) -> Tensor:
        hidden = self.model.model.cached(ids_BT, cache, counts_B)
        return self.model.logits(hidden[ending, counts_B[ending] - 1]).float()

    def sample(self, n: int) -> bool:
        self._sample_rows(n)
        return bool(self.slots.reason[:n].any())

    def decode(self, n: int, longest: int) -> None:
        self._decode_rows(n, longest)

    def end(self) -> None:
        del self.cache, self.slots

    def _sample_rows(self, n: int) -> None:
        """All of `sample` but its answer. The host waits for nothing, and no shape depends on a value."""
        slots = self.slots
        state = {name: tensor[:n] for name, tensor in slots.state.items()}
        count = state["count"]
        top_k, top_p, min_p = (
            state[name] if on else None for (name, _), on in zip(_FILTERS, self._filtered, strict=True)
        )
        temperature = state["temperature"].float() if self._scaled else None
        drawn = uniform(state["key"], count)
        choice = choose(slots.logits[:n], drawn, temperature, top_k, top_p, min_p, self._confidence_top_k)
        for buffer, value in (
            (slots.tokens, choice.token),
            (slots.logprobs, choice.logprob),
            (slots.sampling_logprobs, choice.sampling_logprob),
            (slots.confidences, choice.confidence),
        ):
            buffer[:n].scatter_(1, count[:, None], value[:, None])
        state["last"].copy_(choice.token)
        reason = slots.reason[:n].zero_()
        doubtful = self._below_threshold(choice.confidence.double(), state) if self._may_stop_early else None
        count += 1
        reason.masked_fill_(count >= state["max_tokens"], FULL)
        if doubtful is not None:
            reason.masked_fill_(doubtful, DOUBTFUL)
        reason.masked_fill_(slots.ends[:n].gather(1, choice.token[:, None]).squeeze(1), STOPPED)
        reason.masked_fill_(choice.logprob.isnan(), BROKEN)

    def _decode_rows(self, n: int, length: int) -> None:
        """As `_sample_rows`, `decode` with attention through `length` positions of the cache."""
        hidden = self.model.model.cached(self.slots.state["last"][:n, None], self.cache.rows(n), None, length)
        self.slots.logits[:n] = self.model.logits(hidden[:, 0]).float()

    def _below_threshold(self, confidence_B: Tensor, state: dict[str, Tensor]) -> Tensor:
        """Whether the mean of the last `window` confidences, once there are so many, lies below the threshold."""
        count, window = state["count"], state["window"]
        leaving = count - window
        held = self.slots.confidences[: len(count)]
        old = held.gather(1, leaving.clamp_min(0)[:, None]).squeeze(1).double()
        state["group_sum"] += confidence_B - torch.where(leaving >= 0, old, torch.zeros_like(old))
        doubtful: Tensor = is_doubtful(state["group_sum"] / window, count + 1, window, state["threshold"])
        return doubtful


_FILTERS = (("top_k", 0), ("top_p", 1.0), ("min_p", 0.0))


def is_filtered(params: SamplingParams) -> bool:
    """Whether top-k, top-p or min-p leaves anything out."""
    return any(getattr(params, name) != off for name, off in _FILTERS)


class NativeRunner:
    """fp32 on a CPU, matrices stored as `weights`: a call into C for the model, and one for all that follows it."""

    def __init__(self, model: CausalLM, max_tokens: int, weights: Weights = "auto") -> None:
        self._model, self._weights, self._vocab = model, weights, model.config.vocab_size
        self._decoder: CDecoder = decoder_class(model)(model, max_tokens, weights)
        self._version = weights_version(model)

    @property
    def how(self) -> str:
        return "in C" if self._weights == "auto" else f"in C, with matrices in {self._weights}"

    def begin(self, cache: KVCache, slots: Slots, params: Sequence[SamplingParams]) -> None:
        self.slots = slots
        self._cache = self._decoder.bind(cache)
        rows = slots.logits.shape[0]
        self._scratch = torch.empty(torch.get_num_threads(), scratch_width(self._vocab))
        self._ones = torch.ones(rows, dtype=torch.long)
        self._rows = torch.arange(rows)
        tensors = {
            "logits": slots.logits, "ends": slots.ends, "tokens": slots.tokens, "logprobs": slots.logprobs,
            "sampling_logprobs": slots.sampling_logprobs, "confidences": slots.confidences, "reason": slots.reason,
            "scratch": self._scratch, **slots.state,
        }  # fmt: skip
        self._sampler = Sampler(
            **{name: tensor.data_ptr() for name, tensor in tensors.items()},
            vocab=self._vocab,
            new_tokens=slots.tokens.shape[1],
            confidence_top_k=params[0].confidence_top_k,
        )

    def widen(self, params: Sequence[SamplingParams]) -> None:
        """Nothing to do: C reads the numbers of each row."""

    def refresh(self) -> None:
        self._decoder.pack()
        self._version = weights_version(self._model)

    def renew(self) -> None:
        """As `refresh`; narrow weights, which are not those of a trainer, only where a change was counted, since they
        take longer to make."""
        if self._weights == "auto" or self._version != weights_version(self._model):
            self.refresh()

    def reserve(self, max_tokens: int) -> None:
        self._decoder.reserve(max_tokens)

    def prefill(self, cache: KVCache, ids_BT: Tensor, counts_B: Tensor, ending: Tensor) -> Tensor:
        bound = self._decoder.bind(cache)
        width = ids_BT.shape[1]
        ids = ids_BT[torch.arange(width) < counts_B[:, None]]
        wanted = counts_B.cumsum(0)[ending] - 1
        logits = torch.empty(len(wanted), self.slots.logits.shape[1])
        self._decoder.run(bound, counts_B, ids, wanted, logits)
        return logits

    def sample(self, n: int) -> bool:
        return bool(library().sample_rows(ctypes.addressof(self._sampler), n, self._scratch.shape[0]))

    def decode(self, n: int, longest: int) -> None:
        last = self.slots.state["last"][:n]
        self._decoder.run(self._cache, self._ones[:n], last, self._rows[:n], self.slots.logits)

    def end(self) -> None:
        del self._cache, self.slots, self._sampler


def scratch_width(vocab: int) -> int:
    """Floats of the sampler's scratch per thread: two rows of the vocabulary in blocks of 64."""
    return 2 * ((vocab + 63) // 64 * 64)
