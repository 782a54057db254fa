"""A request at work, the same to every interface: pieces of text as they come, and the result.

    async for events in job:       what came together, in order: Delta (a piece of a choice's text), dict (a DeepConf
                                   progress event), Choice (one has ended), Result (last)

`give_up` ends it for nobody, `finish` with what there is. Whoever stops reading gives up.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeGuard

from h1r.data.growing_text import Growing
from h1r.engine.native.batch import Drawn
from h1r.engine.protocol import SamplingParams
from h1r.engine.requests import is_unanswerable
from h1r.records import Trace
from h1r.scaling.ballot import STATES
from h1r.serve.engine_thread import EngineThread
from h1r.serve.errors import ApiError
from h1r.serve.mailbox import Mailbox
from h1r.serve.messages import tool_calls_in
from h1r.serve.model import Model
from h1r.serve.progress_events import ended, rounded
from h1r.serve.reply_text import Splitter, TokenTexts, parts_of
from h1r.serve.solving import Outcome, Question, Solving
from h1r.serve.spans import RequestSpan


@dataclass(frozen=True, slots=True)
class Form:
    """How texts are told. raw: thinking is no part of its own (`/v1/completions`)."""

    raw: bool = False
    tools: bool = False
    open_thinking: bool = False
    logprobs: bool = False
    stream: bool = False


class Told(NamedTuple):
    """A token as a client is told of it. content: its bytes, which may be a part of a character. Nats."""

    content: bytes
    logprob: float
    confidence: float

    @property
    def text(self) -> str:
        """By itself."""
        return self.content.decode(errors="replace")


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of a choice. name: `reasoning_content` or `content`. tokens: those drawn since the last piece, where
    they were asked for."""

    index: int
    name: str
    text: str
    tokens: Sequence[Told] = ()


@dataclass(frozen=True, slots=True)
class Choice:
    """A whole one. finish_reason: "stop", "length" or "tool_calls". is_cut: it ended because this server stops."""

    index: int
    thinking: str | None
    answer: str
    finish_reason: str
    tool_calls: Sequence[dict[str, Any]] = ()
    tokens: Sequence[Told] | None = None
    is_cut: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """All choices, in order. Tokens are counted over every trace; `deepconf` is None of a plain answer."""

    choices: list[Choice]
    prompt_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    seed: int
    deepconf: dict[str, Any] | None = None
    traces: list[dict[str, Any]] | None = None


@dataclass(frozen=True, slots=True)
class Raw:
    """What another server said, whole or a chunk of its stream, as it is passed on."""

    data: dict[str, Any]

    @property
    def tokens(self) -> tuple[int, int] | None:
        """Of prompt and completion, where it says so."""
        ended = self.data.get("response")  # of the last event of `/v1/responses`
        usage = (ended if isinstance(ended, dict) else self.data).get("usage")
        if not isinstance(usage, dict):
            return None
        prompt, completion = (usage.get(one, usage.get(other)) for one, other in _COUNTS)
        return (prompt, completion) if is_count(prompt) and is_count(completion) else None


Event = Delta | Choice | Result | Raw | dict[str, Any]


_COUNTS = (("prompt_tokens", "input_tokens"), ("completion_tokens", "output_tokens"))
"""Of chats and completions, and of `/v1/responses`."""


def is_count(said: Any) -> TypeGuard[int]:
    """Whether another server says a number of tokens."""
    return type(said) is int and 0 <= said < 1 << 53


class Speaker(Protocol):
    """What a job needs of a model. `tokenizer`: None of one that is elsewhere."""

    owner: EngineThread
    tokenizer: Any
    texts: TokenTexts
    ends: frozenset[int]


class Job(Protocol):
    """See the module. `num_traces`: how many it may have in the engine. `span`: of its request, set before it begins
    where spans are collected."""

    num_traces: int
    method: str
    span: RequestSpan | None

    def __aiter__(self) -> AsyncIterator[Sequence[Event]]: ...

    def give_up(self) -> None: ...

    def finish(self) -> None: ...


class _AtWork:
    """A job that has begun once `_work` is there."""

    _work: Mailbox | Solving | None = None
    span: RequestSpan | None = None

    def give_up(self) -> None:
        """See the module."""
        if self._work is not None:
            self._work.give_up()

    def finish(self) -> None:
        """See the module."""
        if self._work is not None:
            self._work.finish()


