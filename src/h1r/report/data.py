"""What the model was trained on: curation, what it dropped and why, and the selection of RL problems."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from h1r.common.html import bar, count, details, esc, percent, plural, table, words
from h1r.common.prose import listing
from h1r.report import plots
from h1r.report.collect import RunReport
from h1r.report.stored import FilterStep, Overlap
from h1r.report.svg import to_svg

_SETS = {"held_out": "evaluation", "train": "SFT", "sft": "SFT", "rl": "RL"}


def _filter_table(steps: Sequence[FilterStep]) -> str:
    """One row a step that dropped anything, the others by name; bars of steps with the same unit share a scale."""
    most: dict[str, int] = {}
    for step in steps:
        most[step.unit] = max(most.get(step.unit, 1), step.entered)
    rows = []
    for step in (step for step in steps if step.entered > step.left):
        reasons = "<br>".join(
            f"{esc(words(reason))}: {number:,}" for reason, number in sorted(step.reasons.items(), key=lambda r: -r[1])
        )
        gone = step.entered - step.left
        parts = bar((step.left / most[step.unit], "kept"), (gone / most[step.unit], "cut"))
        numbers = [f"{number:,}" for number in (step.entered, gone, step.left)]
        rows.append(
            [esc(words(step.step)), esc(f"{step.unit}s"), *numbers, parts, f'<div class="said">{reasons}</div>']
        )
    key = 'kept <i class="key kept"></i> dropped here <i class="key cut"></i>'
    found = table(["step", "of", "in", "dropped", "kept", key, "why dropped"], rows, (2, 3, 4)) if rows else ""
    idle = [words(step.step) for step in steps if step.entered == step.left]
    return found + (f'<p class="small soft">Dropped nothing: {esc(listing(idle))}.</p>' if idle else "")


def kept_of(steps: Sequence[FilterStep]) -> tuple[int, int]:
    """(in, out) of the unbroken chain of steps that ends the table: same unit, each fed by the one before."""
    first = last = steps[-1]
    for step in reversed(steps[:-1]):
        if step.unit != first.unit or step.left != first.entered:
            break
        first = step
    return first.entered, last.left


def curation_html(report: RunReport) -> str:
    summary = report.curate
    if summary is None:
        return ""
    found = "<p>Worked traces pass these filters in order; only what is verified correct, new and unlike the held-out "
    found += "problems is trained on."
    if summary.table:
        entered, left = kept_of(summary.table)
        kept = f"{left:,} ({percent(left / entered)})" if entered else "none"
        found += f" Of {entered:,} {esc(summary.table[-1].unit)}s <b>{kept} were kept</b>."
    found += "</p>"
    found += _filter_table(summary.table)
    facts = []
    if summary.problems:
        sets = [f"{number:,} for {_SETS.get(name, esc(words(name)))}" for name, number in summary.problems.items()]
        facts.append(f"Problems left: {listing(sets)}. The three sets share none.")
    if summary.classes:
        counts = [f"{number:,} {esc(name)}" for name, number in summary.classes.items()]
        facts.append(f"Samples by difficulty, which weights them: {listing(counts)}.")
    if summary.rejected_lines:
        facts.append(f"{plural(summary.rejected_lines, 'malformed line')} of the source files set aside.")
    found += "".join(f"<p>{fact}</p>" for fact in facts)
    if report.dropped:
        found += details("Samples of what was dropped", _dropped(report))
    if summary.contamination:
        found += details("Overlap with the held-out problems", _overlap(summary.contamination))
    if summary.families:
        rows = [
            [esc(words(name)), count(family.samples), count(family.mean_chars)]
            for name, family in sorted(summary.families.items())
        ]
        found += details("Samples per family", table(["family", "samples", "mean characters"], rows, (1, 2)))
    return found


def _overlap(contamination: Mapping[str, Mapping[str, Overlap]]) -> str:
    rows = [
        [
            _SETS.get(name, esc(words(name))),
            esc(words(benchmark)),
            *(f"{number:,}" for number in (it.held_out, it.exact, it.contained, it.ngram)),
            f"{it.total:,} ({percent(it.percent / 100)})",
        ]
        for name, benchmarks in contamination.items()
        for benchmark, it in benchmarks.items()
    ]
    head = ["set", "benchmark", "its problems", "same text", "contained", "n-gram shared", "dropped for it"]
    return table(head, rows, range(2, 7))


def _dropped(report: RunReport) -> str:
    groups: dict[tuple[str, str], list[str]] = {}
    for record in report.dropped:
        groups.setdefault((record.step, record.reason), []).append(f"<pre>{esc(record.excerpt)}</pre>")
    return "".join(
        f"<h3>{esc(words(reason))} <span class='soft small'>in step {esc(words(step))}</span></h3>{''.join(excerpts)}"
        for (step, reason), excerpts in groups.items()
    )


def pool_html(report: RunReport) -> str:
    pool = report.rl_pool
    if pool is None:
        return ""
    found = ""
    if pool.pass_rate_histogram:
        figure = plots.histogram_plot(pool.pass_rate_histogram)
        found += (
            f'<figure class="narrow">{to_svg(figure, "candidate RL problems by rollouts that solve them")}'
            "<figcaption><p>Grey: problems it always solves teach nothing and are dropped; of those it never solves "
            "only a small part is kept, since a wrong reference answer is worse than none.</p></figcaption></figure>"
        )
    found += _filter_table(pool.table) if pool.table else ""
    if pool.ungradable.count:
        reasons = listing([f"{number:,} {reason}" for reason, number in pool.ungradable.reasons.items()])
        left_out = any(step.step == "gradable by rules" for step in pool.table)
        found += (
            f"<p>{plural(pool.ungradable.count, 'candidate')} of {pool.ungradable.of:,} "
            f"({percent(pool.ungradable.count / pool.ungradable.of)}) cannot be graded by rules: {esc(reasons)}. "
            f"{'They are left out.' if left_out else 'They are among the candidates.'}</p>"
        )
    return found
