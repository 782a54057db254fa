"""The passes over the shards: what one task reads, does and writes. See the package's docstring for the order.

Every function here takes (work directory, shard), may run on any machine that sees the directory, and returns counts
as JSON. What a task needs besides its input is made once per process (`context.py`).
"""

from __future__ import annotations

import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Set
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from h1r.common.files import read_json
from h1r.common.progress import progress
from h1r.common.prose import counted
from h1r.config import CorpusSource, Recipe
from h1r.data.chat import encode_samples
from h1r.data.curate.context import context
from h1r.data.curate.drop_log import DropLog
from h1r.data.curate.generate import Generated
from h1r.data.curate.io.drawn import BadRow, draw_problems, drawn_sources
from h1r.data.curate.io.files import write_rows
from h1r.data.curate.io.items import ROW_BITS, Item, read_items, write_items
from h1r.data.curate.io.read import Reader, files_of
from h1r.data.curate.io.samples import READ_ROWS, SAMPLES, sample_row, write_packed
from h1r.data.curate.joins.database import lookup
from h1r.data.curate.joins.keys import band_keys, content, exact_keys, hash64, share_of
from h1r.data.curate.joins.merged import Moved, with_moved
from h1r.data.curate.label import labels_in
from h1r.data.curate.rules import classify, natural_language, steps
from h1r.data.curate.rules.decontaminate import Near, Overlaps
from h1r.data.curate.rules.difficulty import pass_rate_class
from h1r.data.curate.rules.filters import excerpt, num_chars
from h1r.records import Problem, Sample
from h1r.verify.controls import Tally

KEYS = pa.schema(
    [("ordinal", pa.int64()), ("id", pa.string()), ("question", pa.int64()), ("block", pa.int64()),
     ("answer", pa.int64())]
)  # fmt: skip
BANDS = pa.schema([("ordinal", pa.int64()), ("block", pa.int64()), ("band", pa.int32()), ("hash", pa.int64())])
TEXTS = pa.schema(
    [("ordinal", pa.int64()), ("block", pa.int64()), ("id", pa.string()), ("question", pa.string()),
     ("family", pa.string())]
)  # fmt: skip
NEAR_HELD_OUT = pa.schema(
    [("id", pa.string()), ("source", pa.string()), ("held_out", pa.string()), ("coverage", pa.float64()),
     ("kept_for", pa.string()), ("run", pa.string()), ("question", pa.string()), ("held_out_question", pa.string())]
)  # fmt: skip
LENGTHS = pa.schema([("family", pa.string()), ("length", pa.float64())])
FAMILY = pa.schema([("family", pa.string()), ("question", pa.string())])
SIZES = pa.schema([("name", pa.string()), ("domain", pa.string()), ("tokens", pa.int64()), ("place", pa.int64())])
TEXT_ROWS = 1024
"""Rows of a row group of `TEXTS`."""
PASS_RATE_BINS = 10


MOST_REASONS = 100
"""Different reasons to set a row aside that are counted for each file."""
MAX_TOKEN_CHARS = 32
"""Characters for each of `corpus.max_tokens` beyond which a sample is dropped without being encoded. Our choice."""
DRAWN = "drawn problems"
"""Stands for the path where problems are drawn from the sources that have a share."""


def input_files(recipe: Recipe) -> list[tuple[CorpusSource | None, str]]:
    """(source, path) of every input file that is read whole, in the order of the recipe; its place is the file's
    number. Before them, and without a source, what is drawn."""
    corpus = recipe.corpus
    found: list[tuple[CorpusSource | None, str]] = [(None, DRAWN)] if drawn_sources(corpus) else []
    for source in corpus.sources:
        if isinstance(source, CorpusSource) and source.share is None:
            found += [(source, path) for path in files_of(source, corpus.root)]
    return found


