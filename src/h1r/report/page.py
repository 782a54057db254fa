"""The report page of one run, in the order a newcomer reads: result, evidence, traces, data, cost, how to repeat it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from pydantic import ValidationError

from h1r.common.html import NONE, bar, details, duration, esc, page, plural, sections, size, table, words
from h1r.config import Recipe
from h1r.config.text import to_toml
from h1r.report.benchmarks import benchmarks_html
from h1r.report.collect import RunReport
from h1r.report.data import curation_html, pool_html
from h1r.report.headline import headline_html
from h1r.report.results import accuracy_html, learning_html
from h1r.report.safety import safety_html
from h1r.report.stored import Machine
from h1r.report.timeline import step_time_html
from h1r.report.traces import examples_html, stops_html

STAGE_WORDS = {
    "curate": "curation",
    "eval_base": "evaluation of the base",
    "sft": "supervised fine-tuning",
    "eval_sft": "evaluation after SFT",
    "pool": "selection of RL problems",
    "rl_pool": "selection of RL problems",
    "rl": "reinforcement learning",
    "eval_rl": "evaluation after RL",
    "scaling": "test-time scaling",
}


def run_page(report: RunReport, browser: str | None = None) -> str:
    """The report of one run as HTML. `browser`: the address of the page of its answers, where there is one."""
    parts = {
        "benchmarks": ("Benchmarks", benchmarks_html(report.benchmarks, browser)),
        "safety": ("Safety", safety_html(report.safety)),
        "result": ("Accuracy", accuracy_html(report)),
        "learning": ("How it learnt", learning_html(report)),
        "answers": ("Read its answers", _answers(report, browser)),
        "curation": ("What it learnt from", curation_html(report)),
        "pool": ("Which problems RL practised on", pool_html(report)),
        "cost": ("Time and memory", _cost(report)),
        "repeat": ("Repeat this run", _repeat(report)),
    }
    return page(
        f"{report.name}: Open-H1R report",
        _header(report) + headline_html(report) + _missing(report) + sections(parts) + _footer(),
    )


def code_text(report: RunReport) -> str:
    if not report.attempts:
        return "unknown code version"
    last = report.attempts[-1]
    return f"h1r {last.h1r}" + (
        f", commit {last.commit[:12]}{'+changes' * last.commit.endswith('+changes')}" if last.commit else ""
    )


def _header(report: RunReport) -> str:
    started = [attempt.time for attempt in report.attempts if attempt.time]
    facts = [f"seed {report.seed}" if report.seed is not None else "", code_text(report)]
    if started:
        facts.append(datetime.fromtimestamp(min(started), UTC).strftime("started %-d %B %Y, %H:%M UTC"))
    return (
        f'<p class="eyebrow">Open-H1R report</p><h1>{esc(report.name)}</h1><p class="soft small">'
        + esc(" · ".join(fact for fact in facts if fact))
        + "</p>"
    )


def _missing(report: RunReport) -> str:
    if not report.missing:
        return ""
    items = "".join(f"<li>{esc(part.what)} <code>{esc(part.file)}</code></li>" for part in report.missing)
    return (
        '<div class="notice"><b>This run is not complete.</b> What it does not have (yet) is left out below:'
        f"<ul>{items}</ul></div>"
    )


def _answers(report: RunReport, browser: str | None) -> str:
    every = f'<p><a href="{quote(browser)}">Read every answer</a>, right and wrong ones.</p>' if browser else ""
    found = examples_html(report.evals, report.titles)
    stops = stops_html(report.scaling.examples) if report.scaling and report.scaling.method == "deepconf" else ""
    if found:
        found = (
            "<p>Held-out problems, the first recorded answer of each stage, picked to show each kind of outcome and "
            "different families. The shade behind a token is DeepConf's confidence: the negative mean log-probability "
            "of the likeliest next tokens. Point at a token for its number.</p>" + found
        )
    if stops:
        found += (
            "<h3>What DeepConf stops</h3><p>When the mean confidence of a window of tokens falls below the threshold, "
            "the trace ends there and casts no vote: its remaining tokens are saved.</p>" + stops
        )
    return every + found


def _stage(report: RunReport, name: str) -> str:
    """What a stage is called; the evaluation of a checkpoint that the recipe names, by that name."""
    if name == "eval_base" and report.checkpoint:
        return f"evaluation of {report.titles['base']}"
    return STAGE_WORDS.get(name, words(name))


def _cost(report: RunReport) -> str:
    if not report.stages:
        return ""
    longest = max(cost.wall_seconds for cost in report.stages.values()) or 1
    rows = [
        [
            esc(_stage(report, name)),
            duration(cost.wall_seconds),
            bar((cost.wall_seconds / longest, "time")),
            size(cost.peak_rss_bytes),
        ]
        for name, cost in report.stages.items()
    ]
    rows.append(
        ["<b>total</b>", f"<b>{duration(report.wall_seconds)}</b>", "", f"<b>{size(report.peak_rss_bytes)}</b>"]
    )
    note = (
        '<p class="small soft">Wall time adds up over resumed attempts. Peak memory is the high-water mark of the '
        "process at the end of the stage: stages run in one process inherit the mark of those before."
    )
    stages = table(["stage", "wall time", "", "peak memory"], rows, (1, 3)) + note + "</p>"
    return stages + step_time_html(report) + _machines(report)


def _machines(report: RunReport) -> str:
    """Each machine that ran a part of it, with the versions there; the stages of each where there are several."""
    told: dict[str, list[str]] = {}
    for attempt in report.attempts:
        if attempt.machine is not None:
            told.setdefault(_machine(attempt.machine), []).append(_stage(report, attempt.stage))
    return "".join(
        f'<p class="small">Measured on {esc(one)}'
        + (f' <span class="soft">({esc(", ".join(dict.fromkeys(stages)))})</span>' if len(told) > 1 else "")
        + ".</p>"
        for one, stages in told.items()
    )


def _machine(found: Machine) -> str:
    """`Intel Xeon, 2 cores, 16.0 GiB of memory, 2 threads of torch; Linux 6.1, python 3.11.2, torch 2.5.1`."""
    hardware = [
        found.processor,
        plural(found.cores, "core") if found.cores else "",
        f"{size(found.memory_bytes)} of memory" if found.memory_bytes else "",
        *found.accelerators,
        f"{plural(found.threads, 'thread')} of torch" if found.threads else "",
    ]
    software = [found.system, *(f"{name} {version}" for name, version in found.versions.items())]
    return "; ".join(", ".join(filter(None, part)) for part in (hardware, software))


def _repeat(report: RunReport) -> str:
    rows = [
        [
            esc(_stage(report, attempt.stage) + _changes(attempt.changed)),
            esc(datetime.fromtimestamp(attempt.time, UTC).strftime("%Y-%m-%d %H:%M:%S")) if attempt.time else NONE,
            f"<code>{esc(_command(attempt.argv))}</code>",
            f"<code>{esc(attempt.commit[:12] or attempt.h1r)}</code>",
        ]
        for attempt in report.attempts
    ]
    commands = list(dict.fromkeys(_command(attempt.argv) for attempt in report.attempts if attempt.argv))
    found = f"<p>Check out the code of this run ({esc(code_text(report))}), then:</p>" if commands else ""
    found += f"<pre>{esc(chr(10).join(commands))}</pre>" if commands else ""
    found += details("Every start of a stage", table(["stage", "UTC", "command", "code"], rows)) if rows else ""
    return found + details("The resolved recipe: every setting of this run", f"<pre>{esc(_recipe_text(report))}</pre>")


def _changes(changed: Mapping[str, Sequence[object]]) -> str:
    told = [f"{key} = {json.dumps(after)} (was {json.dumps(before)})" for key, (before, after) in changed.items()]
    return f": {', '.join(told)}" if told else ""


def _command(argv: Sequence[str]) -> str:
    if not argv:
        return ""
    program = "python -m h1r" if Path(argv[0]).name == "__main__.py" else shlex.quote(Path(argv[0]).name)
    return " ".join([program, *([shlex.join(argv[1:])] if argv[1:] else [])])


def _recipe_text(report: RunReport) -> str:
    """The recipe as TOML; as JSON when this version's recipe tree no longer knows it."""
    try:
        return to_toml(Recipe.model_validate(report.recipe))
    except ValidationError:
        return json.dumps(report.recipe, indent=1, ensure_ascii=False)


def _footer() -> str:
    return (
        "<footer>Written by <code>h1r report</code>. The same numbers for programs: <code>report.json</code>.</footer>"
    )
