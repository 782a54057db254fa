"""Traces for problems that have none: by an engine that the caller brings, or by a teacher behind an endpoint.

    generated/SHARD.jsonl   a line {ordinal, traces} per problem, appended and flushed as soon as it is there

This is the step that costs; so a problem that has a line is never asked for again, and a torn last line (the writer was
killed) is cut off. A problem that the teacher refuses has a line without traces. It runs in the driving process: the
endpoint, or the engine, is what works in parallel.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import json
import os
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path
from typing import Any, TypeVar

from h1r.common import finish_reasons
from h1r.common.http import EndpointError, Endpoints, RefusedError, Reply
from h1r.common.progress import Bar, note
from h1r.config import Recipe, TraceSection
from h1r.data.chat import SYSTEM_PROMPT
from h1r.data.curate.io.items import Given, Item
from h1r.data.curate.rules.steps import has_worked_solution
from h1r.errors import UserError
from h1r.records import Message, Problem
from h1r.verify.response.extract import split_response

T = TypeVar("T")
Generate = Callable[[Iterable[Problem]], Iterator[tuple[int, list[Given]]]]
"""Problems in, (index of the problem, its traces) out, in any order. Takes no more problems than it works on."""
GenerateBatch = Callable[[Sequence[Problem]], Iterator[tuple[int, list[Given]]]]
"""The same for a list of problems that are all there."""

MAX_PAUSE_S = 60.0
ALL_REFUSED = 5
"""Refused problems, before any is answered, after which the request itself is taken to be wrong."""


def generate_shard(path: Path, items: Iterable[Item], generate: Generate, bar: Bar | None = None) -> int:
    """Makes traces for the SFT problems that have none and no line in `path` yet; returns how many got a line now."""
    done = Generated(path, mend=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    under_way: dict[int, int] = {}
    made = 0

    def wanted() -> Iterator[Problem]:
        todo = (item for item in items if wants_traces(item) and item.ordinal not in done)
        for index, item in enumerate(todo):
            under_way[index] = item.ordinal
            yield item.problem

    with open(path, "a", encoding="utf-8") as handle:
        for index, traces in generate(wanted()):
            tree = {"ordinal": under_way.pop(index), "traces": [dataclasses.asdict(trace) for trace in traces]}
            handle.write(json.dumps(tree, ensure_ascii=False) + "\n")
            handle.flush()
            os.fsync(handle.fileno())
            made += 1
            if bar is not None:
                bar.advance()
    return made


def wants_traces(item: Item) -> bool:
    """Whether traces are to be made for an item: an SFT problem without any, and without a worked solution."""
    return item.use == "sft" and not item.traces and not has_worked_solution(item)


class Generated:
    """The traces in a file by ordinal, read one problem at a time; `mend` cuts a torn last line off the file."""

    def __init__(self, path: Path, mend: bool = False) -> None:
        self._path = path
        self._places: dict[int, int] = {}
        if not path.exists():
            return
        whole = 0
        with open(path, "rb") as handle:
            for line in handle:
                if not line.endswith(b"\n"):
                    break
                try:
                    self._places[json.loads(line)["ordinal"]] = whole
                except ValueError:
                    break
                whole += len(line)
        if mend and whole < path.stat().st_size:
            os.truncate(path, whole)

    def __contains__(self, ordinal: int) -> bool:
        return ordinal in self._places

    def __len__(self) -> int:
        return len(self._places)

    def added_to(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items, those without traces with the ones that were made for them."""
        if not self._places:
            yield from items
            return
        with open(self._path, "rb") as handle:
            for item in items:
                if not item.traces and item.ordinal in self._places:
                    handle.seek(self._places[item.ordinal])
                    item.traces = [
                        Given([Message(**turn) for turn in trace.pop("messages")], **trace)
                        for trace in json.loads(handle.readline())["traces"]
                    ]
                yield item


