"""The page of answers: every sample that a run kept, to filter and to read. These are the answers of its evaluations,
on held-out problems and on benchmarks, and the group of rollouts that each RL step keeps.

    samples.html             the page: a script of ours from a file, no network, nothing of a model's text as HTML
    samples/index.js         which sets of answers there are
    samples/N.js             the list of the N-th: verdict, reason, finish reason, tokens of each answer
    samples/N-C.js           texts of consecutive answers, about CHUNK_BYTES, read when one of them is opened

A file of the disk cannot be fetched by a page of the disk, but run as a script: each file calls a function with its
data, as JSON without `<`. Memory does not grow with the answers: the columns of a list are spooled to the disk.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any
from urllib.parse import quote

from h1r.common.files import atomic, write_text
from h1r.common.html import clean, esc
from h1r.common.packaged import packaged
from h1r.common.prose import counted
from h1r.common.style import CSS
from h1r.records import name_of, read_lines
from h1r.report.collect import RunReport
from h1r.response.extract import split_response

CHUNK_BYTES = 1 << 20
_COLUMNS = ("problem", "sample", "verdict", "reason", "finish", "tokens")
_OURS = re.compile(r"index\.js|browser\.js|\d+(-\d+)?\.js")
MAX_CHARS = 200_000
"""Of a question, and of an answer; of longer ones the middle is left out, and where the whole stands is said."""
_OWN = """
.bar{display:flex;flex-wrap:wrap;gap:.5rem 1rem;align-items:center;margin:1rem 0}
select,input,button{font:inherit;color:inherit;background:var(--panel);border:1px solid var(--grid);border-radius:6px;
 padding:.25rem .5rem;max-width:100%}
td button{padding:0 .3rem;color:var(--sft);text-align:left}td.good{color:var(--good)}td.bad{color:var(--bad)}
"""


@dataclass(frozen=True)
class AnswerSet:
    """A file of answers: what was asked, the model that answered, and where its lines lie."""

    name: str
    model: str
    path: Path


def answer_sets(report: RunReport) -> list[AnswerSet]:
    """Every file of answers of a run that is there: of benchmarks, held-out problems (the last model first), and RL."""
    found = [AnswerSet(one.name, one.model, one.answers) for one in report.benchmarks if one.answers]
    for stage, result in reversed(report.evals.items()):  # the model that the run came to first
        if result.samples:
            found.append(AnswerSet("held-out problems", report.titles[stage], report.path / "eval" / result.samples))
    found.append(AnswerSet("RL rollouts, a group a step", "RL", report.path / "rl" / "rollouts.jsonl"))
    return [one for one in found if one.path.is_file()]


def write_browser(page: Path, report: Path, title: str, found: Sequence[AnswerSet]) -> bool:
    """Writes the page and its files, which lie in the directory of its name; `report`: the page that it belongs to.

    False without answers. What an earlier report left is removed, and nothing else.
    """
    directory = page.with_suffix("")
    _remove(directory)
    if not found:
        page.unlink(missing_ok=True)
        return False
    directory.mkdir(parents=True, exist_ok=True)
    index = []
    for number, one in enumerate(found):
        answers = _write_set(directory, number, one.path)
        index.append({"name": clean(one.name), "model": clean(one.model), "answers": answers})
    write_text(directory / "index.js", _call("index", index))
    source = packaged("report", "browser.js").read_text(encoding="utf-8")
    write_text(directory / "browser.js", source)
    write_text(page, _page(title, directory.name, report.name))
    return True


def _remove(directory: Path) -> None:
    """The files of an earlier page; the directory too, where they were all."""
    if not (directory / "index.js").is_file() or not (directory / "browser.js").is_file():
        return
    for file in directory.iterdir():
        if _OURS.fullmatch(file.name):
            file.unlink()
    with suppress(OSError):
        directory.rmdir()


def _write_set(directory: Path, number: int, answers: Path) -> int:
    """Writes the list and the texts of a set, and returns how many answers it has. In memory stand those of a chunk."""
    starts: list[int] = []
    count = 0
    with ExitStack() as stack:
        spooled = {
            column: stack.enter_context(TemporaryFile("w+", encoding="utf-8", dir=directory)) for column in _COLUMNS
        }
        for listed, texts in _chunks(answers):
            for column, file in spooled.items():
                values = _json([row[column] for row in listed])[1:-1]
                file.write(f",{values}" if count else values)
            write_text(directory / f"{number}-{len(starts)}.js", _call("texts", number, len(starts), texts))
            starts.append(count)
            count += len(listed)
        with atomic(directory / f"{number}.js") as partial, open(partial, "w", encoding="utf-8") as whole:
            whole.write(f"h1r.list({number}, {{")
            for column, file in spooled.items():
                whole.write(f"{_json(column)}:[")
                file.seek(0)
                shutil.copyfileobj(file, whole)
                whole.write("],")
            whole.write(f'"chunks":{_json(starts)}}});\n')
    return count


def _chunks(answers: Path) -> Iterator[tuple[list[dict[str, Any]], list[dict[str, Any]]]]:
    """Consecutive answers, as many as have about CHUNK_BYTES of text: what the list has of them, and their texts."""
    listed: list[dict[str, Any]] = []
    texts: list[dict[str, Any]] = []
    size = 0
    for row in _rows(answers):
        listed.append(_listed(row))
        texts.append(_text(row, answers))
        size += sum(len(text) for _, text in texts[-1]["parts"])
        if size >= CHUNK_BYTES:
            yield listed, texts
            listed, texts, size = [], [], 0
    if listed:
        yield listed, texts


def _rows(answers: Path) -> Iterator[dict[str, Any]]:
    """The answers that an evaluation left; lines of verdicts alone, of one that was stopped, are passed over."""
    for _, line in read_lines(answers):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and "text" in row:
            yield row
        elif isinstance(row, dict) and isinstance(row.get("rollouts"), list):
            yield from _rollouts(row)


def _rollouts(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The group that an RL step keeps, as answers."""
    for number, rollout in enumerate(row["rollouts"]):
        correct = rollout["parts"].get("correct", rollout["reward"])
        parts = ", ".join(f"{name} {value + 0.0:g}" for name, value in rollout["parts"].items())  # no -0
        yield {
            "problem_id": row["problem_id"],
            "step": row["step"],
            "sample": number,
            "question": row.get("question"),
            "reference": row.get("reference"),
            "text": rollout["text"],
            "tokens": rollout.get("tokens"),
            "finish_reason": rollout.get("finish_reason"),
            "verdict": {
                "reward": correct,
                "reason": f"reward {rollout['reward']:g}",
                "error": f"reward {rollout['reward']:g}: {parts}",
            },
        }