def _input_items(recipe: Recipe, number: int, bad: list[BadRow]) -> Iterator[Item]:
    """The items of an input file; `bad` gets its bad rows as they are met."""
    source, path = input_files(recipe)[number]
    if source is None:
        section = recipe.problems
        with progress("Problems", total=section.held_out + section.train + section.rl, unit="problem") as bar:
            drawn = draw_problems(section, recipe.corpus, bad, bar)
        for row, item in enumerate((*drawn.held_out, *drawn.train, *drawn.rl), 1):
            item.ordinal = (number << ROW_BITS) + row
            yield item
        return
    reader = Reader(source, path, number, recipe.corpus.max_question_chars)
    for item in reader.items():
        bad.extend((source.name, line) for line in reader.bad)
        reader.bad.clear()
        yield item
    bad.extend((source.name, line) for line in reader.bad)


def read(work: Path, file: str) -> dict[str, Any]:
    """A whole input file -> read/FILE-SHARD.parquet. Shards that an earlier attempt finished are not written again."""
    recipe = context(work).recipe
    number = int(file)
    bad: list[BadRow] = []
    drop_log = DropLog(("read", "record"))
    families: Counter[str] = Counter()
    sources: Counter[str] = Counter()
    shards: list[str] = []
    reasons: dict[str, list[int]] = {}

    def told() -> int:
        for source, line in bad:
            if (why := line.why[:200]) in reasons or len(reasons) < MOST_REASONS:
                reasons.setdefault(why, [0, line.line])[0] += 1
            who = ((number << ROW_BITS) + line.line, f"{Path(line.path).name}:{line.line}", source)
            drop_log.drop_row("read", who, "malformed row", f"{line.why}: {line.text}")
        count = len(bad)
        bad.clear()
        return count

    items = _input_items(recipe, number, bad)
    while taken := list(itertools.islice(items, recipe.corpus.shard_records)):
        shard = f"{number:04d}-{len(shards):06d}"
        target = work / "read" / f"{shard}.parquet"
        if not target.exists():
            write_items(target, taken)
        families.update(item.problem.family for item in taken)
        sources.update(item.source for item in taken)
        shards.append(shard)
        drop_log.take("read", len(taken) + told())
    drop_log.take("read", told())
    drop_log.write(work / "drops" / f"read-{number:04d}.parquet")
    return {
        "steps": drop_log.counts(),
        "shards": shards,
        "items": sources.total(),
        "bad": reasons,
        "sources": dict(sorted(sources.items())),
        "families": dict(sorted(families.items())),
    }


def sound(work: Path, shard: str) -> dict[str, Any]:
    """read -> sound: normalised, with references that verify and controls that do not; the keys; and questions to read
    the boilerplate from."""
    ctx = context(work)
    languages = ctx.recipe.curate.languages
    classifiers = ctx.recipe.curate.classifiers
    drop_log = DropLog(
        *steps.SOUND,
        *[(natural_language.STEP, "problem")] * bool(languages),
        *[(classify.step_of(one), "problem") for one in classifiers],
    )
    sizes = read_json(work / "families.json")
    keys: list[tuple[Any, ...]] = []
    questions: list[tuple[str, str]] = []
    sources: Counter[str] = Counter()

    def noted(items: Iterable[Item]) -> Iterator[Item]:
        for item in items:
            problem = item.problem
            sources[item.source] += 1
            if item.use == steps.HELD_OUT:
                yield item
                continue
            keys.append((item.ordinal, problem.id, *exact_keys(problem), hash64(problem.answer)))
            wanted = ctx.recipe.corpus.templates_from / sizes[problem.family]
            if wanted >= 1 or share_of("template", problem.id) < wanted:
                questions.append((problem.family, problem.question))
            yield item

    tally = Tally()
    items = steps.normalise(read_items(work / "read" / f"{shard}.parquet"), drop_log)
    if languages:
        items = natural_language.in_languages(items, drop_log, languages)
    for one in classifiers:
        items = classify.classified(items, drop_log, one, ctx.recipe.corpus.root)
    items = steps.references(items, drop_log, ctx.verify, ctx.sampled_families)
    items = steps.controlled(items, drop_log, ctx.verify, ctx.recipe.controls, tally, ctx.sampled_families)
    write_items(work / "sound" / f"{shard}.parquet", noted(items))
    write_rows(work / "keys" / f"{shard}.parquet", KEYS, keys)
    write_rows(work / "questions" / f"{shard}.parquet", FAMILY, questions)
    drop_log.write(work / "drops" / f"sound-{shard}.parquet")
    return {"steps": drop_log.counts(), "sources": dict(sources), "controls": tally.to_json()}


