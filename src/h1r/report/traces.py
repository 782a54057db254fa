"""Answers one can read, with the model's confidence along the text.

Token confidence is DeepConf's: the negative mean log-probability of the top-k tokens (arXiv 2508.15260), nats; high is
sure. The less sure, the stronger the token's background. The scale runs linearly between the 5th and 95th percentile
of the trained model's shown tokens, so that one odd token does not flatten all others; the untrained model's tokens
are coloured on the same scale.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from h1r.common.html import details, esc, plural, words
from h1r.common.prose import counted
from h1r.report.collect import EVAL_STAGES
from h1r.report.stored import EvalResult, Example

LEVELS = 6
"""Shades, from none (sure) to strong (unsure); the style sheet has one class for each."""
SHOWN_TOKENS = 500
"""Longer traces are shown with their middle cut out, which is said in its place."""
STOPPED_PROBLEMS = 2
_STATES = {
    "voted": "Voted",
    "stopped": "Stopped early: no vote",
    "below_threshold": "Below the threshold: no vote",
    "cancelled": "Cancelled: the vote was decided",
}
"""Headings of what became of a trace in a DeepConf vote."""
WANTED = (("mended", 2), ("kept", 1), ("broken", 1), ("wrong", 2))
"""How many problems of each kind are shown; see `choose`."""
_HEADINGS = {
    "mended": "RL mended it",
    "kept": "Right before and after RL",
    "broken": "RL broke it",
    "wrong": "Wrong before and after RL",
    "right": "Answered correctly",
    "missed": "Answered wrongly",
}


@dataclass(frozen=True)
class Scale:
    """Confidence (nats) to shade: `high` and above is level 0, `low` and below is level LEVELS - 1."""

    low: float
    high: float

    def level(self, confidence: float) -> int:
        if not confidence < self.high:
            return 0
        return min(LEVELS - 1, int(LEVELS * (self.high - confidence) / (self.high - self.low)))


@dataclass(frozen=True)
class Shown:
    """One problem with at most one answer of each stage, and what became of it."""

    kind: str
    answers: Mapping[str, Example]

    @property
    def problem(self) -> Example:
        return next(iter(self.answers.values()))


def choose(evals: Mapping[str, EvalResult]) -> list[Shown]:
    """Problems that show each kind of outcome, families taking turns; of a problem, each stage's first recorded answer.

    With both SFT and RL the kinds are those of `WANTED`; with less than both, right and wrong ones of the last stage.
    """
    answers: dict[tuple[str, str], dict[str, Example]] = {}
    for stage in EVAL_STAGES:
        for example in evals[stage].examples if stage in evals else ():
            answers.setdefault((example.family, example.question), {}).setdefault(stage, example)
    shared = [found for found in answers.values() if "sft" in found and "rl" in found]
    if shared:
        kinds = {(False, True): "mended", (True, True): "kept", (True, False): "broken", (False, False): "wrong"}
        candidates = [Shown(kinds[found["sft"].correct, found["rl"].correct], found) for found in shared]
        return _pick(candidates, WANTED)
    last = next((stage for stage in reversed(EVAL_STAGES) if stage in evals and evals[stage].examples), None)
    candidates = [
        Shown("right" if found[last].correct else "missed", found)
        for found in answers.values()
        if last is not None and last in found
    ]
    return _pick(candidates, (("right", 3), ("missed", 3)))


def _pick(candidates: Sequence[Shown], wanted: Iterable[tuple[str, int]]) -> list[Shown]:
    used: dict[str, int] = {}
    chosen = []
    for kind, number in wanted:
        pool = [shown for shown in candidates if shown.kind == kind]
        for _ in range(min(number, len(pool))):
            best = min(pool, key=lambda shown: used.get(shown.problem.family, 0))
            pool.remove(best)
            used[best.problem.family] = used.get(best.problem.family, 0) + 1
            chosen.append(best)
    return chosen


def scale_of(chosen: Iterable[Shown]) -> Scale | None:
    """The scale for these answers; None when none of them has confidences."""
    shown = list(chosen)
    trained = [c for one in shown for stage, e in one.answers.items() if stage != "base" for c in e.confidences]
    return _scale(trained or [c for one in shown for e in one.answers.values() for c in e.confidences])


def _scale(confidences: Sequence[float]) -> Scale | None:
    values = sorted(value for value in confidences if math.isfinite(value))
    if not values:
        return None
    low, high = values[int(0.05 * (len(values) - 1))], values[int(0.95 * (len(values) - 1))]
    return Scale(low, max(high, low + 1e-6))


def examples_html(evals: Mapping[str, EvalResult], titles: Mapping[str, str]) -> str:
    """The chosen problems with their answers and the legend of the shades; empty without examples."""
    chosen = choose(evals)
    scale = scale_of(chosen)
    each = [_problem(shown, scale, titles, start_open=place == 0) for place, shown in enumerate(chosen)]
    return (legend(scale) if scale else "") + "".join(each)


def stops_html(examples: Sequence[Example]) -> str:
    """Problems of the scaling study of which DeepConf stopped a trace, beside what became of other traces of theirs.

    Empty when it stopped none. Shades are scaled to these traces.
    """
    problems: dict[str, list[Example]] = {}
    for example in examples:
        problems.setdefault(example.question, []).append(example)
    chosen = [traces for traces in problems.values() if any(t.state == "stopped" for t in traces)][:STOPPED_PROBLEMS]
    values = [confidence for traces in chosen for trace in traces for confidence in trace.confidences]
    scale = _scale(values)
    each = [_stopped_problem(traces, scale, start_open=place == 0) for place, traces in enumerate(chosen)]
    return (legend(scale) if scale and chosen else "") + "".join(each)


def _stopped_problem(traces: Sequence[Example], scale: Scale | None, start_open: bool) -> str:
    first = traces[0]
    answers = "".join(_answer("deepconf", _STATES.get(t.state, words(t.state)), t, scale) for t in traces)
    limit = "" if first.threshold is None else f" Threshold from the warm-up: {first.threshold:.2f} nats."
    heading = f'<b>{plural(len(traces), "trace")}</b> <span class="tag">{esc(words(first.family))}</span>'
    body = (
        f'<div class="question">{esc(first.question)}</div>'
        f'<p class="small soft">Reference answer: <code>{esc(first.reference)}</code>.{limit}</p>'
        f'<div class="answers">{answers}</div>'
    )
    return f'<article class="example">{details(heading, body, start_open)}</article>'


def legend(scale: Scale) -> str:
    swatches = "".join(f'<i class="c{level}"></i>' for level in range(LEVELS))
    return (
        f'<p class="legend"><span>sure: {scale.high:.1f} nats or more</span><span class="ramp">{swatches}</span>'
        f"<span>unsure: {scale.low:.1f} nats or less</span></p>"
    )


def _problem(shown: Shown, scale: Scale | None, titles: Mapping[str, str], start_open: bool) -> str:
    problem = shown.problem
    trained = {stage: answer for stage, answer in shown.answers.items() if stage != "base"}
    columns = "".join(
        _answer(stage, titles[stage], answer, scale) for stage, answer in (trained or shown.answers).items()
    )
    heading = f'<b>{_HEADINGS[shown.kind]}</b> <span class="tag">{esc(words(problem.family))}</span>'
    body = (
        f'<div class="question">{esc(problem.question)}</div>'
        f'<p class="small soft">Reference answer: <code>{esc(problem.reference)}</code></p>'
        f'<div class="answers">{columns}</div>'
    )
    if trained and "base" in shown.answers:
        base = f'<div class="answers">{_answer("base", titles["base"], shown.answers["base"], scale)}</div>'
        body += details("The same problem before any training here", base)
    return f'<article class="example">{details(heading, body, start_open)}</article>'


def _answer(kind: str, title: str, answer: Example, scale: Scale | None) -> str:
    verdict = '<span class="tag good">✓ correct</span>' if answer.correct else '<span class="tag bad">✗ wrong</span>'
    if answer.state in ("stopped", "cancelled"):
        verdict = ""
    notes = [plural(len(answer.tokens), "token")] if answer.tokens else []
    if answer.finish_reason == "length":
        notes.append("cut off at the token limit")
    return (
        f'<div class="{kind}"><h4>{esc(title)} {verdict}<span class="small soft">{", ".join(notes)}</span></h4>'
        f"{trace_html(answer, scale)}</div>"
    )


def trace_html(answer: Example, scale: Scale | None) -> str:
    """The answer's text, one shaded span a token with its confidence as tooltip; plain text without confidences."""
    if scale is None or not answer.tokens or len(answer.tokens) != len(answer.confidences):
        return f'<div class="trace">{esc(_shorten(answer.text))}</div>'
    spans = [
        f'<span class="c{scale.level(confidence)}" title="{confidence:.2f} nats">{esc(token)}</span>'
        for token, confidence in zip(answer.tokens, answer.confidences, strict=True)
        if token
    ]
    if (hidden := len(spans) - SHOWN_TOKENS) > 0:
        half = SHOWN_TOKENS // 2
        spans[half : half + hidden] = [f'<span class="skip"> [{plural(hidden, "token")} not shown] </span>']
    return f'<div class="trace">{"".join(spans)}</div>'


def _shorten(text: str, limit: int = 4 * SHOWN_TOKENS) -> str:
    hidden = len(text) - limit
    return (
        text
        if hidden <= 0
        else f"{text[: limit // 2]} [{counted(hidden, 'character')} not shown] {text[-limit // 2 :]}"
    )