def _listed(row: dict[str, Any]) -> dict[str, Any]:
    """What the list has of an answer: `_COLUMNS`."""
    verdict = row.get("verdict") or {}
    reason = verdict.get("reason")
    said = "right" if (verdict.get("reward") or 0.0) >= 1.0 else "wrong"
    if not verdict or reason == "unscored":
        said = "not scored"
    return {
        "problem": clean(_called(row)),
        "sample": int(row.get("sample") or 0),
        "verdict": said,
        "reason": clean(reason or "").replace("_", " "),
        "finish": clean(row.get("finish_reason") or ""),
        "tokens": int(row["tokens"]) if row.get("tokens") is not None else None,
    }


def _called(row: Mapping[str, Any]) -> str:
    name = name_of(str(row.get("problem_id") or row.get("problem")), row.get("question"))
    return f"step {row['step']}, {name}" if "step" in row else name


def _text(row: dict[str, Any], answers: Path) -> dict[str, Any]:
    verdict = row.get("verdict") or {}
    response = split_response(str(row.get("text") or ""))
    parts = (
        ("Question", row.get("question")),
        ("Reference", row.get("reference")),
        ("Answer that was found", verdict.get("extracted")),
        ("What the verifier says", verdict.get("error")),
        ("What went wrong", row.get("error")),
        ("Answer", response.answer),
        ("Thinking", response.thinking),
    )
    title = f"{_called(row)}, sample {row.get('sample')}"
    return {"title": clean(title), "parts": [(name, _cut(clean(text or ""), answers)) for name, text in parts if text]}


def _cut(text: str, answers: Path) -> str:
    if len(text) <= MAX_CHARS:
        return text
    half = MAX_CHARS // 2
    left_out = counted(len(text) - MAX_CHARS, "character")
    return f"{text[:half]}\n\n[... {left_out}, see {answers.name} ...]\n\n{text[-half:]}"


def _call(name: str, *arguments: Any) -> str:
    """A script that hands JSON to the page."""
    return f"h1r.{name}({', '.join(map(_json, arguments))});\n"


def _json(value: Any) -> str:
    """JSON for a script: `<` and the line ends that JSON alone allows are escaped."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for character in "<\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _page(title: str, directory: str, report: str) -> str:
    files = quote(directory)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; script-src 'self'; style-src "
        "'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width,initial-scale=1"><meta name="color-scheme" '
        f'content="light dark"><title>{esc(title)}: answers</title><style>{CSS}{_OWN}</style>'
        f'<script src="{files}/browser.js"></script><script src="{files}/index.js"></script></head><body><main>'
        f'<p class="eyebrow"><a href="{quote(report)}">Open-H1R report</a></p><h1>{esc(title)}: answers</h1>'
        '<div class="bar"><select id="set" aria-label="answers"></select><select id="verdict" aria-label="verdict">'
        '<option value="">right and wrong</option><option>right</option><option>wrong</option><option>not scored'
        '</option></select><select id="finish" aria-label="finish reason"></select>'
        '<input id="problem" placeholder="problem" aria-label="problem"></div>'
        '<div class="bar"><button id="before" type="button">previous</button><span id="state">reading</span>'
        '<button id="after" type="button">next</button></div>'
        '<div class="scroll"><table><thead><tr><th>problem</th><th class="n">sample</th><th>verdict</th><th>reason</th>'
        '<th>end</th><th class="n">tokens</th></tr></thead><tbody id="rows"></tbody></table></div>'
        '<section id="one"></section></main></body></html>\n'
    )
