"""The evidence: accuracy with its tables, and the learning curves."""

from __future__ import annotations

import math
from collections.abc import Sequence

from h1r.common.html import NONE, count, details, esc, percent, percent_interval, plural, points, table, words
from h1r.common.prose import counted, listing
from h1r.report import curves, plots
from h1r.report.collect import EVAL_STAGES, Metrics, RunReport, series, total
from h1r.report.stored import EvalResult, FamilyScore, ScalingResult
from h1r.report.svg import to_svg

_OF_PART = "loss/"
"""What the metrics of each part of a mixture begin with."""


def confidence_level(report: RunReport) -> float:
    """The level of the evaluation's intervals, 0 to 1."""
    stated = [result.confidence_level for result in report.evals.values() if result.confidence_level is not None]
    return stated[-1] if stated else float(report.recipe.get("eval", {}).get("confidence_level", 0.95))


def tokens_unit(report: RunReport) -> str:
    """What the token counts of the scaling study are summed over, as a phrase."""
    problems = report.scaling.problems if report.scaling else None
    return f"for {plural(problems, 'problem')}" if problems else "for all problems"


def accuracy_html(report: RunReport) -> str:
    """The main plot, each half with its caption, and the numbers behind it in tables that fold."""
    level = confidence_level(report)
    panels = []
    if report.evals:
        plot = plots.family_plot(report.evals, level, report.titles)
        svg = to_svg(plot, "pass@1 per problem family after each stage, with intervals")
        panels.append(("Problems it has never seen, one answer at a time", svg, _pass_caption(report, level)))
    if report.scaling:
        height = min(max(plots.family_height(report.evals), 260), 420)
        plot = plots.tokens_plot(report.scaling, tokens_unit(report), height)
        svg = to_svg(plot, f"accuracy against tokens for majority vote and {report.scaling.label}")
        panels.append(("Many answers and a vote: what tokens buy", svg, _vote_caption(report.scaling)))
    if not panels:
        return ""
    inner = "".join(
        f"<div><h4>{title}</h4>{svg}<div class='small soft'><p>{caption}</p></div></div>"
        for title, svg, caption in panels
    )
    return f'<figure><div class="pair">{inner}</div></figure>' + _tables(report)


def _pass_caption(report: RunReport, level: float) -> str:
    last = next(reversed(report.evals.values()))
    sizes = ""
    if last.problems and last.samples_per_problem:
        sizes = f" ({plural(last.problems, 'held-out problem')}, {plural(last.samples_per_problem, 'answer')} each)"
    return (
        f"<b>pass@1</b>: the share of answers that are right, each problem answered several times{sizes}. The line "
        f"through a marker is its {100 * level:g}% interval: how far the score could move had other problems of the "
        "same kind been drawn. Scores whose lines overlap widely should not be told apart."
    )


def _vote_caption(scaling: ScalingResult) -> str:
    text = (
        "<b>Budget</b>, the number at a marker: answers (traces) per problem. Up and to the left is better: more right "
        "answers for fewer tokens."
    )
    if scaling.method == "deepconf":
        text += " DeepConf stops traces early that the model itself is unsure of."
    if any(score.simulated for entry in scaling.budgets for score in (entry.majority, entry.deepconf) if score):
        text += " Filled markers were run; hollow ones replay the recorded traces of the largest run."
    if scaling.deepconf.interval is not None:
        low, high = scaling.deepconf.interval
        text += (
            f" On other problems a single value could be {counted(round(50 * (high - low)), 'point')} higher or lower; "
            "the two methods answer the same ones, so their difference (at the top of this page) is known better than "
            "that. Majority's line is the one to beat: what the same tokens buy without any method."
        )
    if scaling.confidence.auroc is not None:
        text += (
            " Early stopping works as far as confidence tells right from wrong: here a right answer is the more "
            f"confident one in {percent(scaling.confidence.auroc)} of its pairs with a wrong one to the "
            "same problem (chance: 50%)."
        )
    return text


def _tables(report: RunReport) -> str:
    found = ""
    stages = [stage for stage in EVAL_STAGES if stage in report.evals]
    if stages:
        families = sorted({family for stage in stages for family in report.evals[stage].per_family})
        rows = [["<b>all problems</b>", *(_score(report.evals[stage]) for stage in stages)]]
        for family in families:
            scores = [report.evals[stage].per_family.get(family) for stage in stages]
            rows.append([esc(words(family)), *(_score(score) if score else NONE for score in scores)])
        head = ["pass@1", *(esc(report.titles[stage]) for stage in stages)]
        health = table(
            ["", "mean tokens an answer", "cut off at the limit", "no answer found", "not scored"],
            [
                [
                    esc(report.titles[stage]),
                    count(result.mean_tokens),
                    *(percent(v) for v in (result.truncated, result.no_answer, result.unscored)),
                ]
                for stage, result in report.evals.items()
            ],
            range(1, 5),
        )
        note = '<p class="small soft">Three faults that are not wrong reasoning, counted beside every score:</p>'
        found += details("The numbers, per family", table(head, rows) + note + health)
    if report.scaling:
        found += details("The numbers, per budget and voter", _scaling_tables(report.scaling))
    return found