class Plain(_AtWork):
    """`n` answers to each prompt."""

    method = "plain"

    def __init__(
        self, model: Model, prompts: Sequence[Sequence[int]], params: Sequence[SamplingParams], form: Form
    ) -> None:
        self._model, self._prompts, self._params, self._form = model, prompts, params, form
        self.num_traces = sum(one.n for one in params)
        self._each = params[0].n

    async def __aiter__(self) -> AsyncIterator[Sequence[Event]]:
        box = self._work = Mailbox(self._model.owner, self._prompts, self._params, self._form.stream, self.span)
        texts = [Telling(self._model, self._form, self._params[0].stop) for _ in range(self.num_traces)]
        traces: dict[int, Trace] = {}
        choices: dict[int, Choice] = {}
        async for steps in box:
            drawn: dict[int, list[Drawn]] = {}
            for prompt, new, _ in steps:
                for one in new:
                    drawn.setdefault(prompt * self._each + one.sample_index, []).append(one)
            events: list[Event] = [delta for index, ones in drawn.items() for delta in texts[index].push(index, ones)]
            ended = {prompt * self._each + trace.sample_index: trace for prompt, _, gone in steps for trace in gone}
            whole = {index: trace for index, trace in ended.items() if trace.finish_reason != "error"}
            for index, trace in whole.items():
                traces[index] = trace
                choice = choices[index] = choice_of(self._model, trace, index, self._form)
                events += [*texts[index].rest(index, choice), choice]
            if len(choices) == self.num_traces:
                events.append(self._result(choices, traces))
            if events:
                yield events
            for trace in ended.values():
                raise_if_failed(trace)

    def _result(self, choices: dict[int, Choice], traces: dict[int, Trace]) -> Result:
        return Result(
            [choices[index] for index in sorted(choices)],
            sum(map(len, self._prompts)),
            sum(trace.num_tokens for trace in traces.values()),
            _thinking_in(self._model, traces.values()),
            self._params[0].seed,
        )


class DeepConfJob(_AtWork):
    """One question, many traces, one answer."""

    def __init__(self, model: Speaker, question: Question, form: Form) -> None:
        self._model, self._question, self._form = model, question, form
        self.num_traces = question.plan.params.budget
        self.method = question.plan.method

    async def __aiter__(self) -> AsyncIterator[Sequence[Event]]:
        solving = self._work = Solving(self._model.owner, self._question, self._form.stream, self.span)
        async for found in solving:
            if isinstance(found, Outcome):
                yield [found.last_event, *await asyncio.to_thread(self._told, found)]  # many traces are much to read
            else:
                yield [found]

    def _told(self, outcome: Outcome) -> list[Event]:
        """The answer, in pieces where it is streamed, and the result."""
        trace = outcome.shown
        choice = Choice(0, None, "", "length") if trace is None else choice_of(self._model, trace, 0, self._form)
        telling = Telling(self._model, self._form, ())
        stated = [(trace.usage or {}).get("prompt_tokens", 0) for trace in outcome.solution.traces]
        prompt_tokens = len(self._question.prompt) or max(stated, default=0)
        summary = summary_of(outcome, self._question)
        returned = self._question.plan.return_traces
        traces = traces_of(self._model, outcome, returned == "tokens") if returned else None
        result = Result(
            [choice], prompt_tokens, outcome.solution.tokens_total, _thinking_in(self._model, outcome.solution.traces),
            self._question.seed, summary, traces,
        )  # fmt: skip
        return [*telling.rest(0, choice), choice, result]


@dataclass(slots=True)
class Telling:
    """One choice's text as it is told."""

    model: Speaker
    form: Form
    stops: tuple[str, ...]
    _growing: Growing = field(init=False)
    _splitter: Splitter = field(init=False)
    _tokens: list[Told] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self._growing = self.model.texts.growing()
        self._splitter = Splitter(self.stops, self.form.tools, self.form.open_thinking, self.form.raw)

    def push(self, index: int, drawn: Sequence[Drawn]) -> list[Delta]:
        """What tokens add to the choice of this index: as many pieces as there are parts of it. Tokens that are told
        go with the piece that their own text is in."""
        if not self.form.logprobs:
            return self._with_tokens(index, self._pieces(drawn))
        found: list[Delta] = []
        for one in drawn:
            self._tokens.append(Told(self.model.texts.bytes_of(one.token_id), one.logprob, one.confidence))
            for new in self._with_tokens(index, self._pieces([one])):
                if found and found[-1].name == new.name:
                    last = found.pop()
                    new = Delta(index, new.name, last.text + new.text, [*last.tokens, *new.tokens])
                found.append(new)
        return found

    def rest(self, index: int, choice: Choice) -> list[Delta]:
        """What the end adds; tokens without a text of their own, such as the one that ends an answer, too."""
        pieces = self._splitter.rest(choice.thinking, choice.answer)
        return self._with_tokens(index, pieces or ([("content", "")] if self._tokens else []))

    def _pieces(self, drawn: Sequence[Drawn]) -> list[tuple[str, str]]:
        ids = [one.token_id for one in drawn if one.token_id not in self.model.ends]
        return self._splitter.push(self._growing.push(ids))

    def _with_tokens(self, index: int, pieces: list[tuple[str, str]]) -> list[Delta]:
        found = []
        for name, text in pieces:
            tokens, self._tokens = self._tokens, []
            found.append(Delta(index, name, text, tokens))
        return found


