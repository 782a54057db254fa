"""The numbers of a report.json as a table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.table import Table

from h1r.common.prose import counted, figures, listing
from h1r.config import Recipe
from h1r.evals.cost import MILLION, Cost, cost_of, money, name_at_api
from h1r.run.names import checkpoint_name, model_name


def result_table(report: Mapping[str, Any]) -> Table:
    """What each step gained: accuracy on held-out problems, and tokens. Stages that have not run are left out.

    Raises `KeyError` for a mapping that is no report.json.
    """
    table = Table("", "accuracy", "interval", "tokens", title=f"{report['name']} (seed {report['seed']})")
    start = "random weights" if report["checkpoint"] is None else checkpoint_name(report["checkpoint"])
    for stage, title in (("base", start), ("sft", "after SFT"), ("rl", "after RL")):
        if report["pass_at_1"][stage] is not None:
            table.add_row(
                f"pass@1 {title}",
                _percent(report["pass_at_1"][stage]),
                _interval(report["pass_at_1_interval"][stage]),
                _number(report["mean_tokens"][stage]),
            )
    if scaling := report["scaling"]:
        for key, method in (("majority", "majority"), ("deepconf", scaling.get("method", "deepconf"))):
            for entry in scaling.get("budgets") or [scaling]:
                if found := entry.get(key):
                    name = f"{method}, {counted(entry['budget'], 'trace')}"
                    table.add_row(name, _percent(found["accuracy"]), "", _number(found["tokens"]))
    table.caption = "\n".join(_gains(report)) or None
    return table


def _gains(report: Mapping[str, Any]) -> list[str]:
    """What RL added and what DeepConf, or another method, saved, each with what it is made of."""
    found = []
    if gain := report.get("rl_gain"):
        low, high = (100 * one for one in gain["interval"])
        found.append(
            f"RL changes pass@1 by {100 * gain['value']:+.1f} points ({low:+.1f} to {high:+.1f}, paired by problem)."
        )
    scaling = report["scaling"]
    if scaling and scaling["token_saving"] is not None:
        method = scaling.get("method", "deepconf").replace("deepconf", "DeepConf")
        told = (
            f"At {counted(scaling['budget'], 'trace')} {method} spends {_percent(scaling['token_saving'])} fewer tokens"
        )
        if split := scaling.get("saving"):
            told += f": {_percent(split['consensus'])} by consensus, {_percent(split['confidence'])} by confidence"
        found.append(told + ".")
    return found


@dataclass(frozen=True, slots=True)
class _Row:
    """A benchmark as tables show it. overlap: see `overlapping`."""

    name: str
    model: str
    found: Mapping[str, Any]
    unusable: int
    cost: str
    overlap: str


def benchmark_tables(
    results: Mapping[str, Mapping[str, Any]], recipe: Recipe, contamination: Mapping[str, Any] | None = None
) -> list[Table]:
    """Each benchmark of each model of `results`, which has stage names as its keys; what it cost where the recipe has
    the model's prices, and the training problems that overlap it by curation's `contamination`, {training set:
    {benchmark: overlap}}. Columns in which no row says anything are left out. Then what its answers come to by votes,
    where there are any."""
    return _tables([
        _Row(
            name, name_at_api(found) or model_name(stage.removeprefix("eval_"), recipe.model.checkpoint), found,
            len(found.get("unusable", [])), money(cost_of(found, recipe.engine.endpoint)),
            overlapping({use: known[name] for use, known in (contamination or {}).items() if name in known}),
        )
        for stage, result in results.items()
        for name, found in result.get("benchmarks", {}).items()
    ])  # fmt: skip


def reported_benchmarks(report: Mapping[str, Any]) -> list[Table]:
    """The same tables of what a report.json says."""
    return _tables([
        _Row(
            one["name"], one["model"], one, one["unusable"], money(Cost(**one["cost"]) if one["cost"] else None),
            overlapping(one["overlap"]),
        )
        for one in report["benchmarks"]
    ])  # fmt: skip


def overlapping(overlap: Mapping[str, Mapping[str, Any]] | None) -> str:
    """Training problems of all sets that overlap a benchmark, and so are in none; each is of one set. Empty where
    curation did not know it."""
    return f"{sum(one['total'] for one in overlap.values()):,}" if overlap else ""


def tokens_text(tokens: float | None) -> str:
    """`46`, `68,801`, and `1.23 M` from a million on, in three figures; empty for None."""
    if tokens is None:
        return ""
    return f"{tokens:,.0f}" if round(tokens) < MILLION else f"{figures(tokens / MILLION)} M"


def benchmark_line(name: str, found: Mapping[str, Any]) -> str:
    """A row of that table by itself, for while others are asked: score, interval, answers, tokens; shares of faults
    and prompts without enough room where there are any."""
    faults = {
        "cut off": found["truncated"],
        "no answer": found["no_answer"],
        "unscored": found["unscored"] + found["error"],
    }
    inside = "" if found["interval"] is None else f" ({_ends(found['interval'])})"
    said = [
        f"{name}: {_percent(found['pass_at_1'])}{inside}",
        f"{found['problems']} x {counted(found['samples_per_problem'], 'answer')}",
        *([] if found["mean_tokens"] is None else [f"mean tokens {_number(found['mean_tokens'])}"]),
        *(f"{_percent(share)} {fault}" for fault, share in faults.items() if share),
        *([room] if (room := room_text(found)) else []),
    ]
    return ", ".join(said)


def room_text(found: Mapping[str, Any]) -> str:
    """How many prompts of a result left less of the model's context than its answers were to have, or none of it; empty
    where all left enough."""
    room = found.get("room")
    if not room:
        return ""
    said = []
    if room["lowered"]:
        least = counted(room["least"], "token")
        said.append(f"{room['lowered']} left less room than max_tokens = {room['max_tokens']} ({least} at least)")
    if room["none"]:
        said.append(f"{room['none']} left no room for an answer, which no score has")
    return f"of {counted(found['problems'], 'prompt')} {' and '.join(said)}"


def _tables(rows: Sequence[_Row]) -> list[Table]:
    return [table for table in (_benchmark_table(rows), _votes_table(rows)) if table.row_count]


def _benchmark_table(rows: Sequence[_Row]) -> Table:
    head = (
        "benchmark", "model", "pass@1", "interval", "cons@n", "calibration error", "answers", "tokens", "cut off",
        "no answer", "unscored", "unusable", "cost", "dropped for it",
    )  # fmt: skip
    cells = [
        (
            row.name,
            row.model,
            _percent(row.found["pass_at_1"]),
            "" if row.found["interval"] is None else _ends(row.found["interval"]),
            "" if row.found.get("cons_at_n") is None else _percent(row.found["cons_at_n"]),
            "" if row.found.get("calibration_error") is None else _percent(row.found["calibration_error"]),
            f"{row.found['problems']} x {row.found['samples_per_problem']}",
            _number(row.found["mean_tokens"]),
            _share(row.found["truncated"]),
            _share(row.found["no_answer"]),
            _share(row.found["unscored"] + row.found["error"]),
            str(row.unusable or ""),
            row.cost,
            row.overlap,
        )
        for row in rows
    ]
    caption = (
        ["dropped for it: training problems that overlapped the benchmark"] if any(r.overlap for r in rows) else []
    )
    caption += [f"{row.name}, {room}" for row in rows if (room := room_text(row.found))]
    return _narrow(head, cells, caption)


def _votes_table(rows: Sequence[_Row]) -> Table:
    """Accuracy and tokens of votes, at each budget; majority of one trace is pass@1."""
    votes = [(row, of) for row in rows if (of := row.found.get("budgets"))]
    named = [(row, of, of["method"].replace("deepconf", "DeepConf")) for row, of in votes]
    methods = list(dict.fromkeys(method for *_, method in named))
    label = " or ".join(one for one in methods if one != "majority")
    head = ("benchmark", "model", "traces", "vote", "accuracy", "interval", "tokens")
    cells = [
        (row.name, row.model, str(one["budget"]), name, *_vote(score))
        for row, of, method in named
        for one in of["rows"]
        for name, score in (("majority", one["majority"]), (method, one["deepconf"]))
        if score is not None
    ]
    lacks = sorted({name for _, of in votes if of["method"] != "majority" for name in of["lacks"]})
    caption = [f"majority alone where answers carry no {listing(lacks)}, which {label} needs"] if lacks else []
    return _narrow(head, cells, caption)


def _vote(score: Mapping[str, Any]) -> tuple[str, str, str]:
    return _percent(score["accuracy"]), _ends(score["interval"]), tokens_text(score["tokens"])


def _narrow(head: Sequence[str], rows: Sequence[Sequence[str]], captions: Sequence[str]) -> Table:
    """Without columns in which no row says anything; the second one, the model, is said below where there is one."""
    one_model = len({row[1] for row in rows}) == 1
    said = [column for column in range(len(head)) if any(row[column] for row in rows)]
    said = [column for column in said if column != 1 or not one_model]
    captions = [*([f"model: {rows[0][1]}"] if one_model else []), *captions]
    table = Table(caption="\n".join(captions) or None, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in said:
        texts = [head[column], *((row[column] for row in rows) if column > 1 else ())]
        word = max(len(word) for text in texts for word in text.split())
        table.add_column(head[column], overflow="fold", min_width=word)  # on a narrow terminal no number is cut
    for row in rows:
        table.add_row(*(row[column] for column in said))
    return table


def _ends(interval: Sequence[float]) -> str:
    return " to ".join(f"{100 * end:.1f}" for end in interval)


def _share(share: float) -> str:
    """Nothing for none, so that a column of faults is there only where there are any."""
    return _percent(share) if share else ""


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def _interval(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f"{_percent(interval[0])} to {_percent(interval[1])}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"
