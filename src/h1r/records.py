"""The only shapes that cross room borders: Problem, Trace, Verdict, Sample.

Each is one JSON line on disk. `read_jsonl` and `write_jsonl` are the only readers and writers of such files, so that a
malformed line is treated the same way everywhere: counted, set aside beside its source, never silently skipped.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import textwrap
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from pydantic import ConfigDict, TypeAdapter, ValidationError

from h1r.common.files import atomic
from h1r.common.reading import DamagedError, lines
from h1r.errors import UserError

FinishReason = Literal["stop", "length", "confidence", "repetition", "cancelled", "error"]
DifficultyClass = Literal["easy", "medium", "hard"]
Reason = Literal["not_extracted", "not_readable", "wrong", "time", "crash", "unscored"]
REASONS: tuple[Reason, ...] = get_args(Reason)

_STRICT = ConfigDict(extra="forbid")


@dataclass(slots=True)
class Problem:
    """A question with a reference answer and the name of the verifier that can read it.

    `metadata` is what that verifier needs beyond the reference answer (for `reasoning_gym`: the item's own entry);
    `difficulty` holds the knobs the problem was made with, or published difficulty labels.
    """

    __pydantic_config__ = _STRICT

    id: str
    question: str
    answer: str
    verifier: str = "math"
    family: str = "default"
    category: str = "default"
    source: str = ""
    difficulty: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Trace:
    """One generated answer. Per-token lists have one entry for each token that the model sampled.

    In a conversation with an environment `token_ids` hold the whole of it after the prompt, and `mask`, of the same
    length, 1 for the model's own tokens and 0 for those of replies; None: all are the model's. `text` is then the
    model's last turn, and `reward` what the environment gave for the trace, None where the verifier is to say.

    `logprobs` are nats under the sampling-free distribution (temperature 1, no filter). `sampling_logprobs` are nats
    under the temperature-scaled distribution that was sampled from, before any top-k/top-p/min-p filter; it equals
    `logprobs` at temperature 1. `confidences` is DeepConf's token confidence: the negative mean log-probability of the
    top-k tokens (arXiv 2508.15260), nats. `finish_reason`: "stop" an end token or stop string, "length" the token
    limit, "confidence" DeepConf's early stop, "repetition" a loop that was to end it, "cancelled" by the caller,
    "error" see `error`.

    `usage`: what a server states of a request whose tokens it does not give: prompt_tokens, completion_tokens,
    reasoning_tokens (among completion_tokens), cached_tokens (among prompt_tokens); all other lists are empty then.

    `room`: tokens that the answer could have, where the model's context left fewer than were asked for; None where it
    left enough.

    `versions`: [version of the weights, tokens] of each part of what the model sampled, in order, from an engine that
    took new weights meanwhile and tells; None otherwise.
    """

    __pydantic_config__ = _STRICT

    prompt_index: int
    sample_index: int
    token_ids: list[int]
    text: str
    logprobs: list[float]
    sampling_logprobs: list[float]
    confidences: list[float]
    finish_reason: FinishReason
    seed: int = 0
    problem_id: str = ""
    error: str | None = None
    mask: list[int] | None = None
    reward: float | None = None
    usage: dict[str, int] | None = None
    room: int | None = None
    versions: list[list[int]] | None = None

    @property
    def num_tokens(self) -> int:
        """Tokens that the model sampled."""
        if self.mask is None:
            return len(self.token_ids) or (self.usage or {}).get("completion_tokens", 0)
        return sum(self.mask)


@dataclass(slots=True)
class Verdict:
    """What a verifier says of one answer. `reward` is in [0, 1]; `parts` names what it is made of.

    `reason` says why the reward is below 1, and is None where it is 1:

        not_extracted   no answer was found in the response
        not_readable    an answer was found, and is none that can be compared or run
        wrong           it was compared, or run, and is not the right one
        time            it exceeded a limit that honest answers keep
        crash           the answer's program, or the scorer of its verifier, ended with an error
        unscored        no verdict came about, through no fault of the answer: a server or a sandbox failed, or the
                        machine had no processor for it

    `error` is a sentence with the details, where there are any. A verdict below 1 without a reason is "wrong".
    """

    __pydantic_config__ = _STRICT

    reward: float
    parts: dict[str, float] = field(default_factory=dict)
    extracted: str | None = None
    error: str | None = None
    reason: Reason | None = None

    def __post_init__(self) -> None:
        if self.reward >= 1.0:
            self.reason = None
        elif self.reason is None:
            self.reason = "wrong"


@dataclass(slots=True)
class Message:
    """One chat turn. `thinking` is the reasoning of an assistant turn, without its tags."""

    __pydantic_config__ = _STRICT

    role: Literal["system", "user", "assistant", "tool"]
    content: str
    thinking: str | None = None


@dataclass(slots=True)
class Sample:
    """One training conversation. `weight` multiplies its token losses (difficulty weighting, paper section 2)."""

    __pydantic_config__ = _STRICT

    problem_id: str
    messages: list[Message]
    family: str = "default"
    category: str = "default"
    weight: float = 1.0
    difficulty_class: DifficultyClass = "medium"
    metadata: dict[str, Any] = field(default_factory=dict)


Record = TypeVar("Record", Problem, Trace, Verdict, Sample)


def normalise_text(text: str) -> str:
    """Case, whitespace and punctuation that do not change the content are removed, digits and operators stay."""
    return re.sub(r"\s+", " ", re.sub(r"[`\"',;:?!]", " ", text.lower())).strip(" .")


def name_of(problem_id: str, question: str | None, longest: int = 72) -> str:
    """What a person knows a problem by: an id of its own; else, of one from `content_id`, its question on one line."""
    if question is None or problem_id != content_id(question):
        return problem_id
    return textwrap.shorten(question, longest, placeholder=" ...")


def content_id(question: str) -> str:
    """A stable 16-hex-digit id of a question's content: the same question gets the same id from any source."""
    return hashlib.sha256(normalise_text(question).encode()).hexdigest()[:16]


def to_json(record: Any) -> str:
    """One JSON line of a record (no newline)."""
    return json.dumps(dataclasses.asdict(record), ensure_ascii=False)


@dataclass(slots=True)
class BadLine:
    """A line that could not be read: where it stands and why."""

    path: str
    line: int
    why: str
    text: str


def read_jsonl(path: str | Path, kind: type[Record], bad: list[BadLine] | None = None) -> Iterator[Record]:
    """Yields the records of a JSONL file in order; it may be compressed, and bytes that are not UTF-8 become U+FFFD.

    A malformed line is appended to `bad`, and so is the end of a file that is cut off; with `bad=None` it raises
    `UserError` naming the file and the line. A missing file always raises.
    """
    adapter = TypeAdapter(kind)
    for number, line in lines_or_end(path):
        try:
            if isinstance(line, DamagedError):
                raise line
            yield adapter.validate_json(line.decode("utf-8", errors="replace"))
        except (ValidationError, DamagedError) as error:
            why = first_problem(error) if isinstance(error, ValidationError) else str(error)
            text = b"" if isinstance(line, DamagedError) else line[:8000]
            if bad is None:
                raise UserError(
                    f"{path}, line {number}: {why}; mend or delete the line (a {kind.__name__} is expected)"
                ) from None
            bad.append(BadLine(str(path), number, why, text.decode(errors="replace")[:2000]))


def lines_or_end(path: str | Path) -> Iterator[tuple[int, bytes | DamagedError]]:
    """(number from 1, bytes) of every line; where a file ends before its time, (the next number, why) is last."""
    number = 0
    try:
        for number, line in lines(path):
            yield number, line.removeprefix(BOM_UTF8)
    except DamagedError as error:
        yield number + 1, error


def read_lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """(line number from 1, text) of every line of a file; bytes that are not UTF-8 become U+FFFD. `UserError` for a
    file that cannot be read to its end."""
    for number, line in lines_or_end(path):
        if isinstance(line, DamagedError):
            raise UserError(f"{path}, line {number}: {line}; give the whole file")
        yield number, line.decode("utf-8", errors="replace")


def write_jsonl(path: str | Path, records: Iterable[Any]) -> int:
    """Writes records (dataclasses or dicts) as JSONL and returns how many; the file appears whole or not at all."""
    count = 0
    with atomic(path) as partial, open(partial, "w", encoding="utf-8") as handle:
        for record in records:
            handle.write(json.dumps(record, ensure_ascii=False) if isinstance(record, dict) else to_json(record))
            handle.write("\n")
            count += 1
    return count


_TRIED = re.compile(r"bool|int|float|str|none|constrained-\w+|function-\w+\[.*|(?:list|dict|tuple|literal)\[.*")


def first_problem(error: ValidationError) -> str:
    """The first complaint of a pydantic error as a phrase: `key: what is wrong`; where a key may have several types,
    what each of them would be."""
    details = error.errors()
    place = place_of(details[0]["loc"])
    said = dict.fromkeys(_said(detail) for detail in details if place_of(detail["loc"]) == place)
    wrong = " or: ".join(said)
    return f"{place}: {wrong}" if place else wrong


def _said(detail: Any) -> str:
    return "no such key" if detail["type"] == "extra_forbidden" else str(detail["msg"]).partition(", unable to ")[0]


def place_of(loc: Sequence[int | str]) -> str:
    """The key, as it was written, of a place in a pydantic error, which also names the type that it tried there."""
    return ".".join(str(part)[:60] for part in loc if not _TRIED.fullmatch(str(part)[:60]))
