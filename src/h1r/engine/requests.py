"""What every engine does with a request before it runs: parameters for each prompt, and what speaks against it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from h1r.common.prose import counted
from h1r.engine.protocol import Prompt, SamplingParams
from h1r.records import Trace

ONE_STREAM = "another stream of this engine is in progress; read it to its end, or close it, before the next one"
NO_STREAM = "no stream of this engine is in progress, so there is none to add a prompt to"
NO_LOOPS = "this engine cannot end a trace where it repeats itself; take the native one, or another scaling.method"
ONE_TOP_K = "confidence_top_k must be the same for all requests of one call"

_EMPTY, _OUTSIDE, _TOO_LONG = "the prompt is empty", "the prompt holds token ids outside", "prompt ("


def is_unanswerable(error: str | None) -> bool:
    """Whether a trace's error says that its prompt itself is one that no engine of this model can answer: asking again
    is no use, and it says nothing of the engine."""
    return error is not None and error.startswith((_EMPTY, _OUTSIDE, _TOO_LONG))


def one_per_prompt(
    prompts: Sequence[Prompt], params: SamplingParams | Sequence[SamplingParams]
) -> list[SamplingParams]:
    """The parameters of each prompt, where one may stand for all. Raises `ValueError` when the numbers differ."""
    each = [params] * len(prompts) if isinstance(params, SamplingParams) else list(params)
    if len(each) != len(prompts):
        raise ValueError(f"{len(prompts)} prompts came with {len(each)} SamplingParams")
    return each


def refusal(prompt: Prompt, params: SamplingParams, tokenizer: Any, vocab_size: int, positions: int) -> str | None:
    """Why no engine of this vocabulary, with so many positions, could meet a request; None when one can."""
    if len(prompt) == 0:
        return _EMPTY
    if not 0 <= min(prompt) <= max(prompt) < vocab_size:
        return f"{_OUTSIDE} the vocabulary of {vocab_size}"
    if max(params.stop_token_ids, default=0) >= vocab_size:
        return f"stop_token_ids holds ids outside the vocabulary of {vocab_size}"
    if len(prompt) + params.max_tokens > positions:
        return too_long(len(prompt), params.max_tokens, positions)
    if params.stop and tokenizer is None:
        return "stop strings need an engine with a tokenizer"
    return None


def too_long(prompt_tokens: int, max_tokens: int, positions: int) -> str:
    """Why a prompt of so many tokens cannot be answered, in words that `is_unanswerable` knows."""
    return (
        f"{_TOO_LONG}{prompt_tokens}) and max_tokens ({max_tokens}) exceed the engine's "
        f"{counted(positions, 'position')}; shorten "
        "the prompt, or lower max_tokens"
    )


def failed(prompt_index: int, params: SamplingParams, why: str) -> Iterator[Trace]:
    """The traces of a request that cannot be met: empty, and each says why."""
    for sample in range(params.n):
        yield Trace(prompt_index, sample, [], "", [], [], [], "error", seed=params.seed + sample, error=why)