def _thinking_in(model: Speaker, traces: Iterable[Trace]) -> int:
    """Tokens of thinking in all of them; as they were counted where other servers keep the tokens."""
    if model.tokenizer is None:
        return sum((one.usage or {}).get("reasoning_tokens", 0) for one in traces)
    return sum(model.texts.thinking(one.token_ids, one.text) for one in traces)


def raise_if_failed(trace: Trace) -> None:
    """`ApiError` for a trace that the engine failed at."""
    if trace.finish_reason == "error":
        status = 400 if is_unanswerable(trace.error) else 500
        raise ApiError(status, f"the engine failed: {trace.error}")


def choice_of(model: Speaker, trace: Trace, index: int, form: Form) -> Choice:
    """A trace as a client sees it."""
    thinking, answer = (None, trace.text) if form.raw else parts_of(trace.text, form.open_thinking)
    answer, calls = tool_calls_in(answer) if form.tools else (answer, [])
    reason = "tool_calls" if calls else "stop" if trace.finish_reason == "stop" else "length"
    tokens = None
    if form.logprobs and model.tokenizer is not None:
        columns = zip(trace.token_ids, trace.logprobs, trace.confidences, strict=True)
        tokens = [Told(model.texts.bytes_of(one), *values) for one, *values in columns]
    return Choice(index, thinking, answer, reason, calls, tokens, trace.finish_reason == "cancelled")


def summary_of(outcome: Outcome, question: Question) -> dict[str, Any]:
    """`usage.deepconf` of a reply."""
    plan, solution, last = question.plan, outcome.solution, outcome.last_event
    full, cut = last["full_budget_tokens"], solution.stop_reason == "cancelled"
    return {
        "method": plan.method, "stopping": question.stopping, "voter": plan.params.voter,
        "budget": solution.budget, "warmup": plan.params.warmup,
        "traces": len(solution.traces), "states": {state: solution.states.count(state) for state in STATES},
        "stopped": solution.states.count("stopped"), "tokens": solution.tokens_total,
        "tokens_by_state": solution.tokens, "full_budget_tokens": full,
        "saved_tokens": None if full is None or cut else max(0, full - solution.tokens_total),
        "threshold": rounded(solution.threshold), "stop_reason": solution.stop_reason,
        "answer": solution.answer, "share": rounded(solution.vote.share), "certainty": last["certainty"],
        "votes": last["votes"], "votes_rest": last["votes_rest"], "selected_by": outcome.selected_by,
        "selected_trace": None if outcome.shown is None else outcome.shown.sample_index,
        "fallback": solution.fallback, "seconds": round(outcome.seconds, 3), **_tests_of(outcome),
    }  # fmt: skip


def _tests_of(outcome: Outcome) -> dict[str, Any]:
    """How many tests there were, and the share of them that the program shown passes."""
    tests, trace = outcome.tests, outcome.shown
    if tests is None:
        return {}
    return {"tests": tests.total, "tests_passed": None if trace is None else rounded(tests.passed(trace.text))}


def traces_of(model: Speaker, outcome: Outcome, tokens: bool) -> list[dict[str, Any]]:
    """Every trace for `return_traces`, in order."""
    ballot = outcome.ballot
    found = []
    for index in sorted(ballot.entries):
        entry = ballot.entries[index]
        trace = entry.trace
        one = {**ended(ballot, entry), "seed": trace.seed, "text": trace.text}
        if outcome.tests is not None:
            one["tests_passed"] = rounded(outcome.tests.passed(trace.text))
        if tokens:
            if model.tokenizer is not None:
                one["token_texts"] = [model.texts.one(token) for token in trace.token_ids]
            one["confidences"] = [rounded(value) for value in trace.confidences]
        found.append(one)
    return found
