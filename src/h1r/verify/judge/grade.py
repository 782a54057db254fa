"""A language model as verifier, for answers that no rule can check.

    reward = 1 if the judge says that the answer is correct, 0 if it says that it is not
             0, unscored, with an `error` for everything else: no server, no reply in time, a reply that is no verdict

An answer that equals the reference after normalisation needs no judge. Judgements are cached by what was asked of whom
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
from h1r.config.judge import JudgeSection
from h1r.errors import UserError
from h1r.records import Problem, Verdict, first_problem
from h1r.verify.exact import normalise
from h1r.verify.judge.cache import JudgementCache
from h1r.verify.judge.forms import read_reply
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
        self._under_way: dict[str, asyncio.Task[bool | None]] = {}

    async def grade(self, problem: Problem, answer: str) -> Verdict:
        """The verdict on an answer; raises `UserError` when a server refuses the key, the model or the path."""
        text = extracted_answer(answer, self._settings.max_answer_chars)
        if text is None:
            return Verdict(0.0, error="the answer is empty", reason="not_extracted")
        if not problem.answer.strip():
            return Verdict(0.0, extracted=text, error="the problem has no reference for the judge", reason="unscored")
        asked = messages(
            problem.question, problem.answer, text, self._settings.max_question_chars, self._settings.reply
        )
        key = self._key(asked)
        correct, cached = self._cache.get(key), True
        if correct is None:
            cached = False
            try:
                correct = await self._judgement(key, asked)
            except EndpointError as error:
                return Verdict(0.0, extracted=text, error=f"the judge failed: {error}"[:500], reason="unscored")
        if correct is None:
            return Verdict(0.0, extracted=text, error="the judge's reply is no verdict", reason="unscored")
        return Verdict(float(correct), {"judge:cached": float(cached)}, extracted=text)

    async def close(self) -> None:
        """Ends what is under way, closes connections and the cache."""
        for task in list(self._under_way.values()):
            task.cancel()
        await self._endpoints.close()
        self._cache.close()

    async def _judgement(self, key: str, asked: list[dict[str, str]]) -> bool | None:
        """One request however many ask for it; shielded, since another may wait for what this caller gives up."""
        task = self._under_way.get(key)
        if task is None:
            task = self._under_way[key] = asyncio.ensure_future(self._ask(key, asked))
            task.add_done_callback(lambda _: self._under_way.pop(key, None))
        return await asyncio.shield(task)

    async def _ask(self, key: str, asked: list[dict[str, str]]) -> bool | None:
        reply = await self._endpoints.chat(
            asked, temperature=self._settings.temperature, max_tokens=self._settings.max_tokens
        )
        correct = read_reply(reply.text, self._settings.reply) if reply.finish_reason != "length" else None
        if correct is not None:
            self._cache.put(key, correct)
        return correct

    def _key(self, asked: list[dict[str, str]]) -> str:
        settings = self._settings
        what = [settings.model, settings.temperature, settings.max_tokens, asked]
        return hashlib.sha256(json.dumps(what, ensure_ascii=True).encode()).hexdigest()


def quick(problem: Problem, answer: str) -> Verdict | None:
    """The verdict where a judge is not needed: the boxed answer is the reference. Linear time."""
    text = extracted_answer(answer, len(answer))
    if text is None:
        return Verdict(0.0, error="the answer is empty", reason="not_extracted")
    reference = normalise(problem.answer)
    return Verdict(1.0, {"judge:exact": 1.0}, extracted=text) if reference and normalise(text) == reference else None


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
