"""Writes docs/guide/curation-real.md: the curation of recipes/curation-real.toml, each count taken from the data.

    H1R_DATA=DIR python docs/guide/curation_real.py [--run DIR] [--check]

Runs `h1r curate` on the recipe (or goes on with a run), reads its summary, and adds what only a second look can say:
overlaps by a plain rule of its own, to see that none is missed; how much of a benchmark question an n-gram overlap
holds, to explain those that the plain rule does not find; and the 8-rollout rule on the recorded rollouts, which are of
benchmark problems and therefore leave the corpus before that rule.
"""

from __future__ import annotations

import argparse
import difflib
import re
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from h1r.common.files import read_json
from h1r.config import CorpusBenchmark, Recipe, load_recipe
from h1r.data.curate.io.items import Item
from h1r.data.curate.io.read import Reader, files_of
from h1r.data.curate.plan import curate
from h1r.data.curate.rules import steps
from h1r.data.curate.rules.dedup import words
from h1r.data.curate.rules.filters import excerpt
from h1r.run.directory import Run

RECIPE = Path(__file__).parents[2] / "recipes" / "curation-real.toml"
PAGE = Path(__file__).with_name("curation-real.md")
NGRAM = 13
PARTS = ("90 % and more", "50 to 90 %", "less than 50 %", "none: a short question, or the same but for signs of layout")
GONE = frozenset(("reference answers", steps.CONTROLS, steps.FAMILIES, "decontamination"))
"""The steps after which no question of a benchmark may be left."""
KNOWN = {
    ("deepscaler", "math500"): 5, ("deepscaler", "math_test"): 50, ("deepscaler", "comp_math_24_25"): 34,
    ("aime_1983_2023", "math500"): 6, ("math_train", "math_test"): 10, ("gsm8k_train", "gsm8k_test"): 0,
}  # fmt: skip
"""Distinct questions of a source that were known, before, to be a benchmark's by normalised text."""


def plain(text: str) -> str:
    """Letters and digits only: a rule that shares nothing with the pipeline's."""
    return re.sub(r"[^a-z0-9]", "", text.lower())


def items_of(section: CorpusBenchmark, recipe: Recipe) -> Iterator[Item]:
    for number, path in enumerate(files_of(section, recipe.corpus.root)):
        yield from Reader(section, path, number).items()


def plain_overlaps(
    recipe: Recipe, dropped: dict[str, set[str]]
) -> tuple[dict[tuple[str, str], int], dict[str, tuple[str, str]]]:
    """Distinct questions of each source that are a benchmark's by `plain`; those not dropped, with the benchmark's."""
    held: dict[str, dict[str, str]] = defaultdict(dict)
    for benchmark in recipe.corpus.benchmarks:
        for item in items_of(benchmark, recipe):
            held[plain(item.problem.question)][benchmark.name] = item.problem.question
    found: dict[tuple[str, str], set[str]] = defaultdict(set)
    missed = {}
    for source in recipe.corpus.sources:
        for item in items_of(source, recipe):
            text = plain(item.problem.question)
            for name, other in held.get(text, {}).items():
                found[source.name, name].add(text)
                if item.problem.id not in dropped[source.name]:
                    missed[text] = (item.problem.question, other)
    return {key: len(texts) for key, texts in found.items()}, missed


