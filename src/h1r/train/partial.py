"""Rollouts that take several steps (`rl.partial_tokens`): a trace that has sampled so many new tokens in a step is put
back with what it has, and goes on in the next.

    step t       prompt | tokens of version t                                          the limit of a step: it waits
    step t + 1   prompt | tokens of version t | tokens of version t + 1                it ends, and is graded

So no step waits for more than `partial_tokens` tokens of its longest rollout. The idea is Kimi k1.5's (arXiv
2501.12599, partial rollouts). The cut is at a number of tokens and not at a time, so that a run stays a function of its
recipe. What a trace has is prefilled again by the new weights (states of old ones are not kept), so that each token's
log-probability is the one under its own version, given all tokens before it: what the importance weight of the loss
divides by.

With `rl.in_flight` engines of a cluster cut what runs in the same way when weights come (`cluster/engine_actor.py`), at
no number that anybody knows beforehand.

Left out: cutting rollouts that go on in other turns at a number of tokens; loops and DeepConf's window over a cut
(`rl.end_early`), which begin anew behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from h1r.data.chat import open_thinking
from h1r.engine.protocol import Prompt, SamplingParams
from h1r.engine.stop_strings import text_of
from h1r.records import Trace
from h1r.rollout.conversations import turn_seed


def is_open(trace: Trace, max_tokens: int) -> bool:
    """Whether a trace was cut off before `max_tokens`, and goes on."""
    return trace.finish_reason == "length" and trace.num_tokens < max_tokens


def request(
    prompt: Prompt, trace: Trace, parts: int, params: SamplingParams, limit: int
) -> tuple[Prompt, SamplingParams]:
    """What a trace goes on with: `limit` new tokens at most, of `params.max_tokens` in all. parts: in how many steps
    it has sampled so far, which enters its seed: token t of a request draws from its stream's t-th number."""
    left = params.max_tokens - trace.num_tokens
    seed = turn_seed(trace.seed, parts)
    return [*prompt, *trace.token_ids], replace(params, n=1, seed=seed, max_tokens=min(limit, left))


def joined(trace: Trace, more: Trace, opening: str, tokenizer: Any) -> Trace:
    """A trace and what it went on with, which stay as they are. opening: what the text of both begins with, of the
    prompt. The text is read from all tokens: a character may lie on both sides of the cut."""
    token_ids = trace.token_ids + more.token_ids
    if tokenizer is None:
        text = trace.text + more.text
    else:
        text = opening + text_of(tokenizer, token_ids, more.finish_reason == "stop", ())
    return replace(
        trace,
        token_ids=token_ids,
        sampling_logprobs=trace.sampling_logprobs + more.sampling_logprobs,
        text=text,
        finish_reason=more.finish_reason,
        error=more.error,
        versions=[*(trace.versions or ()), *(more.versions or ())] or None,
    )


def opening_of(prompt: Prompt, tokenizer: Any) -> str:
    """What the texts of a prompt's traces begin with, outside engines."""
    return "" if tokenizer is None else open_thinking(tokenizer, prompt)


def token_staleness(segments: Sequence[Sequence[Sequence[int]]], step: int) -> tuple[int, int]:
    """Of rollouts whose parts are [version, tokens]: their tokens, and the sum over these of how many steps their
    version is behind `step`."""
    parts = [(version, tokens) for one in segments for version, tokens in one]
    return sum(tokens for _, tokens in parts), sum(tokens * (step - version) for version, tokens in parts)
