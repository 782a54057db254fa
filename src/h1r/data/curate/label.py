"""How hard problems are in a language model's judgement (`curate.difficulty = "judge"`), where no pass rate says it.

    work/difficulty/SHARD.jsonl    {id, label}: a line as a label comes; a crash costs what was under way

The servers are those of `[judge]`. A reply without one of the three words, or a request that failed for good, leaves
the problem without a label: its class is by length then, and the summary counts it.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path

from h1r.common.http import EndpointError, Endpoints
from h1r.common.lines import LineFile
from h1r.common.progress import Bar
from h1r.config import JudgeSection
from h1r.errors import UserError
from h1r.records import Problem
from h1r.response.control_tokens import clean
from h1r.verify.judge.grade import KEY_VARIABLE

LABELS = ("easy", "medium", "hard")
PROMPT = """\
How hard is the following problem for a student who prepares for competitions in its field?

easy: one step, or a method that everybody knows
medium: several steps, all of them usual ones
hard: an idea that has to be found, or a long way with many traps

Do not solve it. Reply with one word: easy, medium or hard.

<problem>
{question}
</problem>"""
_LABEL = re.compile(rf"\b({'|'.join(LABELS)})\b", re.IGNORECASE)


def label_of(reply: str) -> str | None:
    """The last of the words that a reply names after its thinking, None without."""
    found = _LABEL.findall(reply.rpartition("</think>")[2])
    return str(found[-1]).lower() if found else None


def labels_in(path: Path) -> dict[str, str]:
    """Problem id -> label of what has one."""
    if not path.exists():
        return {}
    rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return {row["id"]: row["label"] for row in rows if row["label"]}


def label_problems(path: Path, problems: Iterable[Problem], section: JudgeSection, bar: Bar | None = None) -> None:
    """Asks for the label of each problem that has no line in `path` yet. `UserError` without servers, and for what a
    person has to mend there (the key, the credit, the model's name): what has come so far is kept."""
    if not section.urls:
        raise UserError('curate.difficulty = "judge" asks a model; set judge.urls and judge.model')
    file = LineFile(path)
    try:
        done = {json.loads(line)["id"] for line in file.lines()}
        asyncio.run(_label(file, (one for one in problems if one.id not in done), section, bar))
    finally:
        file.close()


async def _label(file: LineFile, problems: Iterable[Problem], section: JudgeSection, bar: Bar | None) -> None:
    endpoints = Endpoints(
        section.urls, section.model, os.environ.get(KEY_VARIABLE), concurrency=section.concurrency,
        timeout_s=section.timeout_s, attempts=section.attempts,
    )  # fmt: skip
    left = iter(problems)
    stopped: list[UserError] = []

    async def work() -> None:
        for problem in left:
            if stopped:  # what is under way may be paid for: it ends, and nothing follows it
                return
            try:
                label = await _asked(endpoints, problem, section)
            except UserError as error:
                stopped.append(error)
                return
            file.append([json.dumps({"id": problem.id, "label": label}, ensure_ascii=False)])
            if bar is not None:
                bar.advance()

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(section.concurrency * len(section.urls)):
                group.create_task(work())
    finally:
        await endpoints.close()
    if stopped:
        raise stopped[0]


async def _asked(endpoints: Endpoints, problem: Problem, section: JudgeSection) -> str | None:
    text = PROMPT.replace("{question}", clean(problem.question[: section.max_question_chars]))
    try:
        reply = await endpoints.chat(
            [{"role": "user", "content": text}], temperature=section.temperature, max_tokens=section.max_tokens
        )
    except EndpointError:
        return None
    return label_of(reply.text)
