"""The summary of a corpus curation, from what the tasks counted.

table          rows {step, unit, in, out, reasons}
by_source      {step: {reason: {source: records}}}
sources        {source: {domain, use, rows, sound}}
near_held_out  the questions nearest to a held-out one that stay, as rows of near_held_out.jsonl; num_near_held_out all
contamination  {"sft", "rl": {benchmark: counts}}, and contamination_by_source {source: {benchmark: counts}}
pass_rates     {source: problems in each tenth of the pass rate, those always solved last}
problem_classes {source: {easy, medium, hard}}  by pass rate, before the split into SFT and RL
rl_rule        {source: {reason: [kept, dropped]}}  what the 8-rollout rule says of every problem with a pass rate
rl_pool        {source: problems}
classes        {easy, medium, hard} of the samples, sample_classes {source: ...}, weights {class: weight}
mixture        {domain: {samples, tokens, kept_samples, kept_tokens, sample_share, token_share, wanted_share}}
lengths        {domain: samples in each bin}, length_bins upper ends in tokens
packed         {rows, tokens, seq_len, filled}
families       {family: {samples, mean_chars}}  before the mixture, of the largest
problems       {held_out, train, rl}
teacher        {problems, prompt_tokens, completion_tokens, without: {reason: problems}, cost, currency}, or null
controls       rows by family: what its negative controls earned (`verify/controls/report.py`)
"""

from __future__ import annotations

import heapq
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from h1r.common.files import read_json
from h1r.config import Recipe
from h1r.data.curate.drop_log import add_up
from h1r.data.curate.io.samples import LENGTH_BINS
from h1r.data.curate.rules.decontaminate import report
from h1r.records import Problem, read_jsonl
from h1r.verify.controls import Tally
from h1r.verify.controls.report import family_rows

MOST_FAMILIES = 200
"""Families that the summary counts."""
MOST_NEAR = 20
"""Questions near a held-out one that the page shows."""
Results = Mapping[str, Sequence[dict[str, Any]]]


def table(results: Results) -> list[dict[str, Any]]:
    """The steps of all passes that have run, in order."""
    return [row for found in results.values() for row in add_up(result["steps"] for result in found)]


def controls(work: Path, sound: Sequence[dict[str, Any]]) -> Tally:
    """What the controls of the families earned: in the shards, and in the samples of generated families."""
    tally = Tally.from_json(read_json(work / "sampled.json")["controls"])
    for result in sound:
        tally.add(Tally.from_json(result["controls"]))
    return tally