def given_from(question: str, text: str, finish_reason: str) -> Given:
    """A generated response as a trace."""
    response = split_response(text)
    reason = finish_reasons.finish_reason(finish_reason)
    if response.answer is None:
        reason = "unclosed" if reason == "stop" else reason
    thinking = None if response.thinking is None else response.thinking.strip()
    turn = Message("assistant", (response.answer or "").strip(), thinking)
    return Given([Message("user", question), turn], finish_reason=reason)


class Endpoint:
    """A teacher behind an OpenAI-compatible endpoint. Use as `Generate`, within a `with` block.

    As many problems as `concurrency` says are under way at once; the next one is asked for as soon as one has its
    traces. The reasoning that servers return apart becomes the thinking. A server that gives fewer replies than `n` is
    asked for the others. What may pass is tried again (`h1r.common.http`); a problem that the server refuses gets no
    trace. A wrong key, name or address, a server that stays away, and refusals of the first problems one and all raise
    `UserError`, since what is wrong for these is wrong for all.
    """

    def __init__(self, section: TraceSection, recipe: Recipe) -> None:
        self._section = section
        self._system = SYSTEM_PROMPT if recipe.chat.system_prompt is None else recipe.chat.system_prompt
        self._seed = recipe.corpus.seed
        self._refused = 0
        self._answered = False
        self._endpoints = Endpoints(
            [section.url or ""],
            section.model or "",
            os.environ.get(section.key_variable),
            concurrency=section.concurrency,
            timeout_s=section.timeout_s,
            attempts=section.retries + 1,
            max_wait_s=MAX_PAUSE_S,
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="h1r-teacher", daemon=True)

    def __enter__(self) -> Endpoint:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._endpoints.close()).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __call__(self, problems: Iterable[Problem]) -> Iterator[tuple[int, list[Given]]]:
        coming = enumerate(problems)
        waiting: dict[Future[list[Given]], int] = {}
        try:
            while True:
                for index, problem in itertools.islice(coming, self._section.concurrency - len(waiting)):
                    waiting[self._run(self._ask(problem))] = index
                if not waiting:
                    return
                done, _ = wait(waiting, return_when=FIRST_COMPLETED)
                # Those that failed come last: the others have their traces, and keep them.
                for future in sorted(done, key=lambda one: one.exception() is not None):
                    yield waiting.pop(future), future.result()
        finally:
            for future in waiting:
                future.cancel()

    def _run(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _ask(self, problem: Problem) -> list[Given]:
        section = self._section
        messages = [{"role": "system", "content": self._system}] if self._system else []
        messages.append({"role": "user", "content": problem.question})
        replies: list[Reply] = []
        try:
            while len(replies) < section.n:
                replies += await self._endpoints.choices(
                    messages,
                    n=section.n - len(replies),
                    temperature=section.temperature,
                    top_p=section.top_p,
                    max_tokens=section.max_tokens,
                    seed=self._seed + len(replies),
                )
        except UserError as error:
            raise UserError(f"{error}; mend corpus.traces and run it again: what is done stays") from None
        except RefusedError as error:
            self._refused += 1
            if not self._answered and self._refused >= ALL_REFUSED:
                raise UserError(
                    f"the teacher refused the first {self._refused} problems, the last with {error}; mend corpus.traces"
                ) from None
            note(f"the teacher refused problem {problem.id}: {error}")
            return []
        except EndpointError as error:
            raise UserError(
                f"the teacher does not answer ({error}); start the server or mend corpus.traces.url, then run the same "
                "command again: what is done stays"
            ) from None
        self._answered = True
        return [_trace(problem, reply) for reply in replies[: section.n]]


def _trace(problem: Problem, reply: Reply) -> Given:
    return given_from(problem.question, reply.whole, reply.finish_reason or "stop")


def in_batches(generate: GenerateBatch, size: int) -> Generate:
    """What takes lists of problems, such as an engine, as `Generate`: `size` problems at a time."""

    def generate_all(problems: Iterable[Problem]) -> Iterator[tuple[int, list[Given]]]:
        coming = iter(problems)
        start = 0
        while batch := list(itertools.islice(coming, size)):
            for index, traces in generate(batch):
                yield start + index, traces
            start += len(batch)

    return generate_all
