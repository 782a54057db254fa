"""Rule first, the judge on disagreement: what a rule gives nothing is asked of the judge as well (`verify.judge_on`).

    judge_on   asked where the rule's verdict is
    unread     not_extracted or not_readable
    wrong      one of these, or wrong

The part `judged` says who decided: 1 the judge, 0 the rule. Where the judge fails, the rule's verdict stays, and its
`error` says so. Time limits, crashes, answers without a closed thinking part, and wrong ones whose rule says why (they
restate the question, or leave several options open) are never asked about.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial
from types import TracebackType
from typing import Any, Protocol, Self

from h1r.errors import UserError
from h1r.records import Problem, Reason, Verdict
from h1r.response.extract import split_response
from h1r.verify.judge import grade as judge
from h1r.verify.registry import require

ASKED: dict[str, frozenset[Reason]] = {
    "unread": frozenset({"not_extracted", "not_readable"}),
    "wrong": frozenset({"not_extracted", "not_readable", "wrong"}),
}


class _Batch(Protocol):
    """`service.Pending`, which this module cannot import."""

    @property
    def futures(self) -> Sequence[Future[Verdict]]: ...

    def verdict(self, index: int) -> Verdict: ...

    def cancel(self) -> None: ...


class SecondOpinion:
    """A backend whose verdicts of reward 0 are asked of the judge again. `UserError`: no judge is set."""

    def __init__(self, backend: Any, judge_on: str) -> None:
        if not judge.settings_of_environment().urls:
            raise UserError(f'verify.judge_on is "{judge_on}" but no judge is set; set judge.urls and judge.model')
        self._backend, self._asked = backend, ASKED[judge_on]

    def submit_many(self, problems: Sequence[Problem], texts: Sequence[str]) -> Judged:
        """As the backend's; a second request starts as soon as the first verdict is there."""
        return Judged(self._backend.submit_many(problems, texts), problems, texts, self._asked)

    def verify_many(self, problems: Sequence[Problem], texts: Sequence[str]) -> list[Verdict]:
        """As the backend's."""
        batch = self.submit_many(problems, texts)
        try:
            return batch.verdicts()
        except BaseException:
            batch.cancel()
            raise

    def close(self) -> None:
        """Ends the backend; the judge is the process's."""
        self._backend.close()

    def __enter__(self) -> Self:
        self._backend.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._backend.__exit__(kind, error, trace)


class Judged:
    """Answers that are being graded by a rule, and then, where it gave nothing, by the judge."""

    def __init__(
        self, first: _Batch, problems: Sequence[Problem], texts: Sequence[str], asked: frozenset[Reason]
    ) -> None:
        self._first, self._asked = first, asked
        self.futures: list[Future[Verdict]] = [Future() for _ in problems]
        for future, rule, problem, text in zip(self.futures, first.futures, problems, texts, strict=True):
            rule.add_done_callback(partial(self._follow, future=future, problem=problem, text=text))

    def verdict(self, index: int) -> Verdict:
        """Waits for one verdict."""
        verdict = self.futures[index].result()
        parts = self._first.verdict(index).parts  # with those of its format
        return dataclasses.replace(verdict, parts={**parts, **verdict.parts, "correct": verdict.reward})

    def verdicts(self) -> list[Verdict]:
        """Waits for all verdicts."""
        return [self.verdict(index) for index in range(len(self.futures))]

    def cancel(self) -> None:
        """Gives up what has no verdict yet."""
        self._first.cancel()
        for future in self.futures:
            future.cancel()

    def _follow(self, done: Future[Verdict], future: Future[Verdict], problem: Problem, text: str) -> None:
        """Hands the rule's verdict on, or asks the judge for another."""
        if done.cancelled():
            future.cancel()
            return
        try:
            rule = done.result()
            answer = split_response(text).answer
            objects = rule.reason == "wrong" and rule.error is not None  # the value is right, or several are given
            if (
                not require(problem.verifier).may_be_judged
                or rule.reason not in self._asked
                or answer is None
                or objects
            ):
                _settle(future, rule)
                return
            opinion = judge.submit(problem, answer)
            opinion.add_done_callback(lambda second: _decide(second, rule, future))
        except BaseException as error:
            _fail(future, error)


def _decide(second: Future[Verdict], rule: Verdict, future: Future[Verdict]) -> None:
    try:
        verdict = second.result()
    except BaseException as error:
        _fail(future, error)
        return
    if verdict.reason == "unscored":
        why = "; ".join(text for text in (rule.error, verdict.error) if text)
        _settle(future, dataclasses.replace(rule, parts={**rule.parts, "judged": 0.0}, error=why))
        return
    parts = {**rule.parts, **verdict.parts, "judged": 1.0}
    _settle(future, dataclasses.replace(verdict, parts=parts, extracted=rule.extracted or verdict.extracted))


def _settle(future: Future[Verdict], verdict: Verdict) -> None:
    if future.set_running_or_notify_cancel():
        future.set_result(dataclasses.replace(verdict, parts={"judged": 0.0, **verdict.parts}))


def _fail(future: Future[Verdict], error: BaseException) -> None:
    if future.set_running_or_notify_cancel():
        future.set_exception(error)
