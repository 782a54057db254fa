"""Recorded answers one can read: the text of each token beside its confidence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from h1r.records import Problem, Trace, Verdict

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_LONGEST_CHARACTER = 4
"""Bytes of the longest UTF-8 character, hence the most byte-level tokens one character can be spread over."""


def token_strings(tokenizer: PreTrainedTokenizerFast, token_ids: Sequence[int]) -> list[str]:
    """The text of each token, special tokens included; joined they are the whole text.

    A character that is spread over several byte-level tokens stands with the last of them, the others are empty.
    """

    def decode(ids: list[int]) -> str:
        return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    pieces: list[str] = []
    pending: list[int] = []
    for token in token_ids:
        pending.append(token)
        text = decode(pending)
        if text.endswith("\ufffd") and len(pending) < _LONGEST_CHARACTER:
            pieces.append("")
        else:
            pieces.append(text)
            pending = []
    if pending:
        pieces[-1] = decode(pending)
    return pieces


def example(
    tokenizer: PreTrainedTokenizerFast | None,
    problem: Problem,
    trace: Trace,
    verdict: Verdict | None = None,
    **more: Any,
) -> dict[str, Any]:
    """One answer, ready for JSON. `verdict=None`: it was not graded (a trace that was cut short). Without a tokenizer
    it has no tokens to show."""
    return {
        "problem_id": problem.id,
        "family": problem.family,
        "question": problem.question,
        "reference": problem.answer,
        "sample_index": trace.sample_index,
        "correct": verdict is not None and verdict.reward >= 1.0,
        "extracted": verdict.extracted if verdict is not None else None,
        "finish_reason": trace.finish_reason,
        "text": trace.text,
        "token_ids": list(trace.token_ids),
        "tokens": [] if tokenizer is None else token_strings(tokenizer, trace.token_ids),
        "confidences": [round(confidence, 3) for confidence in trace.confidences],
        **more,
    }
