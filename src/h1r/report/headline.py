"""The result of a run in plain words, and the same numbers as cards. No claim goes beyond its interval."""

from __future__ import annotations

from h1r.common.html import card, count, duration, esc, percent, percent_interval, plural, points, size
from h1r.common.prose import listing
from h1r.report.collect import RunReport
from h1r.report.paired import between
from h1r.report.shapes import Interval
from h1r.report.stored import ScalingResult


def headline_html(report: RunReport) -> str:
    """The opening paragraphs and cards; empty when nothing was measured."""
    paragraphs = "".join(
        f'<p class="lead">{text}</p>' for text in (training_sentence(report), scaling_sentence(report)) if text
    )
    cards = "".join(card(*one) for one in _cards(report))
    return paragraphs + (f'<div class="cards">{cards}</div>' if cards else "")


def training_sentence(report: RunReport) -> str:
    """How pass@1 moved from stage to stage; empty without an evaluation."""
    start = esc(report.titles["base"]) if report.checkpoint else "the untrained model"
    when = {"base": f"from {start}", "sft": "after supervised fine-tuning", "rl": "after reinforcement learning"}
    told = [f"<b>{percent(result.pass_at_1)}</b> {when[stage]}" for stage, result in report.evals.items()]
    if not told:
        return ""
    text = f"On problems it has never seen, the share of right answers is {listing(told)}."
    if "sft" in report.evals and "rl" in report.evals:
        before, after, gain = report.evals["sft"], report.evals["rl"], report.rl_gain
        text += f" RL changed it by {points(after.pass_at_1 - before.pass_at_1)}"
        if gain is None:
            text += ", though the two intervals overlap." if _overlap(before.interval, after.interval) else "."
        else:
            text += f", problem by problem (interval {between(gain.interval)}"
            text += ", too close to call)." if gain.interval[0] <= 0 <= gain.interval[1] else ")."
    return text


def scaling_sentence(report: RunReport) -> str:
    """DeepConf against majority at the same budget; empty without a scaling study."""
    scaling = report.scaling
    if scaling is None:
        return ""
    text = (
        f"With {plural(scaling.budget, 'answer')} to each problem and a vote, {scaling.label} gets "
        f"<b>{percent(scaling.deepconf.accuracy)}</b> right and plain majority {percent(scaling.majority.accuracy)}"
    )
    text += f" ({_difference(scaling)})."
    saving = scaling.token_saving
    if saving is not None:
        direction = "fewer tokens" if saving >= 0 else "more tokens"
        interval = scaling.paired.token_saving_interval
        text += f" {scaling.label} writes <b>{percent(abs(saving))} {direction}</b>"
        text += f" (interval of the saving: {percent_interval(interval)})." if interval else "."
    if split := scaling.saving:
        text += (
            f" Of majority's tokens it saves {percent(split.consensus)} by ending votes that are decided (consensus) "
            f"and {percent(split.confidence)} more by ending doubtful traces (confidence)."
        )
    text += _confidence(scaling)
    if cheaper := scaling.cheaper_majority:
        assert cheaper.majority is not None
        text += (
            f" <b>A plain majority of {cheaper.budget} is cheaper here</b>: {percent(cheaper.majority.accuracy)} right "
            f"for {plural(cheaper.majority.tokens, 'token')}."
        )
    return text


def _confidence(scaling: ScalingResult) -> str:
    """A warning where confidence does not tell right from wrong, or cannot be known to; else nothing."""
    found = scaling.confidence
    if found.auroc is None:
        return (
            " <b>Whether confidence tells right from wrong is not known here</b>: no problem has both a right and a "
            "wrong answer."
        )
    if found.tells:
        return ""
    inside = f", interval {percent_interval(found.auroc_interval)}" if found.auroc_interval else ""
    return (
        f" <b>Confidence does not tell right from wrong here</b>: a right answer is the more confident one in "
        f"{percent(found.auroc)} of its pairs with a wrong one (chance: 50%{inside}), so traces that are ended for "
        "doubt are not the wrong ones."
    )


def _difference(scaling: ScalingResult) -> str:
    paired = scaling.paired
    difference = paired.accuracy_difference
    if difference is None:
        difference = scaling.deepconf.accuracy - scaling.majority.accuracy
    text = f"difference {points(difference)}"
    if paired.accuracy_interval is not None:
        low, high = paired.accuracy_interval
        if low == high == 0:
            return f"{text}, problem by problem"
        text += f", interval {between(paired.accuracy_interval)}"
        if low <= 0 <= high:
            text += ", too close to call on this many problems"
    return text


def _overlap(left: Interval | None, right: Interval | None) -> bool:
    return left is not None and right is not None and left[0] <= right[1] and right[0] <= left[1]


def _cards(report: RunReport) -> list[tuple[str, str, str, str]]:
    """(what, number, what it means, class) of each card."""
    titles = {"base": esc(report.titles["base"]), "sft": "After SFT", "rl": "After RL"}
    cards = [
        (
            titles[stage],
            percent(result.pass_at_1),
            f"pass@1, {percent_interval(result.interval)}" if result.interval else "pass@1",
            stage,
        )
        for stage, result in report.evals.items()
    ]
    if gain := report.rl_gain:
        cards.append(("RL's gain", points(gain.value), f"paired by problem, {between(gain.interval)}", "rl"))
    if scaling := report.scaling:
        against = f"{plural(scaling.budget, 'trace')}; majority {percent(scaling.majority.accuracy)}"
        cards.append((f"{scaling.label} vote", percent(scaling.deepconf.accuracy), against, "deepconf"))
        used = f"{count(scaling.deepconf.tokens)} instead of {count(scaling.majority.tokens)}"
        cards.append(("Tokens saved", percent(scaling.token_saving), used, "deepconf"))
    if report.stages:
        cards.append(
            ("Time, all stages", duration(report.wall_seconds), f"peak memory {size(report.peak_rss_bytes)}", "")
        )
    return cards
