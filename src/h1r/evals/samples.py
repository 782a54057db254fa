"""Every answer of an evaluation, kept in a file as it ends: what a person reads, and what a stopped evaluation goes on
from.

    NAME.samples.jsonl     while it runs      a line per answer as it ends, and a line per verdict as it comes
                           when it is whole   a line per answer with its verdict, in order of (problem, sample)

Of a (problem, sample) the last line counts. An answer that the engine failed at is asked for again by the next attempt;
one that could not be scored is kept, and only its verdict is asked for again. In memory stand a few numbers per answer,
never its text.

    problem sample                              the problem's place among the problems, and the answer's among its own
    problem_id question reference               of the problem
    text tokens finish_reason seed error reward of the answer; reward: an environment's
    usage room                                  of the trace (`records.Trace`), where it has them
    token_ids confidences                       base64 of little-endian int32, float32
    verdict                                     see `records.Verdict`
"""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal

from h1r.common.files import atomic
from h1r.common.lines import LineFile
from h1r.errors import UserError
from h1r.evals.columns import AnswerColumns
from h1r.evals.metrics import USAGE, Answer
from h1r.records import Problem, Trace, Verdict
from h1r.rollout.retry import has_no_room, is_unanswerable
from h1r.scaling.answers import extract_answer
from h1r.scaling.trace_arrays import decoded, encoded

Place = tuple[int, int]
"""Problem (its index) and sample."""
Carried = Literal["token_ids", "confidences"]
_ARRAYS: tuple[Carried, ...] = ("token_ids", "confidences")


