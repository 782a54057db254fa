"""Verdicts for the lines of a file: what `h1r verify FILE` prints.

    in    {"prediction": ..., "reference": ..., and optionally "verifier", "problem", "tests", "metadata", "id"}
    out   {"line": 1, "reward": 1.0, "extracted": ..., "verifier": ..., "parts": {...},
           "reason": null, "error": null}

`prediction` is a bare answer or a whole response, with or without thinking. `reference` may be left out where `tests`
or `metadata` stand in for it; other keys are ignored; an `id` comes back. The default verifier takes an answer that is
not boxed. `math` takes a box and nothing else, here too; for `exact` and `reasoning_gym`, a bare prediction is put into
one. Lines with `tests` are code unless they say otherwise.

A line that cannot be read gets a verdict in its place: reward 0, and the reason as its error. Blank lines have none.
Compressed files and those with a byte order mark are read (`common/reading.py`); one that is cut off gives the verdicts
of its whole lines, and then a `UserError`. References lose the characters that nobody sees, as in curation; predictions
are graded as they stand, as in RL.

Memory is bounded whatever the file: a chunk is one block of lines or one long line, a thread reads at most one chunk
ahead, and at most IN_FLIGHT chunks wait for their verdicts. A chunk ends where the input pauses, so that a pipe gets
its verdicts as it goes. A file without a line that is not blank is a `UserError`.
"""

from __future__ import annotations

import contextlib
import json
import queue
import sys
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from io import FileIO, RawIOBase
from pathlib import Path
from typing import Any

from h1r.common.reading import DamagedError, blocks, clean, json_value
from h1r.errors import UserError
from h1r.records import Problem, Verdict
from h1r.verify.registry import require
from h1r.verify.workers.pool import PendingVerdicts, VerifierPool

DEFAULT_VERIFIER = "math_lenient"
CODE_VERIFIER = "code"
STDIN = "-"
MAX_LINE_BYTES = 32 << 20
IN_FLIGHT = 4

Line = tuple[int, bytes | None]
"""(number from 1, content); None for a line longer than MAX_LINE_BYTES."""


def verify_file(
    path: str | Path, verifier: str | None = None, workers: int = 1, time_limit_s: float = 5.0
) -> Iterator[dict[str, Any]]:
    """One verdict per line of a JSONL file, or of standard input for "-", in order, in bounded memory.

    `verifier` is for lines that name none. `UserError`: a file that cannot be read, or an unknown `verifier`.
    """
    default = require(verifier).name if verifier else None
    with opened(path) as handle, VerifierPool(workers=workers, time_limit_s=time_limit_s) as pool:
        waiting: deque[_Chunk] = deque()
        try:
            with ReadAhead(handle) as ahead:
                while True:
                    lines = ahead.take(wait=not waiting) if len(waiting) < IN_FLIGHT else None
                    if lines:
                        waiting.append(_submit(lines, default, pool))
                    elif waiting:
                        yield from waiting[0].rows()
                        waiting.popleft()
                    else:
                        ahead.check_end(path)
                        return
        finally:
            for chunk in waiting:
                chunk.batch.cancel()


@contextlib.contextmanager
def opened(path: str | Path) -> Iterator[FileIO]:
    is_stdin = str(path) == STDIN
    if Path(path).suffix == ".parquet":
        raise UserError(f"{path} is Parquet, and answers to grade are read from JSON Lines; convert it")
    try:  # unbuffered: a thread that still reads at exit must hold no buffer's lock
        handle = open(sys.stdin.fileno() if is_stdin else path, "rb", buffering=0, closefd=not is_stdin)  # noqa: SIM115
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}; check the path") from None
    with handle:
        yield handle


class ReadAhead:
    """A thread that reads chunks of lines, one ahead; a reading error is raised by `take`."""

    def __init__(self, handle: RawIOBase) -> None:
        self._handle = handle
        self._chunks: queue.Queue[list[Line] | OSError | DamagedError | None] = queue.Queue(maxsize=1)
        self._damage: DamagedError | None = None
        self._is_empty = True
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="h1r-verify-read", daemon=True)

    def __enter__(self) -> ReadAhead:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = True
        with contextlib.suppress(queue.Empty):
            self._chunks.get_nowait()  # lets a thread that waits for room go on, and see that it is over

    def take(self, wait: bool) -> list[Line] | None:
        """The next chunk; None at the end, and, unless told to `wait`, while there is none yet."""
        if self._ended:
            return None
        try:
            chunk = self._chunks.get(block=wait)
        except queue.Empty:
            return None
        self._ended = chunk is None or isinstance(chunk, DamagedError)
        if isinstance(chunk, OSError):
            raise UserError(f"cannot read on: {chunk.strerror or chunk}; check the file")
        if isinstance(chunk, DamagedError):
            self._damage = chunk
            return None
        self._is_empty &= chunk is None
        return chunk

    def check_end(self, path: str | Path) -> None:
        """`UserError` when the lines ended before the file did, and where there was none."""
        if self._damage:
            raise UserError(f"{path}: {self._damage}; what stands above is of its whole lines, give the whole file")
        if self._is_empty:
            named = "standard input" if str(path) == STDIN else path
            raise UserError(f"{named} holds no line; give one with a JSON object for each answer or problem")

    def _run(self) -> None:
        try:
            for chunk in chunks(self._handle):
                self._chunks.put(chunk)
                if self._ended:
                    return
            self._chunks.put(None)
        except (OSError, DamagedError) as error:
            self._chunks.put(error)