def dropped(work: Path, results: Results, shards: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Every record dropped, pass by pass, in order."""
    for name, found in results.items():
        names = [f"{number:04d}" for number in range(len(found))] if name == "read" else shards
        for shard in names:
            with pq.ParquetFile(work / "drops" / f"{name}-{shard}.parquet") as file:
                for batch in file.iter_batches():
                    for row in batch.to_pylist():
                        del row["ordinal"]
                        details = row.pop("details")
                        yield {**row, **json.loads(details)} if details else row


def near_held_out(work: Path, shards: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The questions that are near a held-out one and stay, in order (`rules/decontaminate.py`)."""
    for shard in shards:
        with pq.ParquetFile(work / "near_held_out" / f"{shard}.parquet") as file:
            for batch in file.iter_batches():
                yield from batch.to_pylist()


def summary(recipe: Recipe, work: Path, results: Results) -> dict[str, Any]:
    """The summary (module docstring). Nothing in it depends on where or in how many processes it was made."""
    rows = table(results)
    shards = [shard for result in results["read"] for shard in result["shards"]]
    held_out = list(read_jsonl(work / "held_out.jsonl", Problem))
    by_use: dict[str, list[dict[str, Any]]] = {"sft": [], "rl": []}
    by_source: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for result in results["distinct"]:
        for name, counts in result["overlaps"].items():
            source, use = name.rsplit("|", 1)
            by_use[use].append(counts)
            by_source[source].append(counts)

    mixture = {name: {key: value for key, value in found.items() if key != "cutoff"}
               for name, found in read_json(work / "mixture.json").items()}  # fmt: skip
    samples = sum(found["kept_samples"] for found in mixture.values())
    tokens = sum(found["kept_tokens"] for found in mixture.values())
    shares = recipe.corpus.mixture.shares
    for name, found in mixture.items():
        found["wanted_share"] = round(shares.get(name, 0.0) / sum(shares.values()), 4) if shares else None
        found["sample_share"] = round(found["kept_samples"] / samples, 4) if samples else 0.0
        found["token_share"] = round(found["kept_tokens"] / tokens, 4) if tokens else 0.0

    sample_classes: dict[str, Counter[str]] = defaultdict(Counter)
    for name, count in _total(results["weighed"], "classes").items():
        source, _, kind = name.split("|")
        sample_classes[source][kind] += count
    seq_len = recipe.corpus.pack_tokens or recipe.sft.seq_len
    packed_rows = sum(result["rows"] for result in results["packed"])
    packed_tokens = sum(result["packed_tokens"] for result in results["packed"])
    rl_pool = _total(results["traced"], "rl")
    return {
        "table": [{key: value for key, value in row.items() if key != "by_source"} for row in rows],
        "by_source": {row["step"]: row["by_source"] for row in rows if row["by_source"]},
        "examples": _examples(work, results, recipe.corpus.examples),
        "near_held_out": heapq.nlargest(MOST_NEAR, near_held_out(work, shards), key=lambda row: row["coverage"]),
        **({"difficulty_labels": read_json(work / "labelled.json")} if (work / "labelled.json").exists() else {}),
        "num_near_held_out": sum(result["near_held_out"] for result in results["distinct"]),
        "sources": _sources(recipe, results),
        "contamination": {use: report(held_out, found) for use, found in by_use.items()},
        "contamination_by_source": {name: report(held_out, found) for name, found in sorted(by_source.items())},
        "pass_rates": _nested(results["traced"], "pass_rates"),
        "problem_classes": _nested(results["traced"], "classes"),
        "rl_rule": {name: _kept_and_dropped(found) for name, found in _nested(results["traced"], "rl_rule").items()},
        "rl_pool": rl_pool,
        "classes": dict(sorted(sum(sample_classes.values(), Counter()).items())),
        "sample_classes": {name: dict(sorted(found.items())) for name, found in sorted(sample_classes.items())},
        "weights": {"hard": recipe.curate.hard_weight, "medium": 1.0, "easy": recipe.curate.easy_weight},
        "mixture": mixture,
        "lengths": _nested(results["packed"], "lengths"),
        "length_bins": list(LENGTH_BINS),
        "packed": {
            "rows": packed_rows,
            "tokens": packed_tokens,
            "seq_len": seq_len,
            "filled": round(packed_tokens / (packed_rows * seq_len), 4) if packed_rows else 0.0,
        },
        "teacher": read_json(done) if (done := work / "generated" / "done.json").exists() else None,
        "controls": family_rows(controls(work, results["sound"]), recipe.controls),
        "families": _families(results["weighed"]),
        "problems": {"held_out": len(held_out), "train": _train_problems(work, results), "rl": sum(rl_pool.values())},
        "rejected_lines": sum(row["in"] - row["out"] for row in rows if row["step"] == "read"),
    }


def _sources(recipe: Recipe, results: Results) -> dict[str, dict[str, Any]]:
    rows = _total(results["read"], "sources")
    sound = _total(results["sound"], "sources")
    return {
        source.name: {
            "domain": source.domain, "use": "drawn" if source.share is not None else source.use,
            "records": rows.get(source.name, 0), "sound": sound.get(source.name, 0),
        }
        for source in recipe.corpus.sources
    }  # fmt: skip


def _families(weighed: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Samples and mean characters of the answer turn, of the `MOST_FAMILIES` families with most samples."""
    found = _nested(weighed, "families")
    most = sorted(sorted(found), key=lambda name: -found[name]["samples"])[:MOST_FAMILIES]
    return {
        name: {"samples": found[name]["samples"], "mean_chars": round(found[name]["chars"] / found[name]["samples"], 1)}
        for name in sorted(most)
    }


def _train_problems(work: Path, results: Results) -> int:
    shards = [shard for result in results["read"] for shard in result["shards"]]
    return sum(int(pq.read_metadata(work / "traced" / f"{shard}.parquet").num_rows) for shard in shards)


def _examples(work: Path, results: Results, most: int) -> list[dict[str, str]]:
    """The first `most` dropped records of each reason."""
    shards = [shard for result in results["read"] for shard in result["shards"]]
    seen: Counter[tuple[str, str]] = Counter()
    found = []
    for row in dropped(work, results, shards):
        key = (row["step"], row["reason"])
        seen[key] += 1
        if seen[key] <= most:
            found.append(row)
    return found


def _total(results: Sequence[dict[str, Any]], key: str) -> dict[str, int]:
    return dict(sorted(sum((Counter(result[key]) for result in results), Counter()).items()))


def _nested(results: Sequence[dict[str, Any]], key: str) -> dict[str, Any]:
    """{name: counts} added up over tasks; counts are objects or lists of equal length."""
    found: dict[str, Any] = {}
    for result in results:
        for name, counts in result[key].items():
            if isinstance(counts, list):
                found[name] = [a + b for a, b in zip(found.get(name, [0] * len(counts)), counts, strict=True)]
            else:
                found.setdefault(name, Counter()).update(counts)
    return {name: counts if isinstance(counts, list) else dict(sorted(counts.items()))
            for name, counts in sorted(found.items())}  # fmt: skip


def _kept_and_dropped(found: dict[str, int]) -> dict[str, list[int]]:
    reasons: dict[str, list[int]] = {}
    for name, count in found.items():
        reason, fate = name.rsplit("|", 1)
        reasons.setdefault(reason, [0, 0])[fate == "dropped"] += count
    return reasons