def shared_parts(recipe: Recipe, dropped: dict[str, set[str]]) -> tuple[Counter[str], Counter[str]]:
    """Of the distinct questions that were dropped without being a benchmark's by `plain`: how much of one they hold, in
    runs of 13 words; and the runs that most of them share."""
    index: dict[tuple[str, ...], set[int]] = defaultdict(set)
    texts: list[list[str]] = []
    whole = set()
    for benchmark in recipe.corpus.benchmarks:
        for item in items_of(benchmark, recipe):
            whole.add(plain(item.problem.question))
            for text in typesettings(item.problem.question):
                for gram in grams(text):
                    index[gram].add(len(texts))
                texts.append(text)
    parts: Counter[str] = Counter()
    phrases: Counter[str] = Counter()
    seen = set()
    for source in recipe.corpus.sources:
        for item in items_of(source, recipe):
            key = plain(item.problem.question)
            if key in whole or key in seen or item.problem.id not in dropped[source.name]:
                continue
            seen.add(key)
            covered: dict[int, set[int]] = defaultdict(set)
            mine = {gram for text in typesettings(item.problem.question) for gram in grams(text)}
            for gram in mine:
                for held in index.get(gram, ()):
                    covered[held].update(places(texts[held], gram))
            if covered:
                most = max(len(spots) / len(texts[held]) for held, spots in covered.items())
                parts[PARTS[0] if most >= 0.9 else PARTS[1] if most >= 0.5 else PARTS[2]] += 1
                phrases.update(" ".join(gram) for gram in mine if gram in index)
            else:
                parts[PARTS[3]] += 1
    return parts, phrases


def typesettings(question: str) -> list[list[str]]:
    """The words of a question with LaTeX's commands, and without them."""
    return [words(question), words(re.sub(r"\\[A-Za-z]+", " ", question))]


