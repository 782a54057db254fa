"""A language model as verifier, for answers that no rule can check.

    reward = 1 if the judge says that the answer is correct, 0 if it says that it is not
             0, unscored, with an `error` for everything else: no server, no reply in time, a reply that is no verdict

A problem's metadata may say how it is asked: `"judge"` names the words of a benchmark's authors (`official`), and
`"votes"` an odd number of times, of which the majority decides; a vote that is no verdict is on neither side. Where
the words ask for the confidence that an answer states, it is the part `confidence`, 0 to 1.

An answer that equals the reference after normalisation needs no judge; one that official words judge needs none when
it is the reference and nothing else. Judgements are cached by what was asked of whom
(servers' model, messages, sampling parameters), in memory or in a file that several processes may share; equal
questions that are under way are asked once. A verifier with its own limits: it waits on servers, so it runs in one
thread with an event loop in the caller's process, not in the workers, which have neither time nor secrets for it.

Settings are the recipe's `[judge]` table, or, for a process that reads no recipe, the same table as JSON in the
environment variable H1R_JUDGE. The API key is the variable H1R_JUDGE_API_KEY.
"""

from __future__ import annotations

import asyncio
import atexit
import hashlib
import json
import os
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any

from pydantic import ValidationError

from h1r.common.http import EndpointError, Endpoints
from h1r.common.prose import counted
from h1r.config.judge import JudgeSection
from h1r.errors import UserError
from h1r.records import Problem, Verdict, first_problem
from h1r.verify.exact import normalise
from h1r.verify.judge.cache import Judgement, JudgementCache
from h1r.verify.judge.forms import read_reply, stated_confidence
from h1r.verify.judge.official import OFFICIAL, Official, official_messages
from h1r.verify.judge.prompt import extracted_answer, messages

SETTINGS_VARIABLE = "H1R_JUDGE"
KEY_VARIABLE = "H1R_JUDGE_API_KEY"


class Judge:
    """Judges answers by the servers of `settings`. Belongs to one event loop; raises `UserError` for settings."""

    def __init__(self, settings: JudgeSection, api_key: str | None = None) -> None:
        if not settings.urls:
            raise UserError(
                "problems ask for the verifier `judge` but no server is given; set judge.urls and judge.model in the "
                f"recipe, or {SETTINGS_VARIABLE} in the environment"
            )
        self._settings = settings
        self._endpoints = Endpoints(
            settings.urls,
            settings.model,
            api_key,
            concurrency=settings.concurrency,
            timeout_s=settings.timeout_s,
            attempts=settings.attempts,
        )
        self._cache = JudgementCache(settings.cache)
        self._under_way: dict[str, asyncio.Task[Judgement | None]] = {}

    async def grade(self, problem: Problem, answer: str) -> Verdict:
        """The verdict on an answer; raises `UserError` when a server refuses the key, the model or the path, and for
        metadata that nobody can ask by."""
        official, votes = _wishes(problem)
        text = extracted_answer(answer, self._settings.max_answer_chars)
        if text is None:
            return Verdict(0.0, error="the answer is empty", reason="not_extracted")
        if not problem.answer.strip():
            return Verdict(0.0, extracted=text, error="the problem has no reference for the judge", reason="unscored")
        asked, form = self._chat(problem, answer, text, official)
        keys = [self._key(asked, vote) for vote in range(votes)]
        known = [self._cache.get(key) for key in keys]
        try:
            said = await asyncio.gather(
                *(self._judgement(key, asked, form) for key, one in zip(keys, known, strict=True) if one is None)
            )
        except EndpointError as error:
            return Verdict(0.0, extracted=text, error=f"the judge failed: {error}"[:500], reason="unscored")
        judgements = [one for one in (*known, *said) if one is not None]
        right = sum(one.correct for one in judgements)
        if 2 * max(right, len(judgements) - right) <= votes:
            return Verdict(0.0, extracted=text, error=_undecided(votes), reason="unscored")
        parts = {"judge:cached": float(not said)}
        if votes > 1:
            parts["judge:agreed"] = right / len(judgements)
        if form == "hle":
            stated = [1.0 if one.confidence is None else one.confidence for one in judgements]
            parts["confidence"] = sum(stated) / len(stated)
        return Verdict(float(2 * right > votes), parts, extracted=text)

    async def close(self) -> None:
        """Ends what is under way, closes connections and the cache."""
        for task in list(self._under_way.values()):
            task.cancel()
        await self._endpoints.close()
        self._cache.close()

    def _chat(
        self, problem: Problem, answer: str, text: str, official: Official | None
    ) -> tuple[list[dict[str, str]], str]:
        """What the judge is asked, and the form of its reply."""
        settings = self._settings
        if official is None:
            asked = messages(problem.question, problem.answer, text, settings.max_question_chars, settings.reply)
            return asked, settings.reply
        question = str(problem.metadata.get("question", problem.question))
        asked = official_messages(official, question, problem.answer, answer, settings.max_question_chars)
        return asked, official.form

    async def _judgement(self, key: str, asked: list[dict[str, str]], form: str) -> Judgement | None:
        """One request however many ask for it; shielded, since another may wait for what this caller gives up."""
        task = self._under_way.get(key)
        if task is None:
            task = self._under_way[key] = asyncio.ensure_future(self._ask(key, asked, form))
            task.add_done_callback(lambda _: self._under_way.pop(key, None))
        return await asyncio.shield(task)

    async def _ask(self, key: str, asked: list[dict[str, str]], form: str) -> Judgement | None:
        reply = await self._endpoints.chat(
            asked, temperature=self._settings.temperature, max_tokens=self._settings.max_tokens
        )
        correct = read_reply(reply.text, form) if reply.finish_reason != "length" else None
        if correct is None:
            return None
        judgement = Judgement(correct, stated_confidence(reply.text) if form == "hle" else None)
        self._cache.put(key, judgement)
        return judgement

    def _key(self, asked: list[dict[str, str]], vote: int) -> str:
        settings = self._settings
        what = [settings.model, settings.temperature, settings.max_tokens, asked, *([vote] if vote else [])]
        return hashlib.sha256(json.dumps(what, ensure_ascii=True).encode()).hexdigest()


