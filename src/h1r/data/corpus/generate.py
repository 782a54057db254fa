"""Traces for problems that have none: by an engine that the caller brings, or by a teacher behind an endpoint.

    generated/SHARD.jsonl   a line {ordinal, traces} per problem, appended and flushed as soon as it is there

This is the step that costs; so a problem that has a line is never asked for again, and a torn last line (the writer was
killed) is cut off. It runs in the driving process: the endpoint, or the engine, is what works in parallel.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from h1r.config import Recipe, TraceSection
from h1r.data.chat import SYSTEM_PROMPT
from h1r.data.corpus.items import Given, Item
from h1r.errors import UserError
from h1r.progress import Bar
from h1r.records import Message, Problem
from h1r.verify.extract import split_response

Generate = Callable[[Sequence[Problem]], Iterator[tuple[int, list[Given]]]]
"""Problems in, (index of the problem, its traces) out, in any order."""

RETRY_STATUS = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
MAX_PAUSE_S = 60.0


def generate_shard(path: Path, items: Iterable[Item], generate: Generate, batch: int, bar: Bar | None = None) -> int:
    """Makes traces for the SFT problems that have none and no line in `path` yet; returns how many got a line now."""
    done = set(read_generated(path, mend=True))
    path.parent.mkdir(parents=True, exist_ok=True)
    made = 0
    with open(path, "a", encoding="utf-8") as handle:
        for chunk in _chunks((item for item in items if wants_traces(item) and item.ordinal not in done), batch):
            for index, traces in generate([item.problem for item in chunk]):
                tree = {"ordinal": chunk[index].ordinal, "traces": [dataclasses.asdict(trace) for trace in traces]}
                handle.write(json.dumps(tree, ensure_ascii=False) + "\n")
                handle.flush()
                os.fsync(handle.fileno())
                made += 1
                if bar is not None:
                    bar.advance()
    return made


def wants_traces(item: Item) -> bool:
    """Whether traces are to be made for an item: an SFT problem without any, and without a worked solution."""
    return item.use == "sft" and not item.traces and not item.problem.metadata.get("solution")


def read_generated(path: Path, mend: bool = False) -> dict[int, list[Given]]:
    """ordinal -> traces; `mend` cuts a torn last line off the file."""
    found: dict[int, list[Given]] = {}
    if not path.exists():
        return found
    whole = 0
    with open(path, "rb") as handle:
        for line in handle:
            try:
                tree = json.loads(line)
            except ValueError:
                break
            if not line.endswith(b"\n"):
                break
            whole += len(line)
            found[tree["ordinal"]] = [
                Given([Message(**turn) for turn in trace.pop("messages")], **trace) for trace in tree["traces"]
            ]
    if mend and whole < path.stat().st_size:
        os.truncate(path, whole)
    return found


def given_from(question: str, text: str, finish_reason: str) -> Given:
    """A generated response as a trace."""
    response = split_response(text)
    if response.answer is None:
        finish_reason = "unclosed" if finish_reason == "stop" else finish_reason
    thinking = None if response.thinking is None else response.thinking.strip()
    turn = Message("assistant", (response.answer or "").strip(), thinking)
    return Given([Message("user", question), turn], finish_reason=finish_reason)


class Endpoint:
    """A teacher behind an OpenAI-compatible `/chat/completions`. Use as `Generate`.

    The reasoning that servers return apart (`reasoning_content`, `reasoning`) becomes the thinking. Refusals for the
    moment are tried again with growing pauses (or as long as the server asks for); a request that fails for good raises
    `UserError`, since a key or a name that is wrong for one problem is wrong for all.
    """

    def __init__(self, section: TraceSection, recipe: Recipe) -> None:
        self._section = section
        self._system = SYSTEM_PROMPT if recipe.chat.system_prompt is None else recipe.chat.system_prompt
        self._seed = recipe.corpus.seed
        self._url = f"{(section.url or '').rstrip('/')}/chat/completions"

    def __call__(self, problems: Sequence[Problem]) -> Iterator[tuple[int, list[Given]]]:
        with ThreadPoolExecutor(self._section.concurrency) as threads:
            waiting: dict[Future[list[Given]], int] = {
                threads.submit(self._ask, problem): index for index, problem in enumerate(problems)
            }
            try:
                while waiting:
                    done, _ = wait(waiting, return_when=FIRST_COMPLETED)
                    for future in done:
                        yield waiting.pop(future), future.result()
            finally:
                for future in waiting:
                    future.cancel()

    def _ask(self, problem: Problem) -> list[Given]:
        section = self._section
        messages = [{"role": "system", "content": self._system}] if self._system else []
        body = {
            "model": section.model,
            "messages": [*messages, {"role": "user", "content": problem.question}],
            "n": section.n,
            "temperature": section.temperature,
            "top_p": section.top_p,
            "max_tokens": section.max_tokens,
            "seed": self._seed,
        }
        answer = self._post(json.dumps(body).encode())
        try:
            return [self._trace(problem, choice) for choice in answer["choices"]]
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{self._url} answered in another form than /chat/completions ({error!r}); check corpus.traces.url"
            ) from None

    def _trace(self, problem: Problem, choice: dict[str, Any]) -> Given:
        message = choice["message"]
        reasoning = message.get("reasoning_content") or message.get("reasoning")
        text = message.get("content") or ""
        if reasoning:
            text = f"<think>\n{reasoning}\n</think>\n\n{text}"
        return given_from(problem.question, text, choice.get("finish_reason") or "stop")

    def _post(self, body: bytes) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(self._section.key_variable):
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(self._url, body, headers)
        for attempt in range(self._section.retries + 1):
            pause = min(2.0**attempt / 2, MAX_PAUSE_S)
            try:
                with urllib.request.urlopen(request, timeout=self._section.timeout_s) as response:
                    found: dict[str, Any] = json.load(response)
                    return found
            except urllib.error.HTTPError as error:
                if error.code not in RETRY_STATUS or attempt == self._section.retries:
                    detail = error.read(300).decode(errors="replace")
                    raise UserError(f"{self._url} answered {error.code}: {detail}; check corpus.traces") from None
                asked = error.headers.get("Retry-After", "")
                pause = float(asked) if asked.isdigit() else pause
            except (OSError, ValueError) as error:
                if attempt == self._section.retries:
                    raise UserError(
                        f"{self._url} does not answer ({error}); start the server or mend corpus.traces.url, then run "
                        f"the same command again: what is done stays"
                    ) from None
            time.sleep(pause)
        raise AssertionError("the last attempt returns or raises")


def _chunks(items: Iterator[Item], size: int) -> Iterator[list[Item]]:
    chunk: list[Item] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
