"""What every engine does with a request before it runs: its parameters, the room for its answer, what speaks against
it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
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


def has_no_room(error: str | None) -> bool:
    """Whether a trace's error says that its prompt leaves no room for the answer in the model's context."""
    return error is not None and error.startswith(_TOO_LONG)


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


def allowed_tokens(prompt_tokens: int, asked: int, positions: int) -> int:
    """How many tokens an answer can have of those that are asked for, behind a prompt of so many. `ValueError` where
    there is no room for one."""
    if prompt_tokens >= positions:
        raise ValueError(too_long(prompt_tokens, asked, positions))
    return min(asked, positions - prompt_tokens)


class Rooms:
    """Of a stream's prompts, by index, those whose answers have less room than was asked for (`SamplingParams.fit`)."""

    def __init__(self) -> None:
        self._of: dict[int, int] = {}

    def clear(self) -> None:
        """Forgets them: another stream begins."""
        self._of = {}

    def fitted(self, index: int, prompt: Prompt, params: SamplingParams, positions: int) -> SamplingParams:
        """The parameters, with as many tokens as there is room for; unchanged where there is enough, or none at all."""
        self._of.pop(index, None)  # of a request that was refused under this number
        if not params.fit or not 0 < positions - len(prompt) < params.max_tokens:
            return params
        self._of[index] = allowed_tokens(len(prompt), params.max_tokens, positions)
        return replace(params, max_tokens=self._of[index])

    def of(self, index: int) -> int | None:
        """`Trace.room` of a prompt's traces."""
        return self._of.get(index)

    def tell(self, traces: Iterable[Trace]) -> None:
        """Has the traces of these prompts say so."""
        for trace in traces if self._of else ():
            trace.room = self.of(trace.prompt_index)


def too_long(prompt_tokens: int, max_tokens: int, positions: int) -> str:
    """Why a prompt of so many tokens cannot be answered, in words that `has_no_room` knows."""
    of = f"the engine's {counted(positions, 'position')}"
    if prompt_tokens >= positions:
        return f"{_TOO_LONG}{prompt_tokens}) leaves no room for an answer in {of}; shorten the prompt"
    return (
        f"{_TOO_LONG}{prompt_tokens}) and max_tokens ({max_tokens}) exceed {of}; shorten the prompt, or lower "
        "max_tokens"
    )


def failed(prompt_index: int, params: SamplingParams, why: str) -> Iterator[Trace]:
    """The traces of a request that cannot be met: empty, and each says why."""
    for sample in range(params.n):
        yield Trace(prompt_index, sample, [], "", [], [], [], "error", seed=params.seed + sample, error=why)
