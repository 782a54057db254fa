"""What every engine promises: prompts in, traces out. Names follow vLLM, so that one engine swaps for another.

`scaling` and `evals` know engines only by this file.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from h1r.records import Trace
from h1r.response.loops import Loop

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to sample one request. Raises `ValueError` at construction for values that cannot work.

    n: traces per prompt, which share one prefill. temperature 0 is greedy. `seed`: trace j of a request draws from the
    stream `seed + j`, whatever else is in the batch. `stop`: a string, or several, that end a trace, kept out of its
    text (their tokens stay in `token_ids`). `stop_token_ids`: in addition to the model's own end tokens.

    DeepConf (arXiv 2508.15260): `confidence_top_k` tokens enter each token confidence; once `confidence_window` tokens
    exist, the trace ends when their mean confidence falls below `confidence_threshold` (nats; None: never).

    loop: a trace that runs into such a loop ends with it (None: never). An engine that cannot tell fails the request.

    keep_state: the trace may be gone on with in the next call, by a prompt that begins with this one and its tokens; an
    engine may keep what spares it the prefill of these. keep_prompt: the same of the prompt alone, for chats whose next
    turn leaves out what was thought. Both change no result.

    fit: where the model's context leaves fewer tokens than max_tokens behind the prompt, the answer has these, and its
    trace says so (`Trace.room`). Without it such a request fails.
    """

    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    max_tokens: int = 256
    seed: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    confidence_top_k: int = 20
    confidence_window: int = 2048
    confidence_threshold: float | None = None
    loop: Loop | None = None
    keep_state: bool = False
    keep_prompt: bool = False
    fit: bool = False

    def __post_init__(self) -> None:
        for name, one in (("stop", str), ("stop_token_ids", int)):
            given: Any = getattr(self, name)
            object.__setattr__(self, name, (given,) if isinstance(given, one) else tuple(given or ()))
        threshold = self.confidence_threshold
        checks = {
            "n": _is_int(self.n, 1),
            "temperature": 0 <= self.temperature < math.inf,
            "top_p": 0 < self.top_p <= 1,
            "top_k": _is_int(self.top_k, 0),
            "min_p": 0 <= self.min_p <= 1,
            "max_tokens": _is_int(self.max_tokens, 1),
            "seed": _is_int(self.seed),
            "stop": all(isinstance(stop, str) and stop for stop in self.stop),
            "stop_token_ids": all(_is_int(token, 0) for token in self.stop_token_ids),
            "confidence_top_k": _is_int(self.confidence_top_k, 1),
            "confidence_window": _is_int(self.confidence_window, 1),
            "confidence_threshold": threshold is None or not math.isnan(threshold),
        }
        for name, ok in checks.items():
            if not ok:
                raise ValueError(f"SamplingParams.{name} = {getattr(self, name)!r} is out of range")

    @property
    def filters(self) -> bool:
        """Whether sampling renormalises over a subset, which biases importance ratios (no RL on such traces)."""
        return self.top_p < 1 or self.top_k > 0 or self.min_p > 0


def is_doubtful(mean: Any, count: Any, window: Any, threshold: Any) -> Any:
    """DeepConf's stop rule: whether a trace of `count` tokens ends, the last `window` of which have that `mean`
    confidence. Numbers, or arrays of numpy or torch of one shape; before a window is full, `mean` may be anything.

    What runs in Python decides by this function; the C sampler has the rule once more (`verdict` in `sample.c`).
    """
    return (count >= window) & (mean < threshold)


def _is_int(value: Any, least: int | None = None) -> bool:
    """Numpy's whole numbers are some, too; `True` is none."""
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    return whole and (least is None or int(value) >= least)


Prompt = Sequence[int]
"""A prompt is its token ids: the chat template is applied once, by whoever knows the tokenizer."""


class ChatPrompt(list[int]):
    """A prompt that may have its `messages` ({role, content}), for engines that take these: without a tokenizer it has
    no token ids."""

    def __init__(self, token_ids: Iterable[int] = (), messages: Sequence[dict[str, str]] = ()) -> None:
        super().__init__(token_ids)
        self.messages = tuple(messages)


@dataclass(frozen=True, slots=True)
class Running:
    """A trace that has not ended yet. `group_confidence`: mean confidence of its last `confidence_window` tokens, or of
    all there are; nats, None before the first token."""

    prompt_index: int
    sample_index: int
    num_tokens: int
    group_confidence: float | None


class Engine(Protocol):
    """A generator of traces, for one caller and one stream at a time."""

    def generate(self, prompts: Sequence[Prompt], params: SamplingParams | Sequence[SamplingParams]) -> list[Trace]:
        """All traces, ordered by (prompt_index, sample_index). One `SamplingParams`, or one per prompt."""
        ...

    def stream(self, prompts: Sequence[Prompt], params: SamplingParams | Sequence[SamplingParams]) -> Iterator[Trace]:
        """The same traces, each as soon as it ends. Closing the iterator cancels what still runs; `RuntimeError` when
        another stream of this engine has not been read to its end or closed."""
        ...

    def add(self, prompt: Prompt, params: SamplingParams) -> int:
        """Adds a prompt to the stream in progress, between two of its traces, and returns its `prompt_index`: how many
        prompts came before it. `RuntimeError` without a stream in progress, unless the engine takes requests of its
        own (`NativeEngine.add`); `ValueError` where `confidence_top_k` is not the stream's."""
        ...

    def cancel(self, prompt_index: int) -> list[Trace]:
        """Ends the running and waiting traces of one prompt of the stream in progress and returns the running ones
        as they stand (finish_reason "cancelled"), so that every token spent is counted. They are not yielded again."""
        ...

    def watch(self, look: Callable[[], None] | None) -> None:
        """`look` is called between the steps of every later stream, so that a display can call `progress` while the
        stream's caller waits for the next trace; None ends it. It must be quick, and change nothing but by `cancel`."""
        ...

    def progress(self) -> list[Running]:
        """The traces of the stream in progress that have begun and were not handed out yet; empty without one. It may
        wait for the device or for another process, so call it a few times a second, not at every step."""
        ...

    def load_weights(self, weights: Mapping[str, torch.Tensor] | str | Path) -> None:
        """Takes new weights (a state dict of the model, or a checkpoint directory) for all later requests."""
        ...


@runtime_checkable
class TellsTokens(Protocol):
    """An engine whose running traces can be read while they grow. Not every engine can: vLLM's workers keep the tokens
    of a trace to themselves until it ends."""

    def written(self, prompt_index: int, sample_index: int, first: int = 0) -> list[int]:
        """The token ids of a running trace, from number `first` on, without one that ends it; empty for a trace that
        does not run. Called when `Engine.progress` is, and as quick."""
        ...
