"""Files of a person's own, read without a curation: problems to ask, conversations to train on.

    .jsonl  .json  .parquet, compressed or not        the format, by the name
    question | problem | prompt | ...                 which column holds what, where nobody says, by the first row

Chats of every shape that curation knows are conversations (docs/guide/data-formats.md).
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from h1r.common.progress import note
from h1r.common.prose import counted, listing
from h1r.config import CorpusBenchmark, CorpusSource
from h1r.data.curate.drop_log import DropLog
from h1r.data.curate.io.chats import shape_of
from h1r.data.curate.io.columns import BadRowError, final_answer, nearest, prefixes, reach, value_text
from h1r.data.curate.io.read import Reader, files_of
from h1r.data.curate.io.rows import rows_of
from h1r.data.curate.rules.steps import normalise, sample_of
from h1r.data.file_kinds import format_of, plain_name
from h1r.errors import UserError
from h1r.records import BadLine, Problem, Sample, content_id
from h1r.verify.controls.answers import NO_ANSWER

QUESTION = ("question", "problem", "prompt")
ANSWER = ("answer", "expected_answer", "final_answer", "target")
SOLUTION = ("solution", "output", "response", "completion", *ANSWER)
"""Usual names of columns, the first that a file has."""
OPTIONS = ("options", "choices")
"""Usual names of a column with the list of a question's options."""
_FIELDS = ("question", "answer", "id", "family")
_EMPTY = "holds no problem and no conversation; give a file with a row for each"


def columns_of(path: Path, given: Mapping[str, str], needed: Sequence[str], optional: Sequence[str]) -> dict[str, str]:
    """Our fields "question", "answer" and "id", those that are `needed` or `optional` -> the columns of a file of
    problems: those that are `given`, else by their usual names in the first row. `UserError` names what is missing, and
    what there is."""
    names = _names(path, given)
    if unknown := [field for field in given if field not in _FIELDS]:
        raise UserError(f"a problem has no field `{unknown[0]}`; columns are of {listing(_FIELDS)}")
    found = dict(given)
    for field, usual in (("question", QUESTION), ("answer", ANSWER), ("id", ("id",))):
        if field in found or field not in (*needed, *optional):
            continue
        if column := next((name for name in usual if name in names), None):
            found[field] = column
        elif field in needed:
            raise UserError(
                f"{path} has no {' or '.join(usual)}; name its column, as in --columns {field}=NAME (there are "
                f"{', '.join(names) or 'none'})"
            )
    return found


def options_column(path: Path) -> str | None:
    """The column of a file of problems that holds the options of each question, by its usual names; None without one.
    `UserError` for a file that has a column for each option: nobody would see them."""
    names = _names(path, {})
    found = next((name for name in OPTIONS if name in names), None)
    if found is None and {"A", "B", "C", "D"} <= set(names):
        raise UserError(f"{path} has a column for each option; make one of them, `options`, with a list in each row")
    return found


def own_problems(path: Path, given: Mapping[str, str]) -> list[Problem]:
    """The problems of a file in their order; one without an answer is asked and not graded.

    Ids are those of the file, else of the question's content, and a question that stands there again under no id of its
    own is asked once. `UserError` for a file without a problem, a row that cannot be read, and two rows with one id.
    """
    columns = columns_of(path, given, ("question",), ("answer", "id"))
    section = _section(CorpusBenchmark, path, columns)
    found: dict[str, Problem] = {}
    again = 0
    for number, row in rows_of(section, str(path)):
        try:
            problem = _problem(row, columns, given)
        except BadRowError as error:
            raise UserError(f"{path}, row {number}: {error}; mend the row, or name columns with --columns") from None
        if problem.id in found and "id" in columns:
            raise UserError(f"{path}: two rows have the id `{problem.id}`; give every problem an id of its own")
        again += problem.id in found
        found.setdefault(problem.id, problem)
    if not found:
        raise UserError(f"{path} holds no problem; give a file with a question in each row")
    if again:
        note(f"{path}: {counted(again, 'row')} with a question that stands there before: it is asked once")
    return list(found.values())


def _problem(row: dict[str, Any] | BadLine, columns: Mapping[str, str], given: Mapping[str, str]) -> Problem:
    if isinstance(row, BadLine):
        raise BadRowError(row.why)

    def text(field: str) -> str:
        column = columns.get(field)
        if column is None or (field not in ("question", *given) and column not in row):
            return ""
        return value_text(reach(row, column), column).strip()

    question, answer = text("question"), text("answer")
    if not question:
        raise BadRowError(f"column `{columns['question']}` is empty")
    if answer.lower() in NO_ANSWER:
        answer = ""
    answer = final_answer(answer, columns.get("answer") in SOLUTION[:4]) if answer else ""
    return Problem(text("id") or content_id(question), question, answer)