def distinct(work: Path, shard: str) -> dict[str, Any]:
    """sound -> distinct: nothing of the benchmarks, no copies; MinHash bands of what may have a near duplicate.

    Decontamination comes first, so that it reports the overlaps of a source also where another source has them too.
    """
    ctx = context(work)
    drop_log = DropLog(*steps.DISTINCT)
    first, last = _range(work, shard)
    suspects = lookup(work / "suspects.parquet", first, last)
    overlaps: dict[str, Overlaps] = defaultdict(lambda: Overlaps(ctx.held_out))
    compared: list[tuple[int, Problem]] = []
    near: list[tuple[Any, ...]] = []
    moved = Moved(_trusted(ctx.recipe))

    def is_near(item: Item, found: Near, twin: Problem) -> None:
        texts = (excerpt(text) for text in (found.run, item.problem.question, twin.question))
        near.append((item.problem.id, item.source, twin.id, round(found.coverage, 4), found.why, *texts))

    def noted(items: Iterable[Item]) -> Iterator[Item]:
        for item in items:
            if item.ordinal in suspects:
                compared.append((item.ordinal, item.problem))
            yield item

    items = steps.of_accepted_families(read_items(work / "sound" / f"{shard}.parquet"), drop_log, ctx.refused_families)
    items = steps.assigned(items, ctx.recipe.corpus)
    items = steps.decontaminated(items, drop_log, overlaps, is_near)
    items = steps.without(items, drop_log, steps.CONFLICTS, lookup(work / "conflicts.parquet", first, last))
    items = noted(steps.merged(items, drop_log, lookup(work / "exact.parquet", first, last), moved.take))
    write_items(work / "distinct" / f"{shard}.parquet", items)
    write_compared(work, shard, compared, ctx.templates, ctx.recipe.curate.near_duplicate_content)
    moved.write(work, shard)
    write_rows(work / "near_held_out" / f"{shard}.parquet", NEAR_HELD_OUT, near)
    drop_log.write(work / "drops" / f"distinct-{shard}.parquet")
    counts = {name: found.counts() for name, found in sorted(overlaps.items())}
    return {"steps": drop_log.counts(), "overlaps": counts, "near_held_out": len(near)}


def write_compared(
    work: Path,
    name: str,
    problems: Iterable[tuple[int, Problem]],
    templates: Mapping[str, Set[str]],
    content_threshold: float,
) -> None:
    """Writes texts/NAME.parquet and then bands/NAME.parquet of (ordinal, problem), but for what is all template. The
    second says that both are there: after a kill in between both are written again.

    Rows are in the order of blocks, and row groups small, so that the joins read a range of blocks without the rest.
    """
    found = [
        (exact_keys(problem)[1], ordinal, problem, rest)
        for ordinal, problem in problems
        if (rest := content(problem.question, templates.get(problem.family, frozenset()))) is not None
    ]
    found.sort(key=lambda one: one[:2])
    keys = band_keys([rest for *_, rest in found], content_threshold)
    write_rows(work / "texts" / f"{name}.parquet", TEXTS, (
        (ordinal, block, problem.id, problem.question, problem.family) for block, ordinal, problem, _ in found
    ), batch=TEXT_ROWS)  # fmt: skip
    write_rows(work / "bands" / f"{name}.parquet", BANDS, (
        (ordinal, block, band, key)
        for (block, ordinal, *_), hashes in zip(found, keys, strict=True) for band, key in enumerate(hashes)
    ))  # fmt: skip


def fresh(work: Path, shard: str) -> Iterator[Item]:
    """The items of `distinct` without near duplicates and with the traces of their copies, nothing written down."""
    return _fresh(work, shard, DropLog(*steps.NEAR))