class Samples:
    """The answers to `problems`, `n` each, in the file at `path`; what is there already is taken over.

    Raises `UserError` when the file cannot be written or read, or another process writes it. Threads may add at once.
    """

    def __init__(self, path: Path, problems: Sequence[Problem], n: int) -> None:
        self.problems, self.n = problems, n
        self._path = path
        self._file = LineFile(path)
        self._lock = threading.Lock()
        self._answers = AnswerColumns(len(problems) * n)
        """Of problem i the answer j is number i * n + j."""
        self._end = 0
        self._is_whole = True
        """Whether the file is as `finish` leaves it."""
        last = -1
        for count, line in enumerate(self._file.lines(), 1):
            try:
                row = json.loads(line)
                place = row["problem"], row["sample"]
                if not (0 <= place[0] < len(problems) and 0 <= place[1] < n):
                    raise ValueError(place)
                number = self._number(place)
                self._take(number, row)
                self._is_whole &= number > last and "text" in row and "verdict" in row
                last = number
            except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
                self._file.close()
                raise UserError(
                    f"{path}, line {count}: no answer of an evaluation; delete the line, or the file to ask again"
                ) from None
            self._end += len(line.encode()) + 1

    def __enter__(self) -> Samples:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def missing(self) -> Iterator[Place]:
        """What has no answer yet, or one that the engine failed at and may not fail at again; in order."""
        for number in range(len(self.problems) * self.n):
            answer = self._answers.get(number)
            if answer is None or (answer.finish_reason == "error" and not answer.unanswerable):
                yield divmod(number, self.n)

    def unscored(self) -> Iterator[Place]:
        """Answers whose verdict did not come about, in order."""
        return (place for place, answer in self.answers() if answer.finish_reason != "error" and not answer.scored)

    def add(self, traces: Sequence[Trace]) -> None:
        """Keeps answers that have ended; they have no verdict yet. `trace.prompt_index` is the problem's index."""
        for trace in traces:
            problem = self.problems[trace.prompt_index]
            row = {
                "problem": trace.prompt_index,
                "problem_id": problem.id,
                "sample": trace.sample_index,
                "question": problem.question,
                "reference": problem.answer,
                "text": trace.text,
                "tokens": trace.num_tokens,
                "finish_reason": trace.finish_reason,
                "seed": trace.seed,
                "error": trace.error,
                "reward": trace.reward,
                **({"usage": trace.usage} if trace.usage else {}),
                **({"room": trace.room} if trace.room is not None else {}),
                **encoded(trace, _ARRAYS),
            }
            self._append((trace.prompt_index, trace.sample_index), row)

    def grade(self, places: Sequence[Place], verdicts: Sequence[Verdict]) -> None:
        """Keeps the verdicts of answers that are there."""
        for place, verdict in zip(places, verdicts, strict=True):
            row = {"problem": place[0], "sample": place[1], "verdict": dataclasses.asdict(verdict)}
            self._append(place, row)

    def answers(self) -> Iterator[tuple[Place, Answer]]:
        """What is known of every answer, in order."""
        for number in self._answers.known():
            if (answer := self._answers.get(number)) is not None:
                yield divmod(number, self.n), answer

    def answer(self, place: Place) -> Answer | None:
        """What is known of an answer, None before it is there."""
        return self._answers.get(self._number(place))

    def carried(self) -> frozenset[Carried]:
        """Which lists of its tokens every answer has, but for those that the engine failed at and empty ones."""
        lacking = self._answers.lacking()
        return frozenset(name for bit, name in enumerate(_ARRAYS) if not lacking >> bit & 1)

    def states_tokens(self) -> bool:
        """Whether it is known of every answer how many tokens it has."""
        return not self._answers.lacking() >> len(_ARRAYS) & 1

    def trace(self, place: Place) -> Trace:
        """An answer as it was generated, but for its log-probabilities, which are not kept."""
        with open(self._path, "rb") as handle:
            return _trace(place, _read(handle, self._answers.offset(self._number(place))))

    def verdict(self, place: Place) -> Verdict | None:
        """The verdict of an answer, None before it has one."""
        with open(self._path, "rb") as handle:
            return self._verdict(handle, self._number(place))

    def of_problem(self, index: int) -> list[tuple[Trace, Verdict | None]]:
        """The answers to a problem that are there, in order, with their verdicts."""
        places = ((index, sample) for sample in range(self.n) if self.answer((index, sample)) is not None)
        with open(self._path, "rb") as handle:
            return [
                (_trace(place, _read(handle, self._answers.offset(number))), self._verdict(handle, number))
                for place in places
                for number in [self._number(place)]
            ]

    def verdicts(self) -> Iterator[tuple[Place, Verdict]]:
        """Every verdict in order of its place, read from the file one by one."""
        with open(self._path, "rb") as handle:
            for number in self._answers.known():
                if (verdict := self._verdict(handle, number)) is not None:
                    yield divmod(number, self.n), verdict

    def finish(self) -> None:
        """Writes the file anew, if it is not so already: an answer a line with its verdict, in order; nothing can be
        added after it."""
        if self._is_whole:
            return
        end = 0
        with atomic(self._path) as partial, open(partial, "wb") as handle, open(self._path, "rb") as source:
            for number in self._answers.known():
                row = _read(source, self._answers.offset(number))
                verdict = self._verdict_row(source, number)
                self._answers.set_offset(number, end)
                if verdict:
                    self._answers.set_verdict_offset(number, end)
                end += handle.write(f"{_line({**row, 'verdict': verdict})}\n".encode())

    def _number(self, place: Place) -> int:
        return place[0] * self.n + place[1]

    def _verdict(self, handle: BinaryIO, number: int) -> Verdict | None:
        row = self._verdict_row(handle, number)
        return None if row is None else Verdict(**row)

    def _verdict_row(self, handle: BinaryIO, number: int) -> dict[str, Any] | None:
        offset = self._answers.verdict_offset(number)
        return None if offset < 0 else _read(handle, offset)["verdict"]

    def _append(self, place: Place, row: dict[str, Any]) -> None:
        line = _line(row)
        with self._lock:
            self._is_whole = False
            self._file.append([line])
            self._take(self._number(place), row)
            self._end += len(line.encode()) + 1

    def _take(self, number: int, row: dict[str, Any]) -> None:
        """Takes over a line that begins at the present end."""
        answer = self._answers.get(number)
        if "text" in row:
            failed = row["finish_reason"] == "error"
            answer = Answer(
                row["tokens"],
                row["finish_reason"],
                extract_answer(row["text"]) is not None,
                unanswerable=failed and is_unanswerable(row["error"]),
                usage=_counts(row.get("usage")),
                room=0 if failed and has_no_room(row["error"]) else row.get("room"),
            )
            lacks = 0 if failed or not row["text"] else _lacks(row)
            self._answers.put(number, answer, lacks)
            self._answers.set_offset(number, self._end)
            self._answers.set_verdict_offset(number, -1)
        verdict = row.get("verdict")
        if verdict and answer is not None:
            answer.reward, answer.reason = verdict["reward"], verdict["reason"]
            answer.answered |= verdict["extracted"] is not None
            answer.confidence = verdict["parts"].get("confidence")
            self._answers.put(number, answer)
            self._answers.set_verdict_offset(number, self._end)


def _lacks(row: dict[str, Any]) -> int:
    """What is not known of an answer's tokens, a bit each: the lists of `_ARRAYS`, and behind these how many."""
    missing = [not row[name] for name in _ARRAYS] + [not row["tokens"]]
    return sum(1 << bit for bit, one in enumerate(missing) if one)


def _trace(place: Place, row: dict[str, Any]) -> Trace:
    return Trace(
        prompt_index=place[0],
        sample_index=place[1],
        text=row["text"],
        logprobs=[],
        sampling_logprobs=[],
        finish_reason=row["finish_reason"],
        seed=row["seed"],
        problem_id=row["problem_id"],
        error=row["error"],
        reward=row["reward"],
        usage=row.get("usage"),
        room=row.get("room"),
        **decoded(row, _ARRAYS),
    )


def _counts(usage: dict[str, int] | None) -> tuple[int, ...] | None:
    return tuple(int(usage.get(name, 0)) for name in USAGE) if usage else None


def _read(handle: BinaryIO, offset: int) -> dict[str, Any]:
    handle.seek(offset)
    row: dict[str, Any] = json.loads(handle.readline())
    return row


def _line(row: dict[str, Any]) -> str:
    """Text as it is, so that a person can read it; escaped where it holds half a character, which no file can."""
    line = json.dumps(row, ensure_ascii=False)
    try:
        line.encode()
    except UnicodeEncodeError:
        return json.dumps(row)
    return line