def _score(score: EvalResult | FamilyScore) -> str:
    inside = f' <span class="soft">({percent_interval(score.interval)})</span>' if score.interval else ""
    return percent(score.pass_at_1) + inside


def _scaling_tables(scaling: ScalingResult) -> str:
    rows = []
    for entry in scaling.budgets:
        row = [str(entry.budget)]
        for score in (entry.majority, entry.deepconf):
            row += [percent(score.accuracy), count(score.tokens)] if score else [NONE, NONE]
        saved = 1 - entry.deepconf.tokens / entry.majority.tokens if entry.majority and entry.deepconf else None
        parts = (entry.saving.consensus, entry.saving.confidence) if entry.saving else (None, None)
        rows.append([*row, *map(percent, (saved, *parts))])
    head = [
        "traces",
        "majority right",
        "tokens",
        f"{scaling.label} right",
        "tokens",
        "saved",
        "by consensus",
        "by confidence",
    ]
    budgets = table(head, rows, range(8)) if rows else ""
    voters = sorted(scaling.voters.items(), key=lambda item: -item[1])
    if not voters:
        return budgets
    listed = table(["how the same traces are voted on", "right"], [[esc(words(k)), percent(v)] for k, v in voters], [1])
    return budgets + _methods(scaling) + _spending(scaling) + listed


def _methods(scaling: ScalingResult) -> str:
    """Other ways to spend the largest budget, beside majority and DeepConf; the fewest tokens first."""
    if not scaling.methods:
        return ""
    rows = [("majority", scaling.majority, None), (scaling.method, scaling.deepconf, scaling.paired)]
    rows += [(name, score, score.paired) for name, score in scaling.methods.items()]
    cells = []
    for name, score, paired in sorted(rows, key=lambda row: row[1].tokens):
        gap, inside = (paired.accuracy_difference, paired.accuracy_interval) if paired else (None, None)
        beside = f' <span class="soft">({percent_interval(inside, signed=True)})</span>' if inside else ""
        cells.append([esc(words(name)), percent(score.accuracy), points(gap) + beside, count(score.tokens)])
    head = [f"ways to spend {plural(scaling.budget, 'trace')}", "right", "against majority", "tokens"]
    return table(head, cells, (1, 2, 3))


def _spending(scaling: ScalingResult) -> str:
    """What became of the tokens at the largest budget."""
    both = (scaling.majority, scaling.deepconf)
    states = list(dict.fromkeys(state for score in both for state in score.tokens_by_state))
    rows = [
        [esc(words(state)), *(count(score.tokens_by_state.get(state, 0)) for score in both)]
        for state in states
        if any(score.tokens_by_state.get(state) for score in both)
    ]
    return (
        table([f"tokens of traces that, at {scaling.budget}", "majority", scaling.label], rows, (1, 2)) if rows else ""
    )


def learning_html(report: RunReport) -> str:
    found = ""
    if report.sft:
        found += _panels("SFT", _sft_panels(report), _sft_caption(report), 1 / 40)
    if report.rl:
        found += _panels("RL", _rl_panels(report), _rl_caption(report))
    return found


def _panels(stage: str, panels: Sequence[curves.Panel], caption: str, smoothing: float = curves.SMOOTHING) -> str:
    """Panels in which anything moves; what stayed the same is said in words."""
    there = [panel for panel in panels if panel.curves]
    drawn = [panel for panel in there if any(curve.varies for curve in panel.curves)]
    svgs = [f"<div>{to_svg(panel.plot(smoothing), f'{stage}: {panel.title} by step')}</div>" for panel in drawn]
    same = [
        f"{curve.label} {panel.say(curve.values[0])}" for panel in there if panel not in drawn for curve in panel.curves
    ]
    told = f"<p>The same at every step, so not drawn: {esc(listing(same))}.</p>" if same else ""
    grid = f'<div class="grid strip">{"".join(svgs)}</div>' if svgs else ""
    return f"<figure>{grid}<figcaption>{caption}{told}</figcaption></figure>" if there else ""


def _sft_panels(report: RunReport) -> list[curves.Panel]:
    drawn = (
        ("SFT loss", "nats per token", "loss"),
        ("SFT gradient norm", "before clipping", "grad_norm"),
        ("SFT learning rate", "per step", "learning_rate"),
    )
    panels = [
        curves.Panel(title, unit, _curves(report.sft, (title, key, "sft", "solid")), log=key != "learning_rate")
        for title, unit, key in drawn
    ]
    keys = list(dict.fromkeys(key for line in report.sft for key in line if key.startswith(_OF_PART)))
    parts = _curves(report.sft, *((key.removeprefix(_OF_PART), key, *curves.look(at)) for at, key in enumerate(keys)))
    panels.insert(1, curves.Panel("SFT loss by data", "nats per token", parts, log=True))
    return panels


def _curves(metrics: Metrics, *drawn: tuple[str, str, str, str]) -> list[curves.Curve]:
    """The curves (label, key, colour, dash) that have values."""
    found = [(label, colour, *series(metrics, key), dash) for label, key, colour, dash in drawn]
    return [curves.Curve(*one) for one in found if one[3]]