def _fresh(work: Path, shard: str, drop_log: DropLog) -> Iterator[Item]:
    first, last = _range(work, shard)
    items = read_items(work / "distinct" / f"{shard}.parquet")
    items = steps.without(items, drop_log, "near duplicates", lookup(work / "near.parquet", first, last))
    return with_moved(items, work, first, last)


def _trusted(recipe: Recipe) -> frozenset[str]:
    """The sources whose recorded rewards count."""
    return frozenset(one.name for one in recipe.corpus.sources if isinstance(one, CorpusSource) and one.trust_rewards)


def traced(work: Path, shard: str) -> dict[str, Any]:
    """distinct (with the traces made for it) -> traced: SFT problems with good traces; rl: the RL pool."""
    ctx = context(work)
    recipe, corpus = ctx.recipe, ctx.recipe.corpus
    drop_log = DropLog(*steps.NEAR, *steps.RL, *steps.sifted_steps(recipe.curate))
    pool: list[Item] = []
    lengths: list[tuple[str, float]] = []
    rates: dict[str, list[int]] = defaultdict(lambda: [0] * (PASS_RATE_BINS + 1))
    classes: dict[str, Counter[str]] = defaultdict(Counter)
    solved: dict[str, Counter[str]] = defaultdict(Counter)

    def rated(items: Iterable[Item]) -> Iterator[Item]:
        for item in items:
            if item.pass_rate is not None:
                rates[item.source][min(int(item.pass_rate * PASS_RATE_BINS), PASS_RATE_BINS)] += 1
                found = pass_rate_class(item.pass_rate, recipe.curate.easy_share, recipe.curate.hard_share)
                classes[item.source][found] += 1
            if (decision := steps.rl_decision(item, corpus, recipe.rl_pool)) is not None:
                solved[item.source][f"{decision.reason}|{'kept' if decision.keep else 'dropped'}"] += 1
            yield item

    def measured(items: Iterable[Item]) -> Iterator[Item]:
        for item in items:
            lengths.append((item.problem.family, mean_chars(item)))
            yield item

    items = Generated(work / "generated" / f"{shard}.jsonl").added_to(_fresh(work, shard, drop_log))
    worked = steps.with_solutions(items, recipe.curate.traces_per_problem, recipe.problems.seed)
    items = rated(steps.verified(worked, ctx.verify, _trusted(recipe)))
    items = steps.for_rl(items, drop_log, corpus, recipe.rl_pool, pool.append)
    items = measured(steps.sifted(items, drop_log, recipe.curate, corpus.traces.keep_wrong_if_hard))
    write_items(work / "traced" / f"{shard}.parquet", items)
    write_items(work / "rl" / f"{shard}.parquet", pool)
    write_rows(work / "lengths" / f"{shard}.parquet", LENGTHS, lengths)
    drop_log.write(work / "drops" / f"traced-{shard}.parquet")
    return {
        "steps": drop_log.counts(),
        "rl": dict(Counter(item.source for item in pool)),
        "pass_rates": dict(sorted(rates.items())),
        "classes": {name: dict(sorted(found.items())) for name, found in sorted(classes.items())},
        "rl_rule": {name: dict(sorted(found.items())) for name, found in sorted(solved.items())},
    }


def mean_chars(item: Item) -> float:
    """Mean characters of the answer turns of a problem, reasoning and answer: the length that classes go by."""
    total = sum(len(trace.answer.thinking or "") + len(trace.answer.content) for trace in item.traces)
    return total / len(item.traces)


def num_chars_written(sample: Sample) -> int:
    """Characters that a chat template writes of a conversation, at least: thinking of earlier turns may go."""
    return sum(len(turn.content) for turn in sample.messages) + len(sample.messages[-1].thinking or "")