def grams(text: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """The runs of 13 words."""
    return (tuple(text[at : at + NGRAM]) for at in range(len(text) - NGRAM + 1))


def places(text: Sequence[str], gram: tuple[str, ...]) -> Iterator[int]:
    """The words of a text that a run of words covers."""
    for at in range(len(text) - NGRAM + 1):
        if tuple(text[at : at + NGRAM]) == gram:
            yield from range(at, at + NGRAM)


def recorded_rollouts(recipe: Recipe) -> list[list[str]]:
    """The 8-rollout rule on each file of recorded rollouts: every problem's rollouts in groups of eight."""
    source = next(one for one in recipe.corpus.sources if one.name == "areal_rollouts")
    rows = []
    for number, path in enumerate(files_of(source, recipe.corpus.root)):
        size = recipe.rl_pool.rollouts
        verdicts: Counter[str] = Counter()
        problems, rollouts, changed = 0, 0, 0
        for item in steps.verified(Reader(source, path, number).items(), lambda *_: [], frozenset({source.name})):
            problems += 1
            rollouts += len(item.traces)
            groups = [item.traces[at : at + size] for at in range(0, len(item.traces) - size + 1, size)]
            decided = []
            for group in groups:
                item.traces = group
                decision = steps.rl_decision(item, recipe.corpus, recipe.rl_pool)
                assert decision is not None
                decided.append(decision.reason)
            verdicts.update(decided)
            changed += len(set(decided)) > 1
        name = Path(path).name.removesuffix(".jsonl.gz")
        told = (
            "; ".join(f"{count} {reason}" for reason, count in verdicts.most_common()) or "fewer than 8 rollouts each"
        )
        rows.append([name, problems, rollouts, told, changed])
    return rows


def dropped_by_source(stage: Path, at: frozenset[str]) -> dict[str, set[str]]:
    """Ids of what was dropped at one of these steps, by source."""
    import json

    found: dict[str, set[str]] = defaultdict(set)
    with open(stage / "dropped.jsonl", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            if row["step"] in at:
                found[row["source"]].add(row["id"])
    return found


def one_line(text: str) -> str:
    return " ".join(excerpt(text).split())


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [list(head), ["---"] * len(head), *([f"{c:,}" if isinstance(c, int) else str(c) for c in r] for r in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def page(recipe: Recipe, summary: dict[str, Any], stage: Path) -> str:
    """The Markdown of the page."""
    overlaps, missed = plain_overlaps(recipe, dropped_by_source(stage, GONE))
    parts, phrases = shared_parts(recipe, dropped_by_source(stage, frozenset(("decontamination",))))
    left = "".join(f"- `{one_line(ours)}` and `{one_line(theirs)}`\n" for ours, theirs in missed.values()) or "- none\n"
    by_source = summary["contamination_by_source"]
    step_rows = [
        [row["step"], row["unit"], row["in"], row["in"] - row["out"], row["out"],
         "; ".join(f"{count:,} {reason}" for reason, count in row["reasons"].items()).replace("|", "\\|")]
        for row in summary["table"]
    ]  # fmt: skip
    copies = summary["by_source"].get("exact duplicates", {})
    near = summary["by_source"].get("near duplicates", {})
    sources = [
        [name, found["use"], found["records"], found["records"] - found["sound"],
         sum(summary["by_source"].get("decontamination", {}).get(why, {}).get(name, 0)
             for why in summary["by_source"].get("decontamination", {})),
         sum(why.get(name, 0) for why in copies.values()), sum(why.get(name, 0) for why in near.values()),
         summary["rl_pool"].get(name, 0), sum(summary["sample_classes"].get(name, {}).values())]
        for name, found in summary["sources"].items()
    ]  # fmt: skip
    contamination = [
        [source, name, found["held_out"], found["held_out_hit"], found["exact"], found["ngram"] + found["contained"],
         overlaps.get((source, name), 0), KNOWN.get((source, name), "")]
        for source, benchmarks in by_source.items()
        for name, found in benchmarks.items()
        if found["total"] or (source, name) in KNOWN
    ]  # fmt: skip
    whole = [
        [use.upper(), name, found["held_out"], found["exact"], found["total"], f"{found['percent']:.4f}"]
        for use, benchmarks in summary["contamination"].items()
        for name, found in benchmarks.items()
    ]
    rates = [[name, *counts] for name, counts in summary["pass_rates"].items()]
    classes = [
        [name, *(found.get(kind, 0) for kind in ("hard", "medium", "easy"))]
        for name, found in summary["problem_classes"].items()
    ]
    rule = [
        [name, reason, kept, gone]
        for name, found in summary["rl_rule"].items()
        for reason, (kept, gone) in found.items()
    ]
    weights = summary["weights"]
    samples = [
        [name, *(found.get(kind, 0) for kind in ("hard", "medium", "easy")),
         f"{sum(weights[kind] * count for kind, count in found.items()):,.1f}"]
        for name, found in summary["sample_classes"].items()
    ]  # fmt: skip
    mixture = [
        [name, found["samples"], found["tokens"], found["kept_samples"], found["kept_tokens"],
         f"{100 * found['sample_share']:.1f}", f"{100 * found['token_share']:.1f}"]
        for name, found in summary["mixture"].items()
    ]  # fmt: skip
    shared_most = sorted(phrases.items(), key=lambda pair: (-pair[1], pair[0]))[:6]
    common = "".join(f'- {count:,} questions: "{phrase}"\n' for phrase, count in shared_most)
    return f"""# A curation of real data

<!-- written by docs/guide/curation_real.py; do not edit -->

What `h1r curate` makes of public data sets, from row to packed token. One command repeats every count of this page,
given the data: `H1R_DATA=DIR python docs/guide/curation_real.py`. The recipe is `recipes/curation-real.toml`; the
run's own `report.html` shows samples of what was dropped. [curation.md](curation.md) explains the steps.

## What went in and what came out

{table(["step", "unit", "in", "dropped", "out", "why"], step_rows)}
By source. Copies are counted where the earlier source has the record already: DeepScaleR's three files share
problems, and it contains most of AIME 1983-2023.

{
        table(
            [
                "source",
                "for",
                "records",
                "unsound",
                "overlap a benchmark",
                "copies",
                "near copies",
                "RL pool",
                "SFT samples",
            ],
            sources,
        )
    }
## Overlap with the benchmarks

As the paper reports it (section 4), by set; percentages are of all sound records of the set, copies included.

{table(["set", "benchmark", "problems", "same text", "overlap", "% overlap"], whole)}
By source. *Hit* is how many problems of the benchmark are overlapped; *same text* and *part* count records, copies
included, by their strongest evidence; *part* is most of the question, or all of it within a longer one. *Plain rule* is
the check: distinct questions equal to one of the benchmark in letters and digits alone, found by code that shares
nothing with the pipeline; *known* what was known of these data before (its way of counting is not recorded). What the
plain rule finds and the pipeline kept, to be judged by eye:

{left}
{table(["source", "benchmark", "problems", "hit", "same text", "part", "plain rule", "known"], contamination)}
**Why more overlap than equal text.** {
        sum(parts.values()):,} distinct questions are no benchmark's by the plain rule and were
dropped. By how much of the benchmark question runs of 13 words cover that both have:

{
        table(
            ["of the benchmark question", "distinct questions"],
            [[name, parts[name]] for name in PARTS if parts[name]],
        )
    }
90 % and more is reworded copies and other typesettings; less than 50 % is questions that are worded otherwise every few
words, which the rule finds since it counts runs of five words (`decontaminate.py`). They are dropped all the same: a
false alarm costs one problem of thousands, a leak costs the benchmark. The runs shared most:

{common}
## Difficulty

DeepScaleR publishes how many of 128 rollouts (Qwen2.5-Math-7B) failed. Problems by pass rate in tenths; the last column
is those always solved:

{table(["source", *(f"{10 * at}-{10 * at + 10} %" for at in range(10)), "100 %"], rates)}
Classes by pass rate (hard: at most {recipe.curate.hard_share:.0%} solve it; easy: at least
{1 - recipe.curate.easy_share:.0%}; our thresholds, the paper gives none):

{table(["source", "hard", "medium", "easy"], classes)}
## The 8-rollout rule

On the published pass rates, eight of the 128 rollouts drawn at random for each problem. Answers are not published, so a
problem that none of the eight solves cannot be told from a wrong label; {
        recipe.rl_pool.keep_unsolved_share:.0%} of them stay.

{table(["source", "verdict", "kept", "dropped"], rule)}
On recorded rollouts with their answers. These are AIME problems, so all leave the corpus above; here the rule is
applied to every group of eight rollouts, and the last column counts problems whose groups disagree. That is how much
eight rollouts alone leave to chance.

{table(["file", "problems", "rollouts", "verdicts by group of eight", "groups disagree"], recorded_rollouts(recipe))}
## SFT samples and weights

Weights: hard {weights["hard"]}, medium {weights["medium"]}, easy {
        weights["easy"]
    }. These sources publish no pass rates, so the
class goes by the length of the trace within its source.

{table(["source", "hard", "medium", "easy", "sum of weights"], samples)}
## Mixture

The largest subset whose samples have the shares of the recipe ({
        ", ".join(f"{k} {v}" for k, v in recipe.corpus.mixture.shares.items())
    }, the paper's without the domains that have no traces here). Worked solutions of
mathematics are short and real thinking is long, so shares of samples and tokens differ widely; `mixture.by = "tokens"`
takes the other side.

{table(["domain", "samples", "tokens", "kept samples", "kept tokens", "% samples", "% tokens"], mixture)}
{summary["packed"]["rows"]:,} packed rows of {summary["packed"]["seq_len"]:,} tokens, {
        100 * summary["packed"]["filled"]:.1f} % filled.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, help="run directory to use or to go on with; default: a temporary one")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when the page says something else")
    arguments = parser.parse_args()
    recipe = load_recipe(RECIPE)
    with tempfile.TemporaryDirectory() as scratch:
        run = Run.open(arguments.run or Path(scratch), recipe)
        curate(recipe, run)
        stage = run.path / "curate"
        text = page(recipe, read_json(stage / "summary.json"), stage)
    if arguments.check:
        before = PAGE.read_text(encoding="utf-8").splitlines(keepends=True)
        difference = "".join(difflib.unified_diff(before, text.splitlines(keepends=True), str(PAGE), "now", n=0))
        sys.exit(difference or None)
    PAGE.write_text(text, encoding="utf-8")
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
