"""The words in which a judge is asked about given problems, as a digest: what was judged in others is no verdict of
these."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

from h1r.records import Problem
from h1r.verify.judge.official import OFFICIAL, official_messages
from h1r.verify.judge.prompt import messages
from h1r.verify.registry import require

_LIMIT = 1000


def words_of(problems: Iterable[Problem], reply: str, judge_on: str) -> str | None:
    """A digest of what the judge is asked about an answer to nothing in particular, for each way in which these
    problems ask it; None where none does. reply, judge_on: the recipe's `judge.reply` and `verify.judge_on`.
    `UserError` for an unknown verifier."""
    asked: set[str] = set()
    for problem in problems:
        verifier = require(problem.verifier) if problem.verifier else None
        if verifier and verifier.needs_judge:
            asked.add(str(problem.metadata.get("judge", "")))
        elif verifier and judge_on != "never" and verifier.may_be_judged:
            asked.add("")
    chats = [
        official_messages(OFFICIAL[name], "question", "reference", "answer", _LIMIT)
        if name in OFFICIAL
        else messages("question", "reference", "answer", _LIMIT, reply)
        for name in sorted(asked)
    ]
    return hashlib.blake2b(json.dumps(chats).encode(), digest_size=8).hexdigest() if chats else None
