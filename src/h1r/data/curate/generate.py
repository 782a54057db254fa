"""Traces for problems that have none: by an engine that the caller brings, or by a teacher behind an endpoint.

    generated/SHARD.jsonl   a line {ordinal, traces, why, prompt_tokens, completion_tokens} per problem, appended and
                            flushed as soon as it is there

This is the step that costs; so a problem that has a line is never asked for again, and a torn last line (the writer was
killed) is cut off. A problem that the teacher refuses, or fails at in every round, has a line without traces that says
why; `ask_again` takes these lines away. It runs in the driving process: the
endpoint, or the engine, is what works in parallel.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import json
import os
import threading
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from h1r.common import finish_reasons
from h1r.common.files import atomic
from h1r.common.http import EndpointError, Endpoints, RefusedError, Reply
from h1r.common.progress import Bar, note
from h1r.common.prose import counted
from h1r.config import PriceSection, Recipe, TraceSection
from h1r.data.chat import SYSTEM_PROMPT
from h1r.data.curate.io.items import Given, Item
from h1r.data.curate.rules.steps import has_worked_solution
from h1r.errors import UserError
from h1r.records import Message, Problem
from h1r.response.extract import split_response

T = TypeVar("T")


@dataclass(slots=True)
class Made:
    """What came of one problem: its traces, or why there are none, and what the requests cost in tokens."""

    traces: list[Given]
    why: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0


Generate = Callable[[Iterable[Problem]], Iterator[tuple[int, Made]]]
"""Problems in, (index of the problem, what came of it) out, in any order. Takes no more problems than it works on."""
GenerateBatch = Callable[[Sequence[Problem]], Iterator[tuple[int, list[Given]]]]
"""The same for a list of problems that are all there; traces alone."""

MAX_PAUSE_S = 60.0
ALL_FAILED = 20
"""Failures, without an answer between them, after which the server is taken to be away."""
ALL_REFUSED = 5
"""Refused problems, before any is answered, after which the request itself is taken to be wrong."""


def generate_shard(
    path: Path,
    items: Iterable[Item],
    generate: Generate,
    bar: Bar | None = None,
    told: Callable[[Spent], dict[str, Any]] | None = None,
) -> int:
    """Makes traces for the SFT problems that have none and no line in `path` yet; returns how many got a line now.
    `told`: what the bar shows of what the shard has cost."""
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
        for index, result in generate(wanted()):
            tree = {"ordinal": under_way.pop(index), **dataclasses.asdict(result)}
            done.spent.add(result)
            handle.write(json.dumps(tree, ensure_ascii=False) + "\n")
            handle.flush()
            os.fsync(handle.fileno())
            made += 1
            if bar is not None:
                bar.advance(**({} if told is None else told(done.spent)))
    return made


def wants_traces(item: Item) -> bool:
    """Whether traces are to be made for an item: an SFT problem without any, and without a worked solution."""
    return item.use == "sft" and not item.traces and not has_worked_solution(item)


@dataclass(slots=True)
class Spent:
    """What the traces of a run, or of a part of it, have cost, and the problems that have none, by reason."""

    problems: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    without: Counter[str] = field(default_factory=Counter)

    def add(self, made: Made) -> None:
        """Counts one problem."""
        self.problems += 1
        self.prompt_tokens += made.prompt_tokens
        self.completion_tokens += made.completion_tokens
        if made.why:
            self.without[made.why.partition(":")[0]] += 1

    def cost(self, price: PriceSection | None) -> float | None:
        """The amount at a price; None without one."""
        if price is None:
            return None
        return (self.prompt_tokens * price.prompt + self.completion_tokens * price.completion) / 1e6

    def to_json(self) -> dict[str, Any]:
        """The counts."""
        tokens = {"prompt_tokens": self.prompt_tokens, "completion_tokens": self.completion_tokens}
        return {"problems": self.problems, **tokens, "without": dict(sorted(self.without.items()))}

    def __add__(self, other: Spent) -> Spent:
        return Spent(
            self.problems + other.problems,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.without + other.without,
        )


class Generated:
    """The traces in a file by ordinal, read one problem at a time; `mend` cuts a torn last line off the file."""

    def __init__(self, path: Path, mend: bool = False) -> None:
        self._path = path
        self._places: dict[int, int] = {}
        self.spent = Spent()
        if not path.exists():
            return
        whole = 0
        with open(path, "rb") as handle:
            for line in handle:
                if not line.endswith(b"\n"):
                    break
                try:
                    tree = json.loads(line)
                    self._places[tree["ordinal"]] = whole
                    self.spent.add(_made(tree))
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
                    item.traces = _made(json.loads(handle.readline())).traces
                yield item


def _made(tree: dict[str, Any]) -> Made:
    traces = [Given([Message(**turn) for turn in one.pop("messages")], **one) for one in tree["traces"]]
    return Made(traces, tree.get("why", ""), tree.get("prompt_tokens", 0), tree.get("completion_tokens", 0))


def ask_again(directory: Path) -> int:
    """Takes the problems without traces out of the files of a directory, so that they are asked for again; how many."""
    count = 0
    for path in sorted(directory.glob("*.jsonl")):
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if not (line.endswith("\n") and json.loads(line).get("why"))]
        if len(kept) < len(lines):
            with atomic(path) as partial:
                partial.write_text("".join(kept), encoding="utf-8")
        count += len(lines) - len(kept)
    return count


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
    asked for the others. What may pass is tried again (`h1r.common.http`). A problem that fails all the same is asked
    again behind the others, in `rounds` rounds, and then set aside, if others were answered meanwhile; one that the
    server refuses gets no trace. A wrong key, name or address, an account without credit, a server that stays away, and
    refusals of the first problems one and all raise `UserError`, since what is wrong for these is wrong for all; what
    is under way by then ends first, and is kept.
    """

    def __init__(self, section: TraceSection, recipe: Recipe) -> None:
        self._section = section
        self._system = SYSTEM_PROMPT if recipe.chat.system_prompt is None else recipe.chat.system_prompt
        self._seed = recipe.corpus.seed
        self._refused = 0
        self._answered = 0
        self._failed = 0
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

    def __call__(self, problems: Iterable[Problem]) -> Iterator[tuple[int, Made]]:
        again: deque[_Asked] = deque()
        coming: Iterator[_Asked] = (_Asked(index, one) for index, one in enumerate(problems))
        waiting: dict[Future[Made], _Asked] = {}
        stopped: UserError | None = None
        try:
            while True:
                # What is under way when the run has to stop may be paid for: it ends, and nothing follows it.
                room = 0 if stopped else self._section.concurrency - len(waiting)
                for asked in itertools.islice(coming, room):
                    asked.answered = self._answered if asked.round == 1 else asked.answered
                    waiting[self._run(self._ask(asked.problem))] = asked
                if not waiting:
                    if stopped:
                        raise stopped
                    if not again:
                        return
                    coming = _popped(again)
                    continue
                done, _ = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    asked, error = waiting.pop(future), future.exception()
                    result: Made | None = None
                    try:
                        if not isinstance(error, EndpointError):
                            result = future.result()
                        elif not stopped:
                            result = self._after_failure(asked, error)
                    except UserError as stop:
                        stopped = stopped or stop
                        continue
                    if result is not None:
                        yield asked.index, result
                    else:
                        again.append(asked)
        finally:
            for future in waiting:
                future.cancel()

    def _after_failure(self, asked: _Asked, error: BaseException | None) -> Made | None:
        """What comes of a problem that failed: None for another round. `UserError` where nothing is answered at all."""
        self._failed += 1
        if self._failed >= ALL_FAILED or (asked.round >= self._section.rounds and self._answered == asked.answered):
            raise UserError(
                f"the teacher does not answer ({error}); start the server or mend corpus.traces.url, then run the same "
                "command again: what is done stays"
            )
        if asked.round < self._section.rounds:
            asked.round += 1
            return None
        note(f"problem {asked.problem.id} is set aside after {asked.round} rounds: {error}")
        return Made([], f"failed in every round: {error}")

    def _run(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _ask(self, problem: Problem) -> Made:
        section = self._section
        messages = [{"role": "system", "content": self._system}] if self._system else []
        messages.append({"role": "user", "content": problem.question})
        replies: list[Reply] = []
        made = Made([])
        try:
            while len(replies) < section.n:
                found = await self._endpoints.choices(
                    messages,
                    n=section.n - len(replies),
                    temperature=section.temperature,
                    top_p=section.top_p,
                    max_tokens=section.max_tokens,
                    seed=self._seed + len(replies),
                )
                replies += found
                made.prompt_tokens += found[0].usage.prompt or 0
                made.completion_tokens += found[0].usage.completion or 0
        except UserError as error:
            raise UserError(f"{error}; mend corpus.traces and run it again: what is done stays") from None
        except RefusedError as error:
            self._refused += 1
            if not self._answered and self._refused >= ALL_REFUSED:
                raise UserError(
                    f"the teacher refused the first {counted(self._refused, 'problem')}, the last with {error}; "
                    f"mend corpus.traces"
                ) from None
            note(f"the teacher refused problem {problem.id}: {error}")
            return Made([], f"refused: {error}", made.prompt_tokens, made.completion_tokens)
        self._answered += 1
        self._failed = 0
        made.traces = [_trace(problem, reply) for reply in replies[: section.n]]
        return made


@dataclass(slots=True)
class _Asked:
    """A problem at the teacher: in which round it is asked, and the problems answered before it was first asked."""

    index: int
    problem: Problem
    round: int = 1
    answered: int = 0


def _popped(again: deque[_Asked]) -> Iterator[_Asked]:
    """What is in a queue now; what is put back meanwhile waits for the next round."""
    for _ in range(len(again)):
        yield again.popleft()


def _trace(problem: Problem, reply: Reply) -> Given:
    return given_from(problem.question, reply.whole, reply.finish_reason or "stop")


def in_batches(generate: GenerateBatch, size: int) -> Generate:
    """What takes lists of problems, such as an engine, as `Generate`: `size` problems at a time."""

    def generate_all(problems: Iterable[Problem]) -> Iterator[tuple[int, Made]]:
        coming = iter(problems)
        start = 0
        while batch := list(itertools.islice(coming, size)):
            for index, traces in generate(batch):
                yield start + index, Made(traces)
            start += len(batch)

    return generate_all