def weighed(work: Path, shard: str) -> dict[str, Any]:
    """traced -> samples: a conversation a row, with class, weight, token ids and loss mask."""
    ctx = context(work)
    recipe = ctx.recipe
    drop_log = DropLog(*steps.WEIGHED)
    cuts = read_json(work / "length_classes.json")
    sizes: list[tuple[Any, ...]] = []
    classes: Counter[str] = Counter()
    families: dict[str, Counter[str]] = defaultdict(Counter)
    weights = {"hard": recipe.curate.hard_weight, "medium": 1.0, "easy": recipe.curate.easy_weight}
    labels = labels_in(work / "difficulty" / f"{shard}.jsonl")

    def rows() -> Iterator[tuple[Any, ...]]:
        for item in read_items(work / "traced" / f"{shard}.parquet"):
            easy, hard = cuts.get(item.problem.family, (-1.0, 1e308))
            length = mean_chars(item)
            found = labels.get(item.problem.id) or (
                "hard" if length >= hard else "easy" if length <= easy else "medium"
            )
            if item.pass_rate is not None:
                found = pass_rate_class(item.pass_rate, recipe.curate.easy_share, recipe.curate.hard_share)
            samples = [
                steps.sample_of(item, trace, number, recipe.curate.loss) for number, trace in enumerate(item.traces)
            ]
            # What cannot fit is not encoded: ids cost a hundred times the memory of their text.
            limit = recipe.corpus.max_tokens_by.get(item.domain, recipe.corpus.max_tokens)
            fitting = [num_chars_written(sample) <= MAX_TOKEN_CHARS * limit for sample in samples]
            encoded = iter(encode_samples(ctx.tokenizer, itertools.compress(samples, fitting)))
            for number, (sample, fits) in enumerate(zip(samples, fitting, strict=True)):
                name = f"{item.problem.id}#{number}"
                one = next(encoded) if fits else None
                drop_log.take("difficulty")
                if not weights[found]:
                    drop_log.drop("difficulty", item, "easy, and easy weighs 0", item.problem.question, name)
                    continue
                drop_log.take("over-long in tokens")
                if one is None or len(one.token_ids) > limit:
                    size = (
                        f"{counted(len(one.token_ids), 'token')}"
                        if one
                        else f"{counted(num_chars_written(sample), 'character')}"
                    )
                    text = f"{size}: {item.problem.question}"
                    drop_log.drop("over-long in tokens", item, "too many tokens", text, name)
                    continue
                sample.difficulty_class, sample.weight = found, weights[found]  # type: ignore[assignment]
                classes[f"{item.source}|{item.domain}|{found}"] += 1
                families[item.problem.family].update(samples=1, chars=num_chars(sample))
                place = hash64("mixture", str(recipe.corpus.seed), name)
                sizes.append((name, item.domain, len(one.token_ids), place))
                yield sample_row(name, item.domain, place, sample, one)

    write_rows(work / "samples" / f"{shard}.parquet", SAMPLES, rows(), batch=READ_ROWS)
    write_rows(work / "sample_sizes" / f"{shard}.parquet", SIZES, sizes)
    drop_log.write(work / "drops" / f"weighed-{shard}.parquet")
    return {
        "steps": drop_log.counts(),
        "classes": dict(sorted(classes.items())),
        "families": {name: dict(found) for name, found in sorted(families.items())},
    }


def packed(work: Path, shard: str) -> dict[str, Any]:
    """samples -> packed: the samples of the mixture as JSONL, and as rows of tokens with loss spans."""
    ctx = context(work)
    cutoffs = {name: row["cutoff"] for name, row in json.loads((work / "mixture.json").read_text()).items()}
    seq_len = ctx.recipe.corpus.pack_tokens or ctx.recipe.sft.seq_len
    return write_packed(work, shard, cutoffs, seq_len)


def _range(work: Path, shard: str) -> tuple[int, int]:
    """The first and the last ordinal of a shard as it was read."""
    metadata = pq.read_metadata(work / "read" / f"{shard}.parquet")
    groups = [metadata.row_group(number).column(0).statistics for number in range(metadata.num_row_groups)]
    return min(group.min for group in groups), max(group.max for group in groups)
