"""The parts of a rollout put together: tokenizer, environment, engine, verifier.

Everybody who generates traces does it through a `RolloutPipeline`: plain answers by `stream` and `graded`, DeepConf on
its `engine`, which starts and cancels traces itself. So a trace that fails has the same fate everywhere (`retry.py`).

A trace has no verdict to speak of when the engine failed at it, or when its verifier could not work (a sandbox or a
judge that was not there). Its verdict then has the reason "unscored", and whoever counts leaves it out:
`Graded.scored`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from h1r.config.rollout import EnvironmentSection, RolloutSection
from h1r.engine.protocol import Engine, Prompt, SamplingParams
from h1r.records import Problem, Trace, Verdict
from h1r.rollout.conversations import ConversationEngine
from h1r.rollout.prompts import ProblemPrompt, prompts_for
from h1r.rollout.retry import RetryingEngine
from h1r.verify.threads import DaemonThreads

VerifyMany = Callable[[Sequence[Problem], Sequence[str]], list[Verdict]]
"""Verdicts of responses under their problems' verifiers, one by one (`VerifierPool.verify_many`)."""
OnTrace = Callable[[Trace], None]


@dataclass(slots=True)
class Graded:
    """A trace of a problem and its verdict."""

    problem: Problem
    trace: Trace
    verdict: Verdict

    @property
    def scored(self) -> bool:
        """Whether the verdict says anything of the answer."""
        return is_scored(self.verdict)


def is_scored(verdict: Verdict) -> bool:
    """False where no verdict came about, through no fault of the answer."""
    return verdict.reason != "unscored"


class RolloutPipeline:
    """Prompts of problems, traces of prompts, verdicts of traces (where there is a `verify_many`).

    tokenizer: that of the model behind `engine`. system_prompt: as in `data.chat.render`. `engine` is the one that was
    given, with conversations where problems have an environment, and the policy for failures.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: Any,
        verify_many: VerifyMany | None = None,
        system_prompt: str | None = None,
        section: RolloutSection | None = None,
        environment: EnvironmentSection | None = None,
    ) -> None:
        self._environment = environment or EnvironmentSection()
        conversations = ConversationEngine(engine, tokenizer, self._environment)
        self.engine: Engine = RetryingEngine(conversations, section or RolloutSection())
        self.tokenizer = tokenizer
        self.verify_many: VerifyMany = verify_many or _no_verifier
        self.system_prompt = system_prompt

    def prompts(self, problems: Sequence[Problem]) -> list[ProblemPrompt]:
        """What the model is asked, one prompt per problem."""
        return prompts_for(self.tokenizer, problems, self.system_prompt, self._environment)

    def stream(
        self,
        problems: Sequence[Problem],
        params: SamplingParams | Sequence[SamplingParams],
        prompts: Sequence[Prompt] | None = None,
    ) -> Iterator[Trace]:
        """`n` traces of each problem, in any order, each as soon as it ends, with its `problem_id`.

        `params`: one for all problems, or one per problem. prompts: those of the problems, where the caller has them
        already. Raises `UserError` when the engine fails at too many.
        """
        for trace in self.engine.stream(self.prompts(problems) if prompts is None else prompts, params):
            trace.problem_id = problems[trace.prompt_index].id
            yield trace

    def graded(
        self,
        problems: Sequence[Problem],
        params: SamplingParams | Sequence[SamplingParams],
        on_trace: OnTrace | None = None,
        prompts: Sequence[Prompt] | None = None,
    ) -> list[Graded]:
        """`n` traces of each problem with their verdicts, by (prompt_index, sample_index).

        on_trace: called with each trace as it ends, before it is graded; it may empty lists that nobody will read.
        prompts: as in `stream`.
        """
        traces = []
        for trace in self.stream(problems, params, prompts):
            if on_trace is not None:
                on_trace(trace)
            traces.append(trace)
        traces.sort(key=lambda trace: (trace.prompt_index, trace.sample_index))
        owners = [problems[trace.prompt_index] for trace in traces]
        verdicts = self.verdicts(owners, traces)
        return [Graded(*parts) for parts in zip(owners, traces, verdicts, strict=True)]

    def graded_by_problem(
        self, problems: Sequence[Problem], params: SamplingParams, on_trace: OnTrace | None = None
    ) -> Iterator[tuple[int, list[Graded]]]:
        """(index, its graded traces in order) of each problem, soon after its last trace has ended: they are graded in
        a thread while those of others are generated. on_trace: as in `graded`."""
        thread = DaemonThreads(1, "h1r-grade")
        ended: dict[int, list[Trace]] = {}
        waiting: deque[tuple[int, Future[list[Graded]]]] = deque()
        for trace in self.stream(problems, params):
            if on_trace is not None:
                on_trace(trace)
            traces = ended.setdefault(trace.prompt_index, [])
            traces.append(trace)
            if len(traces) == params.n:
                index = trace.prompt_index
                waiting.append((index, thread.submit(self._graded, problems[index], ended.pop(index))))
            while waiting and waiting[0][1].done():
                index, found = waiting.popleft()
                yield index, found.result()
        for index, found in waiting:
            yield index, found.result()

    def _graded(self, problem: Problem, traces: list[Trace]) -> list[Graded]:
        traces.sort(key=lambda trace: trace.sample_index)
        verdicts = self.verdicts([problem] * len(traces), traces)
        return [Graded(problem, *parts) for parts in zip(traces, verdicts, strict=True)]

    def verdicts(self, problems: Sequence[Problem], traces: Sequence[Trace]) -> list[Verdict]:
        """What the verifiers say of the traces, one by one; "unscored" of one that the engine failed at.

        A trace whose environment gave it a reward has that, as its part `correct`.
        """
        asked = [i for i, trace in enumerate(traces) if trace.finish_reason != "error" and trace.reward is None]
        found = self.verify_many([problems[i] for i in asked], [traces[i].text for i in asked])
        by_index = dict(zip(asked, found, strict=True))
        return [by_index[i] if i in by_index else _without_verifier(trace) for i, trace in enumerate(traces)]


def rollout(
    engine: Engine,
    tokenizer: Any,
    verify_many: VerifyMany,
    problems: Sequence[Problem],
    params: SamplingParams | Sequence[SamplingParams] | None = None,
    *,
    system_prompt: str | None = None,
    section: RolloutSection | None = None,
    environment: EnvironmentSection | None = None,
) -> list[Graded]:
    """`params.n` graded traces of each problem, by problem and sample. See `RolloutPipeline` for the parts."""
    pipeline = RolloutPipeline(engine, tokenizer, verify_many, system_prompt, section, environment)
    return pipeline.graded(problems, params or SamplingParams())


def _without_verifier(trace: Trace) -> Verdict:
    if trace.finish_reason == "error":
        return Verdict(0.0, error=f"the engine: {trace.error}", reason="unscored")
    reward = trace.reward or 0.0
    return Verdict(reward, {"correct": reward, "format": 1.0})


def _no_verifier(problems: Sequence[Problem], texts: Sequence[str]) -> list[Verdict]:
    raise ValueError("this pipeline was made without a verifier, and grades nothing")