def _sft_caption(report: RunReport) -> str:
    _, speed = series(report.sft, "tokens_per_s")
    rate = f" at {plural(round(sum(speed) / len(speed)), 'token')} a second{_mfu(report.sft)}" if speed else ""
    learnt = total(report.sft, "tokens")
    seen = f", {plural(learnt, 'token')}" if learnt else ""
    return (
        f"<p><b>Supervised fine-tuning:</b> {plural(len(report.sft), 'step')}{seen}{rate}. The loss is the mean "
        "negative log-likelihood of the worked traces' answer tokens: how surprised the model is by correct "
        f"reasoning.{_skipped(report.sft)}</p>"
    )


def _mfu(metrics: Metrics) -> str:
    _, shares = series(metrics, "mfu")
    return f" ({percent(sum(shares) / len(shares))} of the cards' operations)" if shares else ""


def _skipped(metrics: Metrics) -> str:
    skipped = total(metrics, "skipped")
    return f" <b>{plural(skipped, 'step')} skipped</b>, since the gradient was not finite." if skipped else ""


def _rl_panels(report: RunReport) -> list[curves.Panel]:
    right = _curves(report.rl, ("correct", "accuracy", "rl", "solid"), ("well formed", "format", "sft", "dashed"))
    drawn = (
        ("Answer length", "tokens per rollout", "mean_tokens", False),
        ("Entropy", "nats per token", "entropy", False),
        ("Clip fraction", "share of tokens", "clip_fraction", True),
        ("TIS weight", "mean trainer/sampler ratio", "tis_mean", False),
        ("Mismatch", "nats per token", "mismatch_kl", False),
        ("Yield", "share of groups that teach", "yield", True),
        *((("Staleness", "steps", "staleness", False),) if any(series(report.rl, "staleness")[1]) else ()),
        ("Retired problems", "problems", "curriculum/retired", False),
    )
    rates = _curves(
        report.rl,
        ("9 of 10 below", "curriculum/p90", "sft", "dashed"),
        ("half below", "curriculum/p50", "rl", "solid"),
        ("1 of 10 below", "curriculum/p10", "base", "dotted"),
    )
    return [
        curves.Panel("Reward", "mean reward", _curves(report.rl, ("reward", "reward", "rl", "solid"))),
        curves.Panel("Right answers", "share of rollouts", right, share=True),
        *(
            curves.Panel(
                title,
                unit,
                _curves(report.rl, (title if title.startswith("TIS") else title.lower(), key, "rl", "solid")),
                share=share,
            )
            for title, unit, key, share in drawn
        ),
        curves.Panel("Pass rates of problems drawn", "share of rollouts", rates, share=True),
    ]


def whole_batches(report: RunReport) -> float | None:
    """About how many groups RL would have generated by whole batches until one is full, what is over thrown away, at
    each step's yield; None where it does not fill batches (`rl.backfill`)."""
    section = report.recipe["rl"]
    backfill = section.get("backfill", {})
    if backfill.get("mode") != "backfill":
        return None
    batches, share = 0, 1.0
    for line in report.rl:
        share = line.get("yield", share)  # a step that generated none had all from the cache
        batches += min(backfill["max_rounds"], math.ceil(1 / share)) if share > 0 else backfill["max_rounds"]
    return float(batches * section["batch_size"])


def _groups_saved(report: RunReport, made: float) -> str:
    whole = whole_batches(report)
    if not whole:
        return ""
    return (
        " Whole batches until one is full, with what is over thrown away, would have been about "
        f"{plural(whole, 'group')} at these yields: {percent(1 - made / whole)} are saved."
    )


def _rl_caption(report: RunReport) -> str:
    made, dropped, cached = (total(report.rl, f"groups_{what}") for what in ("generated", "dropped", "from_cache"))
    width = curves.window_for(len(report.rl))
    text = (
        f"<p><b>Reinforcement learning:</b> {plural(len(report.rl), 'step')}. Faint: each step. Strong: running mean "
        f"over {plural(width, 'step')}. "
        "Reward and right answers are on training problems, so they move with what each step drew. "
        "Entropy is how open the model's choice of the next token is. Clip fraction is how often GRPO held an update "
        "back. The TIS weight corrects sampler against trainer probabilities: 1 means they agree; "
        "the mismatch is how far they are apart.</p>"
    )
    if made:
        text += (
            f"<p>{plural(made, 'group')} of rollouts generated; {count(dropped)} dropped because all their answers "
            f"were equally good and teach nothing; {count(cached)} used from the cache of earlier surplus."
            f"{_groups_saved(report, made)}</p>"
        )
    if empty := series(report.rl, "groups")[1].count(0):
        text += f"<p><b>{plural(empty, 'step')} had no group that teaches anything</b> and changed nothing.</p>"
    text += f"<p>{skipped}</p>" if (skipped := _skipped(report.rl)) else ""
    if nonfinite := total(report.rl, "nonfinite"):
        text += (
            f"<p><b>{plural(nonfinite, 'token')} had a log-probability that was not finite</b> and were left out.</p>"
        )
    return text