def check_conversations(path: Path, given: Mapping[str, str]) -> None:
    """`UserError` for a file that is missing or empty, or whose first row shows that columns are not named rightly."""
    _chat_columns(path, given)


def check_benchmark(section: CorpusBenchmark, root: str) -> None:
    """`UserError` for a benchmark whose files are missing or empty. The hub is not asked."""
    for path in files_of(section, root) if section.kind != "hub" else ():
        if not Path(path).stat().st_size:
            raise UserError(f"benchmark `{section.name}`: {path} {_EMPTY}")


def own_conversations(path: Path, given: Mapping[str, str], loss: str = "last") -> list[Sample]:
    """The conversations of a file, or its questions with their answers as such, cleaned as curation cleans text.

    given: our field -> column, as in [[corpus.sources]]; "answer" is what the model is to say. loss: `curate.loss`.
    Rows that cannot be used are counted with their reason. `UserError` where none can.
    """
    reader = Reader(_section(CorpusSource, path, _chat_columns(path, given)), str(path), 0)
    drop_log = DropLog(("normalise", "problem"))
    found: list[Sample] = []
    silent = 0
    for item in normalise(reader.items(), drop_log):
        spoken = [trace for trace in item.traces if trace.answer.content or trace.answer.thinking]
        silent += not spoken
        found += [sample_of(item, trace, number, loss) for number, trace in enumerate(spoken)]
    reasons = Counter(line.why for line in reader.bad)
    if silent:
        reasons["no answer to learn"] += silent
    told = "; ".join(f"{count:,}: {why}" for why, count in reasons.most_common(5))
    if not found:
        raise UserError(
            f"{path}: no row can be trained on ({told or 'there is none'}); mend the file, or name columns, as in "
            "--columns question=NAME --columns answer=NAME"
        )
    if reasons:
        left = reasons.total()
        note(f"{path}: {counted(left, 'row')} {'is' if left == 1 else 'are'} left out; {told}")
    return found


def holds_turns(path: Path, given: Mapping[str, str]) -> bool:
    """Whether a conversation among the first thousand of a file has more than one turn of its user's."""
    reader = Reader(_section(CorpusSource, path, _chat_columns(path, given)), str(path), 0)
    traces = (trace for item in itertools.islice(reader.items(), 1000) for trace in item.traces)
    return any(sum(message.role == "user" for message in trace.messages) > 1 for trace in traces)


def _chat_columns(path: Path, given: Mapping[str, str]) -> dict[str, str]:
    """The columns for a `Reader`; none where the rows are chats of a known shape."""
    names = _names(path, given)
    if "messages" in given:
        return dict(given)
    if not given:
        try:
            shape = shape_of(dict.fromkeys(names, "x"))
        except BadRowError:
            shape = {}
        if {"messages", "completion"} & set(shape):
            return {}
    asked = given.get("question") or given.get("prompt")
    said = given.get("answer") or given.get("completion")
    asked = asked or next((name for name in (*QUESTION, "instruction") if name in names), None)
    said = said or next((name for name in SOLUTION if name in names), None)
    if asked is None or said is None:
        raise UserError(
            f"{path} has no chat, and no {'question' if asked is None else 'answer'}; name its column, as in "
            f"--columns {'question' if asked is None else 'answer'}=NAME (there are {', '.join(names) or 'none'})"
        )
    rest = {field: column for field, column in given.items() if field not in ("question", "answer")}
    return {**rest, "prompt": asked, "completion": said}


def _section(kind: type[CorpusBenchmark], path: Path, columns: Mapping[str, str]) -> Any:
    return kind(
        name=plain_name(path).stem, kind=format_of(path) or "jsonl", path=str(path), columns=dict(columns), verifier=""
    )


def _names(path: Path, given: Mapping[str, str]) -> list[str]:
    """The columns of a file: those of its first row, or of a Parquet file's schema. `UserError` for a column of `given`
    that is not there, and for a file that cannot be read."""
    if not path.is_file():
        raise UserError(f"cannot read {path}: there is no such file; check the path")
    if not path.stat().st_size:
        raise UserError(f"{path} {_EMPTY}")
    if format_of(path) == "parquet":
        names = _parquet_names(path)
    else:
        rows = (row for _, row in rows_of(_section(CorpusBenchmark, path, {}), str(path)))
        first = next(rows, None)
        if first is None:
            raise UserError(f"{path} {_EMPTY}")
        if isinstance(first, BadLine):
            raise UserError(f"{path}, row {first.line}: {first.why}; give a file with a JSON object in each row")
        names = list(first)
    for column in given.values():
        if not any(key in names for key in prefixes(column)):
            raise UserError(f"{path} has no column `{column}`; {nearest(column, names)}")
    return names


def _parquet_names(path: Path) -> list[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return list(pq.read_schema(path).names)
    except (pa.ArrowException, OSError) as error:
        raise UserError(
            f"{path}: not a Parquet file, or a damaged one ({error}); check the path and what its name ends in"
        ) from None
