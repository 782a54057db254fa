"""Problems of a file with their controls: what `h1r verify --validate FILE` prints.

    in    {"reference": ..., and optionally "verifier", "problem", "tests", "metadata", "family", "id"}
    out   {"line": 1, "accepted": true, "verifier": ..., "family": ..., "reason": null, "detail": null}

Lines are those of `h1r verify FILE`; a `prediction` is not read. Each chunk of lines is examined by itself, in memory
that does not grow with the file, and with all controls. What the chunks say of a family is added up: `Validation.tally`
is complete when the rows are through.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from h1r.config.verify import ControlsSection
from h1r.errors import UserError
from h1r.records import Problem, Verdict
from h1r.verify.batch import Line, Read, ReadAhead, opened, read_line
from h1r.verify.controls.validate import Tally, examine, family_key
from h1r.verify.registry import require
from h1r.verify.workers.pool import VerifierPool

MAX_COUNTED = 4096
"""Reference answers of a family that are counted while a file is read."""


class Validation:
    """The rows of a file, one by one, and what they add up to. `UserError`: as `verify_file`."""

    def __init__(
        self,
        path: str | Path,
        section: ControlsSection,
        verifier: str | None = None,
        workers: int = 1,
        time_limit_s: float = 5.0,
    ) -> None:
        self._path = path
        self._section = section.model_copy(update={"per_item": 0})
        self._default = require(verifier).name if verifier else None
        self._pool = VerifierPool(workers, time_limit_s, format_checks=False)
        self.tally = Tally()

    def rows(self) -> Iterator[dict[str, Any]]:
        """One row a line, in order."""
        with opened(self._path) as handle, self._pool, ReadAhead(handle) as ahead:
            while lines := ahead.take(wait=True):
                yield from self._examined(lines)
            ahead.check_end(self._path)

    def _examined(self, lines: Sequence[Line]) -> Iterator[dict[str, Any]]:
        items = [read_line(content, number, self._default, needs_prediction=False) for number, content in lines]
        good = [item for item in items if isinstance(item, Read)]
        found = examine([item.problem for item in good], self._ask, self._section, references=True, families=False)
        self.tally.add(found.tally)
        for counts in self.tally.values():
            counts.answers = Counter(dict(counts.answers.most_common(MAX_COUNTED)))
        refusals = iter(found.refusals)
        for (number, _), item in zip(lines, items, strict=True):
            if isinstance(item, str):
                yield _row(number, None, None, None, "the line cannot be read", item)
                continue
            why = next(refusals)
            verifier, _, family = family_key(item.problem).partition("|")
            reason, detail = (why.reason, why.detail) if why else (None, None)
            yield _row(number, item.id, verifier, family, reason, detail)

    def _ask(self, problems: Sequence[Problem], texts: Sequence[str]) -> list[Verdict]:
        """Verdicts; one that the user's mistake prevents says so, as an option of a problem that cannot be."""
        batch = self._pool.submit_many(problems, texts)
        verdicts = []
        for number in range(len(texts)):
            try:
                verdicts.append(batch.verdict(number))
            except UserError as error:
                verdicts.append(Verdict(0.0, error=str(error), reason="unscored"))
        return verdicts


def _row(
    number: int, name: Any, verifier: str | None, family: str | None, reason: str | None, detail: str | None
) -> dict[str, Any]:
    return {
        "line": number,
        **({} if name is None else {"id": name}),
        "accepted": reason is None,
        "verifier": verifier,
        "family": family,
        "reason": reason,
        "detail": detail,
    }
