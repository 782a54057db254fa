"""What a person asks: a question, or a file of them. Read without torch, so that a mistake is told at once."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from h1r.common.reading import DamagedError, json_value, lines
from h1r.data.file_kinds import SUFFIXES, format_of
from h1r.errors import UserError
from h1r.records import Problem, content_id

_OTHER_FILES = (".gz", ".zst", ".zip", ".csv", ".tsv", ".txt", ".toml", ".yaml", ".md")
"""What a word ends with that is the name of a file, and no question."""


def problem_of(question: str) -> Problem:
    """A question of nobody's data, without an answer."""
    return Problem(id=content_id(question), question=question, answer="")


def questions_of(question: str, columns: Mapping[str, str] | None = None) -> list[Problem]:
    """The problems of a file (`data/own.py`; columns: our field -> column of it, where they have no usual names), or a
    question as the only one. `UserError` for a file that is missing, or holds no problem, and for a column that is
    not there."""
    named = question.endswith((*SUFFIXES, *_OTHER_FILES))
    is_file = named and (question.split() == [question] or os.path.exists(question))
    if not is_file:
        if columns:
            raise UserError(f"--columns is for a file of problems, and {question!r} is a question; leave it out")
        return [problem_of(question)]
    if not question.endswith(SUFFIXES):
        kind = "a file" if os.path.exists(question) else "no file, but looks like the name of one"
        raise UserError(
            f"{question} is {kind}, and problems are read from files that end with "
            f"{', '.join(SUFFIXES)}; convert it, or ask the question in words"
        )
    if columns or not _holds_records(question):
        from h1r.data.own import own_problems

        return own_problems(Path(question), columns or {})
    from h1r.train.problems import check_ids, read_problems

    found = read_problems(question)
    check_ids(found, question)
    return found


def _holds_records(path: str) -> bool:
    """Whether a file has our own records, with their verifiers: what `h1r curate` writes."""
    if format_of(path) != "jsonl":
        return False
    try:
        _, first = next(lines(path), (0, b""))
        row = json_value(first)
    except (ValueError, DamagedError):
        return False
    return isinstance(row, dict) and "question" in row and bool({"verifier", "metadata"} & set(row))
