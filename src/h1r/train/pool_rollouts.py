"""What the rollouts of each problem came to, kept in a file as they are graded, so that a stopped pool goes on.

rl_pool/rollouts.jsonl
  {"settings": ...}                                                  the first line: all that rollouts depend on
  {"problem", "digest", "verdicts", "answers", "finish_reasons"}     a line for each problem
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from h1r.common.lines import LineFile
from h1r.data.curate.rules.difficulty import Rollouts
from h1r.records import Problem, Verdict
from h1r.rollout.pipeline import Graded, is_scored


class PoolRollouts:
    """The rollouts of problems in the file at `path`. `settings`: what they depend on beside the problem, as JSON; what
    the file has of other settings is removed. Raises `UserError` when the file cannot be written."""

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self._file = LineFile(path)
        first = json.dumps({"settings": settings}, sort_keys=True)
        found, *lines = [*self._file.lines()] or [""]
        if found != first:
            self._file.clear()
            self._file.append([first])
            lines = []
        self._known = {(row["problem"], row["digest"]): row for row in map(json.loads, lines)}

    def known(self, problem: Problem) -> Rollouts | None:
        """Those of an earlier attempt; None where there are none, or one has no verdict."""
        row = self._known.get((problem.id, _digest(problem)))
        if row is None:
            return None
        verdicts = [Verdict(**one) for one in row["verdicts"]]
        return Rollouts(verdicts, row["answers"], row["finish_reasons"]) if all(map(is_scored, verdicts)) else None

    def add(self, problem: Problem, graded: Sequence[Graded]) -> Rollouts:
        """Keeps what the rollouts of a problem came to."""
        rollouts = Rollouts(
            [one.verdict for one in graded],
            [one.verdict.extracted for one in graded],
            [one.trace.finish_reason for one in graded],
        )
        row = {"problem": problem.id, "digest": _digest(problem), **asdict(rollouts)}
        self._file.append([json.dumps(row)])
        return rollouts

    def close(self) -> None:
        self._file.close()


def _digest(problem: Problem) -> str:
    return hashlib.blake2b(json.dumps(asdict(problem), sort_keys=True).encode(), digest_size=16).hexdigest()
