"""Judgements that were made before: in memory, or in an SQLite file that outlives the process.

A file may be shared by processes of one machine. When it cannot be read or written in the middle of a run, the
judgement is asked for again: a cache is no reason to stop.
"""

from __future__ import annotations

import contextlib
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from h1r.errors import UserError

BUSY_S = 5.0


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a judge said of an answer: its verdict, and the confidence (0 to 1) that it read in the answer, if asked."""

    correct: bool
    confidence: float | None = None


class JudgementCache:
    """`path` None keeps them in memory. `UserError` when the file cannot be opened or is no such cache."""

    def __init__(self, path: str | None) -> None:
        try:
            if path:
                Path(path).parent.mkdir(parents=True, exist_ok=True)
            self._file = sqlite3.connect(path or ":memory:", timeout=BUSY_S, isolation_level=None)
            self._file.execute("PRAGMA journal_mode = WAL")
            self._file.execute("PRAGMA synchronous = NORMAL")
            self._file.execute("CREATE TABLE IF NOT EXISTS judgements (key TEXT PRIMARY KEY, correct INTEGER NOT NULL)")
            with contextlib.suppress(sqlite3.OperationalError):  # it has the column already
                self._file.execute("ALTER TABLE judgements ADD COLUMN confidence REAL")
        except (OSError, sqlite3.Error) as error:
            raise UserError(f"judge.cache {path} cannot be used: {error}; give another file or delete it") from None

    def get(self, key: str) -> Judgement | None:
        """The judgement of that key, None when there is none."""
        with contextlib.suppress(sqlite3.Error):
            row = self._file.execute("SELECT correct, confidence FROM judgements WHERE key = ?", (key,)).fetchone()
            return None if row is None else Judgement(bool(row[0]), row[1])
        return None

    def put(self, key: str, judgement: Judgement) -> None:
        """Keeps a judgement."""
        row = (key, int(judgement.correct), judgement.confidence)
        with contextlib.suppress(sqlite3.Error):
            self._file.execute("INSERT OR REPLACE INTO judgements (key, correct, confidence) VALUES (?, ?, ?)", row)

    def close(self) -> None:
        self._file.close()
