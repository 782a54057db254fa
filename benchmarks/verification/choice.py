"""How far the letter that we read, and the verdict on it, agree with MMLU-Pro's own grading of real responses.

The record takes the first "answer is (X)" of a response, or the first "Answer: X", or the last lone capital; where it
finds none, it counts a letter drawn at random. `mmlu_pro` reads as the record does, the first match; `mmlu_pro_cascade`
as the paper's evaluation does, the last one. `letters_agree` is of `letters_found`, the responses that name an option.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from h1r.records import Problem
from h1r.verify.choice.grade import extract_letter
from verification.choice_reviewed import REVIEWED
from verification.common import Context, Judged, agreement, rows


def responses(name: str, match: str) -> Iterator[Judged]:
    for row in rows("mmlu_pro_sample/model_outputs_stem.jsonl.gz"):
        metadata = {"match": match}
        owner = Problem(id="", question="", answer=row["gold"], verifier="choice", metadata=metadata)
        yield Judged(f"{name}/{row['model']}/{row['question_id']}", owner, row["output"], row["pred"] == row["gold"])


def mmlu_pro(name: str, match: str, context: Context) -> dict[str, Any]:
    recorded = [row for row in rows("mmlu_pro_sample/model_outputs_stem.jsonl.gz") if row["pred"]]
    letters = [extract_letter(row["output"], first=match == "first")[0] for row in recorded]
    found = agreement(responses(name, match), context.pool, REVIEWED)
    return {
        "letters_recorded": len(recorded),
        "letters_found": sum(letter is not None for letter in letters),
        "letters_agree": sum(letter == row["pred"] for letter, row in zip(letters, recorded, strict=True)),
        **found,
    }


SECTIONS = {
    "mmlu_pro": partial(mmlu_pro, "mmlu_pro", "first"),
    "mmlu_pro_cascade": partial(mmlu_pro, "mmlu_pro_cascade", "last"),
}
