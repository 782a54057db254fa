"""A log of inspect_ai as our records: each sample a problem with its answers, each score a verdict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from inspect_ai.log import EvalLog, EvalSample
from inspect_ai.model import ChatMessage, ChatMessageAssistant
from inspect_ai.scorer import Score, value_to_float

from h1r.errors import UserError
from h1r.evals.samples import Samples
from h1r.records import FinishReason, Problem, Trace, Verdict


@dataclass(frozen=True, slots=True)
class Row:
    """One answer. verdict: None where the sample failed before it had one."""

    problem: Problem
    sample: int
    trace: Trace
    verdict: Verdict | None


@dataclass(slots=True)
class Parts:
    """problems: samples of the log. each: rows, one for each part of a score that has parts. whole: where scores have
    parts, rows that are right where all parts are."""

    problems: int
    each: list[Row] = field(default_factory=list)
    whole: list[Row] = field(default_factory=list)


def parts_of(log: EvalLog, scorer: str | None) -> Parts:
    """The rows of a log. `UserError` for a scorer that is not there."""
    samples = log.samples or []
    found = Parts(len({sample.id for sample in samples}))
    tables = any(isinstance(score.value, Mapping) for sample in samples if (score := _score(sample, scorer)))
    for sample in samples:
        score, trace = _score(sample, scorer), _trace(sample, log.eval.model)
        if not tables:
            found.each.append(Row(_problem(sample), sample.epoch - 1, trace, _verdict(sample, score)))
            continue
        values = score.value if score and isinstance(score.value, Mapping) else {}
        if not values:  # the sample failed: how many parts it has nobody says
            found.each.append(Row(_problem(sample), sample.epoch - 1, trace, None))
        for name, value in values.items():
            verdict = _verdict(sample, score, value)
            found.each.append(Row(_problem(sample, f"{sample.id}:{name}"), sample.epoch - 1, trace, verdict))
        least = min((_number(value) for value in values.values()), default=None)
        whole = None if least is None else _verdict(sample, score, least)
        found.whole.append(Row(_problem(sample), sample.epoch - 1, trace, whole))
    return found


def write_rows(samples: Samples, rows: Sequence[Row]) -> None:
    """Keeps answers and verdicts. An answer without a verdict is an error, if the sample failed, else unscored."""
    places = {problem.id: index for index, problem in enumerate(samples.problems)}
    for row in rows:
        row.trace.prompt_index, row.trace.sample_index = places[row.problem.id], row.sample
        samples.add([row.trace])
        if row.trace.finish_reason != "error":
            verdict = row.verdict or Verdict(0.0, reason="unscored", error="the task gave no score")
            samples.grade([(row.trace.prompt_index, row.sample)], [verdict])


def _score(sample: EvalSample, scorer: str | None) -> Score | None:
    scores = sample.scores or {}
    if scorer is not None and scores and scorer not in scores:
        raise UserError(f"the task has no scorer `{scorer}`; it has {', '.join(scores)}")
    return scores.get(scorer) if scorer else next(iter(scores.values()), None)


def _number(value: Any) -> float:
    return float(value_to_float()(value))


def _verdict(sample: EvalSample, score: Score | None, value: Any = None) -> Verdict | None:
    if score is None:
        return None
    reward = _number(score.value if value is None else value)
    stated = score.answer or (sample.output.completion if sample.output else "")
    return Verdict(min(max(reward, 0.0), 1.0), extracted=stated or None, reason=None if reward >= 1 else "wrong")


def _problem(sample: EvalSample, name: str | None = None) -> Problem:
    given = sample.input
    question = given if isinstance(given, str) else "\n\n".join(_said(given))
    target = sample.target if isinstance(sample.target, str) else "\n".join(sample.target)
    return Problem(id=name or str(sample.id), question=question, answer=target, verifier="")


def _trace(sample: EvalSample, model: str) -> Trace:
    """The whole conversation as one text; its tokens are those that the model under evaluation wrote."""
    usage = (sample.model_usage or {}).get(model)
    counts = (
        {
            "prompt_tokens": usage.input_tokens, "completion_tokens": usage.output_tokens,
            "reasoning_tokens": usage.reasoning_tokens or 0, "cached_tokens": usage.input_tokens_cache_read or 0,
        }
        if usage
        else None
    )  # fmt: skip
    cut = sample.limit is not None or (sample.output is not None and sample.output.stop_reason == "max_tokens")
    reason: FinishReason = "error" if sample.error else "length" if cut else "stop"
    trace = Trace(0, 0, [], "\n\n".join(_said(sample.messages)), [], [], [], reason, usage=counts)
    trace.error = sample.error.message if sample.error else None
    return trace


def _said(messages: Sequence[ChatMessage]) -> Iterator[str]:
    for message in messages:
        calls = message.tool_calls or [] if isinstance(message, ChatMessageAssistant) else []
        called = "".join(f"\n{call.function}({call.arguments})" for call in calls)
        yield f"[{message.role}] {message.text}{called}"
