"""The HTML page of a corpus curation: one file, no scripts, readable years from now."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from h1r.common.files import atomic

_STYLE = """
:root { --ink: #1c2430; --soft: #5f6b7a; --line: #d9dee5; --kept: #2f6f9f; --cut: #d98a3d; --page: #fff; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6eaf0; --soft: #9aa6b5; --line: #384252; --kept: #6fb1e0; --cut: #e8a45f; --page: #141a22; }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page); max-width: 68rem;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
table { border-collapse: collapse; margin: .6rem 0; } .wide { overflow-x: auto; }
th, td { padding: .2rem .7rem .2rem 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
p.soft, .soft { color: var(--soft); } pre { white-space: pre-wrap; border-left: 3px solid var(--line);
  padding-left: .7rem; margin: .3rem 0; font-size: 13px; }
.charts { display: flex; flex-wrap: wrap; gap: 1.5rem; } figure { margin: 0; } figcaption { color: var(--soft); }
"""


def write_page(path: Path, summary: Mapping[str, Any]) -> None:
    """Writes the page of a summary (`summarise.py`), whole or not at all."""
    parts = [
        "<h1>Curation</h1>",
        _steps(summary),
        _sources(summary),
        _contamination(summary),
        _difficulty(summary),
        _teacher(summary),
        _samples(summary),
        _examples(summary),
    ]
    text = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Curation</title><style>{_STYLE}</style>'
    with atomic(path) as partial:
        partial.write_text(text + "\n".join(filter(None, parts)) + "</html>\n", encoding="utf-8")


def _steps(summary: Mapping[str, Any]) -> str:
    rows = []
    for row in summary["table"]:
        by_source = summary["by_source"].get(row["step"], {})
        why = "<br>".join(
            f"{count:,} {_esc(reason)}<br><span class=soft>{_esc(_listed(by_source.get(reason, {})))}</span>"
            for reason, count in row["reasons"].items()
        )
        rows.append([_esc(row["step"]), _esc(row["unit"]), row["in"], row["in"] - row["out"], row["out"], why])
    head = ["step", "unit", "in", "dropped", "out", "why, and from which source"]
    return f"<h2>What went in and what came out</h2>{_table(head, rows)}"


def _sources(summary: Mapping[str, Any]) -> str:
    rows = [
        [_esc(name), _esc(found["domain"]), _esc(found["use"]), found["records"], found["sound"],
         summary["rl_pool"].get(name, 0), sum(summary["sample_classes"].get(name, {}).values())]
        for name, found in summary["sources"].items()
    ]  # fmt: skip
    head = ["source", "domain", "use", "records", "sound", "RL pool", "SFT samples before the mixture"]
    return f"<h2>Sources</h2>{_table(head, rows)}"


def _contamination(summary: Mapping[str, Any]) -> str:
    head = ["source", "benchmark", "its problems", "overlapped", "same text", "contained", "run", "records", "%"]
    rows = [
        [_esc(source), _esc(name), *(found[key] for key in _OVERLAP), f"{found['percent']:.4f}"]
        for source, benchmarks in summary["contamination_by_source"].items()
        for name, found in benchmarks.items()
        if found["total"]
    ]
    whole = [
        [_esc(use.upper()), _esc(name), *(found[key] for key in _OVERLAP), f"{found['percent']:.4f}"]
        for use, benchmarks in summary["contamination"].items()
        for name, found in benchmarks.items()
    ]
    return (
        "<h2>Overlap with the benchmarks</h2><p class=soft>Records that overlap are dropped; the percentage is of all "
        "sound records of the set or source, copies included.</p>"
        + _table(head, whole)
        + ("<h3>By source</h3>" + _table(head, rows) if rows else "")
        + _near(summary)
    )


def _near(summary: Mapping[str, Any]) -> str:
    """The questions nearest to a held-out one that stay."""
    if not summary["near_held_out"]:
        return ""
    rows = [
        [f"{row['coverage']:.0%}", _esc(row["kept_for"]), f"{_esc(row['source'])} {_esc(row['id'])}",
         _esc(row["question"]), f"{_esc(row['held_out'])}<br>{_esc(row['held_out_question'])}"]
        for row in summary["near_held_out"]
    ]  # fmt: skip
    head = ["coverage", "stays for", "record", "question", "held out"]
    return (
        f"<h3>Near and kept</h3><p class=soft>{summary['num_near_held_out']:,} records have part of a held-out "
        "question and stay; the nearest of them. All are in near_held_out.jsonl.</p>" + _table(head, rows)
    )


_OVERLAP = ("held_out", "held_out_hit", "exact", "contained", "ngram", "total")


def _difficulty(summary: Mapping[str, Any]) -> str:
    if not summary["pass_rates"]:
        return ""
    labels = [f"{10 * at}-{10 * at + 10}" for at in range(10)] + ["100"]
    charts = "".join(
        f"<figure>{bars(counts, labels)}<figcaption>{_esc(name)}: problems by pass rate, %</figcaption></figure>"
        for name, counts in summary["pass_rates"].items()
    )
    classes = [
        [_esc(name), *(found.get(kind, 0) for kind in ("hard", "medium", "easy"))]
        for name, found in summary["problem_classes"].items()
    ]
    rule = [
        [_esc(name), _esc(reason), kept, gone]
        for name, found in summary["rl_rule"].items()
        for reason, (kept, gone) in found.items()
    ]
    return (
        f"<h2>Difficulty</h2><div class=charts>{charts}</div>"
        + _table(["source", "hard", "medium", "easy"], classes)
        + "<h3>The 8-rollout rule</h3><p class=soft>For every problem with a pass rate, whatever its use.</p>"
        + _table(["source", "verdict", "kept", "dropped"], rule)
    )


def _teacher(summary: Mapping[str, Any]) -> str:
    found = summary["teacher"]
    if not found:
        return ""
    cost = "" if found["cost"] is None else f", {found['cost']:.4g} {_esc(found['currency'])}"
    without = "".join(f"<br>{count:,} without traces: {_esc(why)}" for why, count in found["without"].items())
    return (
        f"<h2>Teacher</h2><p>{found['problems']:,} problems, {found['prompt_tokens']:,} tokens of prompts and "
        f"{found['completion_tokens']:,} of answers{cost}.{without}</p>"
    )


def _samples(summary: Mapping[str, Any]) -> str:
    mixture = [
        [_esc(name), found["samples"], found["tokens"], found["kept_samples"], found["kept_tokens"],
         f"{100 * found['sample_share']:.1f}", f"{100 * found['token_share']:.1f}",
         "all" if found["wanted_share"] is None else f"{100 * found['wanted_share']:.1f}"]
        for name, found in summary["mixture"].items()
    ]  # fmt: skip
    head = ["domain", "samples", "tokens", "kept samples", "kept tokens", "% samples", "% tokens", "% wanted"]
    classes = [
        [_esc(kind), summary["weights"][kind], summary["classes"].get(kind, 0)] for kind in ("hard", "medium", "easy")
    ]
    labels = [f"{end}" if end < 1024 else f"{end // 1024}K" for end in summary["length_bins"]] + ["more"]
    charts = "".join(
        f"<figure>{bars([found.get(str(at), 0) for at in range(len(labels))], labels)}"
        f"<figcaption>{_esc(name)}: samples by length, up to so many tokens</figcaption></figure>"
        for name, found in summary["lengths"].items()
    )
    packed = summary["packed"]
    return (
        f"<h2>Samples</h2>{_table(head, mixture)}{_table(['class', 'weight', 'samples'], classes)}"
        f"<div class=charts>{charts}</div><p>{packed['rows']:,} packed rows of {packed['seq_len']:,} tokens, "
        f"{100 * packed['filled']:.1f} % filled.</p>"
    )


def _examples(summary: Mapping[str, Any]) -> str:
    groups: dict[tuple[str, str], list[Mapping[str, str]]] = {}
    for row in summary["examples"]:
        groups.setdefault((row["step"], row["reason"]), []).append(row)
    found = "".join(
        f"<details><summary>{_esc(step)}: {_esc(reason)}</summary>"
        + "".join(f"<p class=soft>{_esc(row['source'])} {_esc(row['id'])}{_overlap(row)}</p>"
                  f"<pre>{_esc(row['excerpt'])}</pre>" for row in rows)
        + "</details>"
        for (step, reason), rows in groups.items()
    )  # fmt: skip
    return f"<h2>Samples of what was dropped</h2>{found}" if found else ""


def _overlap(row: Mapping[str, Any]) -> str:
    """What a dropped record has of a held-out question."""
    if "held_out" not in row:
        return ""
    run = f", <q>{_esc(row['run'])}</q>" if row["run"] else ""
    return f": {row['coverage']:.0%} of {_esc(row['held_out'])}{run}"


def bars(counts: Sequence[int], labels: Sequence[str], width: int = 320, height: int = 120) -> str:
    """A bar chart as SVG; the counts stand above the bars and in their titles."""
    most = max([*counts, 1])
    step = width / len(counts)
    parts = []
    for at, (count, label) in enumerate(zip(counts, labels, strict=True)):
        tall = round(height * count / most, 1)
        x = round(at * step, 1)
        parts.append(
            f'<g><title>{_esc(label)}: {count:,}</title><rect x="{x}" y="{16 + height - tall}" '
            f'width="{round(step - 2, 1)}" height="{tall}" fill="var(--kept)"/>'
            f'<text x="{round(x + step / 2, 1)}" y="{12 + height - tall}" font-size="8" text-anchor="middle" '
            f'fill="currentColor">{count if count else ""}</text>'
            f'<text x="{round(x + step / 2, 1)}" y="{height + 27}" font-size="7" text-anchor="middle" '
            f'fill="currentColor">{_esc(label)}</text></g>'
        )
    return f'<svg width="{width}" height="{height + 32}" role="img">{"".join(parts)}</svg>'


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = list(rows)
    numeric = [bool(lines) and all(not isinstance(row[at], str) or _is_number(row[at]) for row in lines)
               for at in range(len(head))]  # fmt: skip
    kind = [' class="n"' if one else "" for one in numeric]
    top = "".join(f"<th{kind[at]}>{_esc(name)}</th>" for at, name in enumerate(head))
    body = "".join(
        "<tr>" + "".join(f"<td{kind[at]}>{_shown(cell)}</td>" for at, cell in enumerate(row)) + "</tr>" for row in lines
    )
    return f'<div class="wide"><table><tr>{top}</tr>{body}</table></div>'


def _shown(cell: Any) -> str:
    return f"{cell:,}" if isinstance(cell, int | float) else str(cell)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


def _esc(text: str) -> str:
    return html.escape(str(text))
