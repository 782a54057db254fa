"""The HTML page of a corpus curation: one file, no scripts, readable years from now."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from h1r.common.files import write_text
from h1r.common.html import bar, card, count, details, esc, page, percent, plural, sections, table, words
from h1r.common.prose import figures

_OVERLAP = ("held_out", "held_out_hit", "exact", "contained", "ngram", "total")
_CLASSES = ("hard", "medium", "easy")


def write_page(path: Path, summary: Mapping[str, Any]) -> None:
    """Writes the page of a summary (`summarise.py`), whole or not at all."""
    parts = {
        "steps": ("What went in and what came out", _steps(summary)),
        "sources": ("Sources", _sources(summary)),
        "overlap": ("Overlap with the benchmarks", _contamination(summary)),
        "difficulty": ("Difficulty", _difficulty(summary)),
        "teacher": ("Teacher", _teacher(summary)),
        "samples": ("Samples", _samples(summary)),
        "dropped": ("Samples of what was dropped", _examples(summary)),
    }
    write_text(path, page("Open-H1R curation", _header(summary) + sections(parts) + _FOOTER))


_FOOTER = (
    "<footer>Written by <code>h1r curate</code>. The same numbers for programs: <code>summary.json</code>; every "
    "record that was dropped: <code>dropped.jsonl</code>.</footer>"
)


def _header(summary: Mapping[str, Any]) -> str:
    sets, packed = summary["problems"], summary["packed"]
    cards = [
        card("Held-out problems", count(sets["held_out"])),
        card("SFT problems", count(sets["train"])),
        card("RL problems", count(sets["rl"])),
        card(
            "Packed rows",
            count(packed["rows"]),
            f"of {plural(packed['seq_len'], 'token')}, {percent(packed['filled'])} filled",
        ),
    ]
    return f'<p class="eyebrow">Open-H1R</p><h1>Curation</h1><div class="cards">{"".join(cards)}</div>'


def _steps(summary: Mapping[str, Any]) -> str:
    most: dict[str, int] = {}
    for row in summary["table"]:
        most[row["unit"]] = max(most.get(row["unit"], 1), row["in"])
    rows = []
    for row in summary["table"]:
        by_source = summary["by_source"].get(row["step"], {})
        why = "<br>".join(
            f'{number:,} {esc(reason)}<br><span class="soft">{esc(_listed(by_source.get(reason, {})))}</span>'
            for reason, number in row["reasons"].items()
        )
        gone = row["in"] - row["out"]
        shares = bar((row["out"] / most[row["unit"]], "kept"), (gone / most[row["unit"]], "cut"))
        rows.append([row["step"], words(row["unit"]) + "s", row["in"], gone, row["out"], _Html(shares), _Html(why)])
    key = _Html('kept <i class="key kept"></i> dropped here <i class="key cut"></i>')
    return _table(["step", "of", "in", "dropped", "kept", key, "why, and from which source"], rows)


def _sources(summary: Mapping[str, Any]) -> str:
    rows = [
        [name, found["domain"], found["use"], found["records"], found["sound"],
         summary["rl_pool"].get(name, 0), sum(summary["sample_classes"].get(name, {}).values())]
        for name, found in summary["sources"].items()
    ]  # fmt: skip
    return _table(["source", "domain", "use", "records", "sound", "RL pool", "SFT samples before the mixture"], rows)


def _contamination(summary: Mapping[str, Any]) -> str:
    head = ["source", "benchmark", "its problems", "overlapped", "same text", "contained", "run", "records", "share"]
    rows = [
        [source, name, *(found[key] for key in _OVERLAP), f"{found['percent']:.4f}%"]
        for source, benchmarks in summary["contamination_by_source"].items()
        for name, found in benchmarks.items()
        if found["total"]
    ]
    whole = [
        [use.upper(), name, *(found[key] for key in _OVERLAP), f"{found['percent']:.4f}%"]
        for use, benchmarks in summary["contamination"].items()
        for name, found in benchmarks.items()
    ]
    note = (
        '<p class="small soft">Records that overlap are dropped; the share is of all sound records of the set or '
        "source, copies included.</p>"
    )
    by_source = details("By source", _table(head, rows)) if rows else ""
    return _table(["set", *head[1:]], whole) + note + by_source + _near(summary) if whole else ""


def _near(summary: Mapping[str, Any]) -> str:
    """The questions nearest to a held-out one that stay."""
    if not summary["near_held_out"]:
        return ""
    rows = [
        [f"{row['coverage']:.0%}", row["kept_for"], f"{row['source']} {row['id']}", row["question"],
         _Html(f"{esc(row['held_out'])}<br>{esc(row['held_out_question'])}")]
        for row in summary["near_held_out"]
    ]  # fmt: skip
    note = (
        f'<p class="small soft">{plural(summary["num_near_held_out"], "record")} with part of a held-out question '
        "stay: the nearest of them. All are in near_held_out.jsonl.</p>"
    )
    listed = _table(["coverage", "stays for", "record", "question", "held out"], rows)
    return details("Near and kept", note + listed)


def _difficulty(summary: Mapping[str, Any]) -> str:
    if not summary["pass_rates"]:
        return ""
    labels = [f"{10 * at}-{10 * at + 10}" for at in range(10)] + ["100"]
    charts = {f"{name}: problems by pass rate, %": (counts, labels) for name, counts in summary["pass_rates"].items()}
    classes = [[name, *(found.get(kind, 0) for kind in _CLASSES)] for name, found in summary["problem_classes"].items()]
    rule = [
        [name, reason, kept, gone]
        for name, found in summary["rl_rule"].items()
        for reason, (kept, gone) in found.items()
    ]
    return (
        _charts(charts)
        + _table(["source", *_CLASSES], classes)
        + '<h3>The 8-rollout rule</h3><p class="small soft">For every problem with a pass rate, whatever its use.</p>'
        + _table(["source", "verdict", "kept", "dropped"], rule)
    )


def _teacher(summary: Mapping[str, Any]) -> str:
    found = summary["teacher"]
    if not found:
        return ""
    cost = "" if found["cost"] is None else f", {figures(found['cost'], 4)} {esc(found['currency'])}"
    without = "".join(f"<br>{number:,} without traces: {esc(why)}" for why, number in found["without"].items())
    return (
        f"<p>{plural(found['problems'], 'problem')}, {plural(found['prompt_tokens'], 'token')} of prompts and "
        f"{count(found['completion_tokens'])} of answers{cost}.{without}</p>"
    )


def _samples(summary: Mapping[str, Any]) -> str:
    mixture = [
        [name, found["samples"], found["tokens"], found["kept_samples"], found["kept_tokens"],
         percent(found["sample_share"]), percent(found["token_share"]),
         "all" if found["wanted_share"] is None else percent(found["wanted_share"])]
        for name, found in summary["mixture"].items()
    ]  # fmt: skip
    head = ["domain", "samples", "tokens", "kept samples", "kept tokens", "of samples", "of tokens", "wanted"]
    classes = [[kind, summary["weights"][kind], summary["classes"].get(kind, 0)] for kind in _CLASSES]
    labels = [f"{end}" if end < 1024 else f"{end // 1024}K" for end in summary["length_bins"]] + ["more"]
    charts = {}
    for name, found in summary["lengths"].items():
        counts = [found.get(str(at), 0) for at in range(len(labels))]
        longest = max((at for at, number in enumerate(counts) if number), default=0) + 1  # no empty end of the axis
        charts[f"{name}: samples by length, up to so many tokens"] = (counts[:longest], labels[:longest])
    return _table(head, mixture) + _table(["class", "weight", "samples"], classes) + _charts(charts)


def _examples(summary: Mapping[str, Any]) -> str:
    groups: dict[tuple[str, str], list[Mapping[str, str]]] = {}
    for row in summary["examples"]:
        groups.setdefault((row["step"], row["reason"]), []).append(row)
    return "".join(
        details(f"{esc(step)}: {esc(reason)}", "".join(
            f'<p class="soft">{esc(row["source"])} {esc(row["id"])}{_overlap(row)}</p><pre>{esc(row["excerpt"])}</pre>'
            for row in rows
        ))
        for (step, reason), rows in groups.items()
    )  # fmt: skip


def _overlap(row: Mapping[str, Any]) -> str:
    """What a dropped record has of a held-out question."""
    if "held_out" not in row:
        return ""
    run = f", <q>{esc(row['run'])}</q>" if row["run"] else ""
    return f": {row['coverage']:.0%} of {esc(row['held_out'])}{run}"


def _charts(charts: Mapping[str, tuple[Sequence[int], Sequence[str]]]) -> str:
    """Bar charts by title; those without a count are left out."""
    drawn = [
        f"<div><h4>{esc(title)}</h4>{bars(counts, labels)}</div>"
        for title, (counts, labels) in charts.items()
        if any(counts)
    ]
    narrow = ' class="narrow"' if len(drawn) == 1 else ""
    return f'<figure{narrow}><div class="grid">{"".join(drawn)}</div></figure>' if drawn else ""


def bars(counts: Sequence[int], labels: Sequence[str], width: int = 320, height: int = 120) -> str:
    """A bar chart as SVG; the counts stand above the bars, over those beside them, and in their titles."""
    most = max([*counts, 1])
    step = width / len(counts)
    drawn: list[str] = []
    written: list[str] = []
    for at, (number, label) in enumerate(zip(counts, labels, strict=True)):
        tall = round(height * number / most, 1)
        x = round(at * step, 1)
        drawn.append(
            f'<g class="hit"><title>{esc(label)}: {number:,}</title><rect x="{x}" y="{16 + height - tall}" '
            f'width="{round(step - 2, 1)}" height="{tall}" fill="var(--sft)"/></g>'
        )
        written.append(
            f'<text x="{round(x + step / 2, 1)}" y="{12 + height - tall}" font-size="9" text-anchor="middle" '
            f'fill="var(--soft)">{count(number) if number else ""}</text>'
            f'<text x="{round(x + step / 2, 1)}" y="{height + 28}" font-size="8.5" text-anchor="middle" '
            f'fill="var(--soft)">{esc(label)}</text>'
        )
    return f'<svg viewBox="0 0 {width} {height + 32}" role="img">{"".join(drawn + written)}</svg>'


class _Html(str):
    """A cell that is HTML already."""


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table of plain values; columns of numbers stand to the right. Nothing without rows."""
    lines = list(rows)
    numeric = [at for at in range(len(head)) if all(_is_number(row[at]) for row in lines)]
    return (
        table([_cell(name) for name in head], [[_cell(one) for one in row] for row in lines], numeric) if lines else ""
    )


def _cell(value: Any) -> str:
    if isinstance(value, _Html):
        return value
    return f"{value:,}" if isinstance(value, int | float) else esc(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) or (isinstance(value, str) and value[:1].isdigit() and value.endswith("%"))


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {number:,}" for name, number in counts.items())