def quick(problem: Problem, answer: str) -> Verdict | None:
    """The verdict where a judge is not needed: the boxed answer is the reference. Linear time."""
    text = extracted_answer(answer, len(answer))
    if text is None:
        return Verdict(0.0, error="the answer is empty", reason="not_extracted")
    reference = normalise(problem.answer)
    if "judge" in problem.metadata:
        is_reference = answer.strip() in (problem.answer.strip(), rf"\boxed{{{problem.answer}}}")
        parts = {"judge:exact": 1.0, **({"confidence": 1.0} if problem.metadata["judge"] == "hle" else {})}
        return Verdict(1.0, parts, extracted=text) if is_reference and reference else None
    return Verdict(1.0, {"judge:exact": 1.0}, extracted=text) if reference and normalise(text) == reference else None


def _wishes(problem: Problem) -> tuple[Official | None, int]:
    """The official words, and how often they are asked; `UserError` for what nobody can ask by."""
    name, votes = problem.metadata.get("judge"), problem.metadata.get("votes", 1)
    if name is not None and name not in OFFICIAL:
        raise UserError(f"problem `{problem.id}`: metadata `judge` is {name!r}; give one of {', '.join(OFFICIAL)}")
    if type(votes) is not int or votes < 1 or votes % 2 == 0:
        raise UserError(f"problem `{problem.id}`: metadata `votes` is {votes!r}; give an odd number of them")
    return (None if name is None else OFFICIAL[name]), votes


def _undecided(votes: int) -> str:
    return (
        "the judge's reply is no verdict" if votes == 1 else f"the judge's {counted(votes, 'reply')} have no majority"
    )


def submit(problem: Problem, answer: str) -> Future[Verdict]:
    """`Judge.grade` by the judge that all callers of this process share; `UserError` for settings that cannot work."""
    return _shared().submit(problem, answer)


def use(settings: JudgeSection) -> None:
    """The settings of this process, and of those it starts from now on; without `urls` nothing changes."""
    global _instance
    if not settings.urls:
        return
    os.environ[SETTINGS_VARIABLE] = settings.model_dump_json()
    with _lock:
        old, _instance = _instance, None
    if old is not None:
        old.close()


def settings_of_environment() -> JudgeSection:
    """The settings in H1R_JUDGE; `UserError` for what is no JSON of a `[judge]` table."""
    text = os.environ.get(SETTINGS_VARIABLE, "{}")
    try:
        return JudgeSection.model_validate_json(text)
    except ValidationError as error:
        raise UserError(f"{SETTINGS_VARIABLE} is no JSON object of [judge] settings: {first_problem(error)}") from None


class _Shared:
    """A judge and the thread in which its event loop runs."""

    def __init__(self, settings: JudgeSection) -> None:
        self.pid = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="h1r-judge", daemon=True)
        self._thread.start()
        try:
            self._judge = self._run(self._make(settings)).result()
        except BaseException:
            self._stop()
            raise

    def submit(self, problem: Problem, answer: str) -> Future[Verdict]:
        return self._run(self._judge.grade(problem, answer))

    def close(self) -> None:
        if os.getpid() == self.pid and self._thread.is_alive():
            self._run(self._judge.close()).result()
            self._stop()

    async def _make(self, settings: JudgeSection) -> Judge:
        return Judge(settings, os.environ.get(KEY_VARIABLE))

    def _run(self, work: Coroutine[Any, Any, Any]) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


_lock = threading.Lock()
_instance: _Shared | None = None


def _shared() -> _Shared:
    global _instance
    with _lock:
        if _instance is None or _instance.pid != os.getpid():
            _instance = _Shared(settings_of_environment())
            atexit.register(_instance.close)
        return _instance
