"""The record of the corpus pipeline, and its rows in Parquet.

    ordinal  source  domain  use  id  question  answer  verifier  family  category  pass_rate  rollouts
    difficulty  metadata  traces

The last three are JSON text, so that one schema holds every source. Rows are ordered by `ordinal`, which numbers a
record once and for all: file number times 2^32, plus its row.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from h1r.common.files import atomic
from h1r.records import Message, Problem, Reason

T = TypeVar("T")
ROW_BITS = 32
BATCH = 512
BATCH_CHARS = 16 << 20
"""Records of a Parquet row group at most, and characters of text after which it ends: what is in memory at once."""

SCHEMA = pa.schema(
    [
        ("ordinal", pa.int64()),
        ("source", pa.string()),
        ("domain", pa.string()),
        ("use", pa.string()),
        ("id", pa.string()),
        ("question", pa.string()),
        ("answer", pa.string()),
        ("verifier", pa.string()),
        ("family", pa.string()),
        ("category", pa.string()),
        ("pass_rate", pa.float64()),
        ("rollouts", pa.int32()),
        ("language", pa.string()),
        ("difficulty", pa.string()),
        ("metadata", pa.string()),
        ("traces", pa.string()),
    ]
)


@dataclass(slots=True)
class Given:
    """A trace of a problem: the whole conversation, which ends with an assistant turn.

    `reward` is None until a verifier, or the source, has said something; `finish_reason` is "" where nobody recorded
    it; `error` and `reason` are a verifier's, and `tested` says that it ran tests to find them. `turn_weights` has 1 or
    0 for each message, where the source says which carry loss.
    """

    messages: list[Message]
    reward: float | None = None
    finish_reason: str = ""
    extracted: str | None = None
    error: str | None = None
    tested: bool = False
    reason: Reason | None = None
    turn_weights: list[int] | None = None

    @property
    def num_chars(self) -> int:
        """Characters of the whole conversation."""
        return sum(len(turn.content) + len(turn.thinking or "") for turn in self.messages)

    @property
    def answer(self) -> Message:
        return self.messages[-1]

    @property
    def text(self) -> str:
        """The last turn as a model writes it."""
        if self.answer.thinking is None:
            return self.answer.content
        return f"<think>\n{self.answer.thinking}\n</think>\n\n{self.answer.content}"


@dataclass(slots=True)
class Item:
    """A problem on its way through curation. `pass_rate` in [0, 1] is the published one, then the measured one."""

    ordinal: int
    problem: Problem
    source: str
    domain: str
    use: str
    pass_rate: float | None = None
    rollouts: int = 0
    language: str = ""
    traces: list[Given] = field(default_factory=list)


def write_items(path: Path, items: Iterable[Item]) -> int:
    """Writes items as Parquet, whole or not at all, and returns how many."""
    count = 0
    with atomic(path) as partial, pq.ParquetWriter(partial, SCHEMA, compression="zstd") as writer:
        for batch in chunks(
            map(_row, items), BATCH, BATCH_CHARS, lambda row: len(row["question"]) + len(row["traces"])
        ):
            writer.write_table(pa.Table.from_pylist(batch, SCHEMA))
            count += len(batch)
    return count


def read_items(path: Path) -> Iterator[Item]:
    """The items of a file, in order, a row group at a time."""
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            columns = [column.to_pylist() for column in file.read_row_group(group).columns]
            for values in zip(*columns, strict=True):
                yield _item(dict(zip(SCHEMA.names, values, strict=True)))


def chunks(items: Iterable[T], most: int, most_chars: int, chars: Callable[[T], int]) -> Iterator[list[T]]:
    """Items in lists of at most `most`, each ended by the item that brings its characters to `most_chars`."""
    chunk: list[T] = []
    held = 0
    for item in items:
        chunk.append(item)
        held += chars(item)
        if len(chunk) == most or held >= most_chars:
            yield chunk
            chunk, held = [], 0
    if chunk:
        yield chunk


def _row(item: Item) -> dict[str, Any]:
    problem = item.problem
    return {
        "ordinal": item.ordinal,
        "source": item.source,
        "domain": item.domain,
        "use": item.use,
        "id": problem.id,
        "question": problem.question,
        "answer": problem.answer,
        "verifier": problem.verifier,
        "family": problem.family,
        "category": problem.category,
        "pass_rate": item.pass_rate,
        "rollouts": item.rollouts,
        "language": item.language,
        "difficulty": _json(problem.difficulty),
        "metadata": _json(problem.metadata),
        "traces": traces_text(item.traces),
    }


def traces_text(traces: Iterable[Given]) -> str:
    """Traces as JSON."""
    return json.dumps([_tree(trace) for trace in traces], ensure_ascii=False)


def traces_from(text: str) -> list[Given]:
    """The traces of `traces_text`."""
    if text == "[]":
        return []
    return [Given([Message(**one) for one in tree.pop("messages")], **tree) for tree in json.loads(text)]


def _tree(trace: Given) -> dict[str, Any]:
    tree = dataclasses.asdict(trace)
    if trace.turn_weights is None:
        del tree["turn_weights"]
    return tree


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) if value else "{}"


def _item(row: dict[str, Any]) -> Item:
    problem = Problem(
        id=row["id"],
        question=row["question"],
        answer=row["answer"],
        verifier=row["verifier"],
        family=row["family"],
        category=row["category"],
        source=row["source"],
        difficulty=json.loads(row["difficulty"]),
        metadata=json.loads(row["metadata"]),
    )
    return Item(
        ordinal=row["ordinal"],
        problem=problem,
        source=row["source"],
        domain=row["domain"],
        use=row["use"],
        pass_rate=row["pass_rate"],
        rollouts=row["rollouts"],
        language=row["language"],
        traces=traces_from(row["traces"]),
    )
