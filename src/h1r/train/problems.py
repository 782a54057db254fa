"""Problems in a file of a person's own, for RL without a curation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from h1r.common.reading import json_value
from h1r.errors import UserError
from h1r.records import Problem, content_id, first_problem, read_lines

_PROBLEM = TypeAdapter(Problem)


def read_problems(path: str | Path) -> list[Problem]:
    """The problems of a JSONL file: objects with `question`, `answer` and what else a `Problem` has.

    A line without an id gets that of its question; a number as the answer is text; null, or no answer, is none. Raises
    `UserError` for a missing file, one without a problem, and a line that is no problem.
    """
    check_problems(path)
    return list(_problems(path))


def check_problems(path: str | Path) -> None:
    """Raises as `read_problems` does, by the first problem of the file alone."""
    if next(_problems(path), None) is None:
        raise UserError(f"{path} holds no problem; give a JSONL file with a question and an answer in each line")


def _problems(path: str | Path) -> Iterator[Problem]:
    for number, text in read_lines(path):
        if not text.strip():
            continue
        try:
            row = json_value(text.encode())
            if isinstance(row, dict):
                if "question" not in row:
                    raise ValueError(f"no `question` (there are {', '.join(row) or 'no fields'})")
                answer = row.get("answer")
                numeric = isinstance(answer, int | float) and not isinstance(answer, bool)
                row["answer"] = "" if answer is None else str(answer) if numeric else answer
                if row.get("id") is None and isinstance(row.get("question"), str):
                    row["id"] = content_id(row["question"])
                elif isinstance(row.get("id"), int):
                    row["id"] = str(row["id"])
            yield _PROBLEM.validate_python(row)
        except ValueError as error:
            why = first_problem(error) if isinstance(error, ValidationError) else str(error)
            raise UserError(
                f"{path}, line {number}: {why}; a problem has `question` and `answer`, and may have `id`, `verifier` "
                "and `metadata`; files of other shapes are read by [[corpus.sources]]"
            ) from None


def check_ids(problems: Sequence[Problem], place: str) -> None:
    """`UserError` for an id that stands for two problems: what is counted by it would be mixed up."""
    seen: set[str] = set()
    for problem in problems:
        if problem.id in seen:
            raise UserError(f"{place}: two problems have the id `{problem.id}`; give each one of its own, once")
        seen.add(problem.id)