def chunks(handle: RawIOBase) -> Iterator[list[Line]]:
    """The lines that are not blank, some at a time: what one read of at most BLOCK_BYTES completes."""
    number, partial, overlong = 1, bytearray(), False
    for block in blocks(handle.read):
        *ends, rest = block.split(b"\n")
        lines: list[Line] = []
        for end in ends:
            partial += end
            lines.append((number, None if overlong or len(partial) > MAX_LINE_BYTES else bytes(partial)))
            number, partial, overlong = number + 1, bytearray(), False
        partial += rest
        if len(partial) > MAX_LINE_BYTES:
            partial, overlong = bytearray(), True
        if wanted := [line for line in lines if line[1] is None or line[1].strip()]:
            yield wanted
    if overlong or partial.strip():
        yield [(number, None if overlong else bytes(partial))]


@dataclass(slots=True)
class Read:
    """A line that was understood."""

    problem: Problem
    prediction: str
    id: Any


@dataclass(slots=True)
class _Chunk:
    """Lines whose verdicts are under way; `items` holds what each line says, or why it says nothing."""

    numbers: list[int]
    items: list[Read | str]
    batch: PendingVerdicts

    def rows(self) -> Iterator[dict[str, Any]]:
        graded = 0
        for number, item in zip(self.numbers, self.items, strict=True):
            if isinstance(item, str):
                yield _row(number, None, None, Verdict(0.0, error=item, reason="unscored"))
                continue
            try:
                verdict = self.batch.verdict(graded)
            except UserError as error:
                verdict = Verdict(0.0, error=str(error), reason="unscored")
            graded += 1
            yield _row(number, item.id, item.problem.verifier, verdict)


def _submit(lines: list[Line], default: str | None, pool: VerifierPool) -> _Chunk:
    items = [read_line(content, number, default) for number, content in lines]
    good = [item for item in items if isinstance(item, Read)]
    batch = pool.submit_many([item.problem for item in good], [item.prediction for item in good])
    return _Chunk([number for number, _ in lines], items, batch)


def read_line(content: bytes | None, number: int, default: str | None, needs_prediction: bool = True) -> Read | str:
    """The problem and the prediction of a line, or why there is none.

    Without `needs_prediction` only the problem counts: its verifier does not depend on how a prediction is stated.
    """
    if content is None:
        return f"longer than {MAX_LINE_BYTES} bytes"
    try:
        line = json_value(content)
    except ValueError as error:
        return str(error)
    if not isinstance(line, dict):
        return "not a JSON object"
    tests, metadata = line.get("tests"), line.get("metadata") or {}
    if not isinstance(metadata, dict):
        return "`metadata` is no object"
    has_other_key = tests is not None or bool(metadata)
    prediction = line.get("prediction") if needs_prediction else r"\boxed{}"
    reference = line.get("reference", "" if has_other_key else None)
    for key, value in (("prediction", prediction), ("reference", reference)):
        if not isinstance(value, str | int | float):
            what = "missing" if value is None else "neither a text nor a number"
            needed = "a `prediction`, and " if needs_prediction else ""
            return f"`{key}` is {what}; a line needs {needed}a `reference` (or `tests`, or `metadata`)"
    try:
        verifier = require(
            str(line.get("verifier") or default or (DEFAULT_VERIFIER if tests is None else CODE_VERIFIER))
        )
    except UserError as error:
        return str(error)
    text = _text(prediction)
    if r"\boxed" not in text and verifier.boxes_predictions:
        text = text if "</think>" in text else rf"\boxed{{{text}}}"
    problem = Problem(
        id=str(line.get("id", number)),
        question=_text(line.get("problem", "")),
        answer=clean(_text(reference)),
        verifier=verifier.name,
        family=str(line.get("family") or "default"),
        metadata=metadata if tests is None else {**metadata, "tests": tests},
    )
    return Read(problem, text, line.get("id"))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _row(number: int, name: Any, verifier: str | None, verdict: Verdict) -> dict[str, Any]:
    return {
        "line": number,
        **({} if name is None else {"id": name}),
        "reward": verdict.reward,
        "extracted": verdict.extracted,
        "verifier": verifier,
        "parts": verdict.parts,
        "reason": verdict.reason,
        "error": verdict.error,
    }
