"""The order of the passes and joins of a curation, and what it leaves behind.

run/curate/
  samples.jsonl  problems_rl.jsonl  held_out.jsonl  tokenizer/     what the later stages read
  packed/*.parquet     rows of tokens with loss spans (`samples.py`)
  dropped.jsonl        every record dropped: id, source, step, reason, excerpt
  near_held_out.jsonl  questions that stay and have part of a held-out one, with the condition that kept them
  summary.json  report.html
  work/                passes and joins; may be deleted once summary.json is there
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from rich.table import Table

from h1r.common.files import atomic, read_json, replace_directory, write_json
from h1r.common.progress import note, progress
from h1r.common.prose import counted, figures
from h1r.common.reading import clean
from h1r.config import ControlsSection, CorpusBenchmark, Recipe
from h1r.data.chat import IM_END, IM_START, end_of_turn, is_foreign, render
from h1r.data.control_tokens import add_control_tokens
from h1r.data.curate import context, passes, summarise
from h1r.data.curate.execute import Executor, TaskFunction
from h1r.data.curate.generate import (
    Endpoint,
    Generate,
    GenerateBatch,
    Generated,
    Spent,
    ask_again,
    generate_shard,
    in_batches,
    wants_traces,
)
from h1r.data.curate.io.drawn import drawn_sources
from h1r.data.curate.io.files import alone_in, write_rows
from h1r.data.curate.io.items import Item, read_items
from h1r.data.curate.io.read import Reader, files_of
from h1r.data.curate.joins.conflicts import write_conflicts
from h1r.data.curate.joins.database import Joins
from h1r.data.curate.joins.keys import exact_keys, share_of
from h1r.data.curate.label import label_problems, labels_in
from h1r.data.curate.page import write_page
from h1r.data.curate.rules.dedup import shingles, template
from h1r.data.curate.rules.steps import HELD_OUT
from h1r.errors import UserError
from h1r.records import Problem, read_jsonl, write_jsonl
from h1r.run.changes import NO_RESULT, among, differences
from h1r.run.directory import Run
from h1r.verify import open_backend, require
from h1r.verify.controls import Refusal, Tally, examine, reference_text, sample_of_families
from h1r.verify.controls.validate import Ask, family_key

AFTER_TRACES = ("traced", "rl", "lengths", "tokenizer", "weighed", "samples", "sample_sizes", "packed")
"""Directories of `work` that depend on the traces."""
TOLD = 5
"""Reasons to set rows of a file aside that the terminal shows."""
TOKENIZER_SAMPLES = 20_000
"""Conversations that a tokenizer is trained on, at most."""


def curate(
    recipe: Recipe, run: Run, engine: Callable[[], AbstractContextManager[GenerateBatch]] | None = None
) -> dict[str, Any]:
    """Runs what is not done yet and returns the summary (`summarise.py`); `engine` makes traces if the recipe says so.

    Raises `UserError` for missing files and columns, a source without a usable row, a curation that leaves nothing, and
    a second process that curates into the same run.
    """
    with run.timed("curate"):
        stage = run.stage("curate")
        finished = stage / "summary.json"
        if finished.exists():
            return dict(read_json(finished))
        curation = _Curation(recipe, stage, engine)
        try:
            with alone_in(stage), context.one_ray(recipe), Executor(recipe.corpus) as curation.executor:
                summary = curation.run()
        finally:
            context.close(curation.work)
        write_page(stage / "report.html", summary)
        write_json(finished, summary)
    return summary


def ask_teacher_again(stage: Path) -> int:
    """Has the next curation into `stage` ask for the problems that the teacher refused or failed at; returns how many.
    What was made of the traces is taken away, the traces stay. The stage may be finished."""
    work = stage / "work"
    count = ask_again(work / "generated")
    if count:
        (stage / "summary.json").unlink(missing_ok=True)
        (work / "generated" / "done.json").unlink(missing_ok=True)
        for name in AFTER_TRACES:
            shutil.rmtree(work / name, ignore_errors=True)
        files = [work / f"{name}.json" for name in ("length_classes", "mixture", "labelled")]
        for path in (*files, *(work / "drops").glob("*.parquet")):
            if path.suffix == ".json" or path.name.partition("-")[0] in AFTER_TRACES:
                path.unlink(missing_ok=True)
    return count


class _Curation:
    """One run over the work directory; every step looks first whether its output is there."""

    def __init__(
        self, recipe: Recipe, stage: Path, engine: Callable[[], AbstractContextManager[GenerateBatch]] | None
    ) -> None:
        self.recipe = recipe
        self.stage = stage
        self.work = (stage / "work").resolve()
        self._engine = engine
        self.executor = Executor(recipe.corpus)
        self.results: dict[str, list[dict[str, Any]]] = {}
        self.shards: list[str] = []

    def run(self) -> dict[str, Any]:
        recipe, section = self.recipe, self.recipe.corpus
        if not section.sources:
            raise UserError("corpus.sources is empty; add at least one [[corpus.sources]] table")
        for one in (*section.sources, *section.benchmarks):
            if isinstance(one, CorpusBenchmark) and one.verifier:
                require(one.verifier)
        files = passes.input_files(recipe)
        self._forget_another_recipe(self.work / "recipe.json", recipe.model_dump(mode="json"))
        self._once("benchmarks.jsonl", self._write_benchmarks)
        self._known_tokenizer()

        read = self._pass("read", [str(number) for number in range(len(files))], passes.read)
        self._check_read(files, read)
        self.shards = [shard for result in read for shard in result["shards"]]
        write_json(self.work / "families.json", dict(sum((Counter(r["families"]) for r in read), Counter())))
        self._once("sampled.json", self._examine_samples)
        self._pass("sound", self.shards, passes.sound)
        self._once("refused_families.json", self._write_refused_families)
        self._once("held_out.jsonl", self._write_held_out)
        self._once("templates.json", self._write_templates)
        with Joins(self.work, section.memory_mb) as joins:
            self._once("suspects.parquet", joins.exact)
            self._once("conflicts.parquet", self._write_conflicts)
            self._once("bands/held_out.parquet", self._write_held_out_bands)
            self._pass("distinct", self.shards, passes.distinct)
            thresholds = (recipe.curate.near_duplicate_threshold, recipe.curate.near_duplicate_content)
            meaning = (recipe.curate.embedder, recipe.curate.near_meaning)
            self._once("near.parquet", lambda: joins.near(self._templates(), *thresholds, *meaning))
            self._generate()
            self._pass("traced", self.shards, passes.traced)
            shares = (recipe.curate.easy_share, recipe.curate.hard_share)
            self._once("length_classes.json", lambda: write_json(
                self.work / "length_classes.json", joins.length_classes(*shares)))  # fmt: skip
            self._need_something()
            if recipe.curate.difficulty == "judge":
                self._once("labelled.json", self._label)
            self._once("tokenizer", self._train_tokenizer)
            self._pass("weighed", self.shards, passes.weighed)
            self._once("mixture.json", lambda: write_json(
                self.work / "mixture.json", joins.mixture(section.mixture.shares, section.mixture.by)))  # fmt: skip
        self._pass("packed", self.shards, passes.packed)
        self._assemble()
        return summarise.summary(recipe, self.work, self.results)

    def _forget_another_recipe(self, known: Path, recipe: dict[str, Any]) -> None:
        """An attempt that failed before it had read anything leaves nothing to one with another recipe."""
        changed = differences(read_json(known), recipe) if known.exists() else {}
        if not all(among(key, NO_RESULT) for key in changed):
            shutil.rmtree(self.work)
        write_json(known, recipe)

    def _pass(self, name: str, shards: Sequence[str], function: TaskFunction) -> list[dict[str, Any]]:
        self.results[name] = self.executor.run_pass(self.work, name, shards, function)
        return self.results[name]

    def _once(self, name: str, make: Callable[[], None]) -> None:
        if not (self.work / name).exists():
            make()

    def _check_read(self, files: Sequence[tuple[object, str]], read: Sequence[dict[str, Any]]) -> None:
        for (_, path), result in zip(files, read, strict=True):
            named = told_of(path, result)
            if not result["items"]:
                shutil.rmtree(self.work)
                why = f" ({named})" if named else ""
                raise UserError(f"{path}: no usable row{why}; mend the file or `columns`, and run it again")

    def _held_out(self) -> list[Problem]:
        return list(read_jsonl(self.work / "held_out.jsonl", Problem))

    def _drawn_shards(self) -> list[str]:
        """The shards of problems that were drawn: those of the first input file, if any."""
        return self.results["read"][0]["shards"] if drawn_sources(self.recipe.corpus) else []

    def _examine_samples(self) -> None:
        """References and controls of a sample of each generated family; those that pass stand for their family."""
        section = self.recipe.controls
        drawn = (item.problem for shard in self._drawn_shards() for item in read_items(
            self.work / "read" / f"{shard}.parquet"))  # fmt: skip
        sample = sample_of_families(drawn, section.generated) if section.generated else []
        families: set[str] = set()
        tally = Tally()
        if sample:
            with open_backend(self.recipe.verify, format_checks=False) as backend:
                refusals, tally = _examined(sample, backend.verify_many, section)
            failed = {family_key(problem) for problem, why in zip(sample, refusals, strict=True) if why}
            families = {family_key(problem) for problem in sample} - failed
        passed = Tally({key: tally[key] for key in sorted(families & tally.keys())})
        write_json(self.work / "sampled.json", {"families": sorted(families), "controls": passed.to_json()})

    def _write_held_out(self) -> None:
        """The problems of the benchmarks, and after them those that were drawn to be held out."""
        refused = read_json(self.work / "refused_families.json")
        drawn = (
            item.problem
            for shard in self._drawn_shards()
            for item in read_items(self.work / "sound" / f"{shard}.parquet")
            if item.use == HELD_OUT and family_key(item.problem) not in refused
        )
        held = [*read_jsonl(self.work / "benchmarks.jsonl", Problem), *drawn]
        write_jsonl(self.work / "held_out.jsonl", held)
        if not held and self._drawn_shards():
            raise self._nothing_left("held-out problem")

    def _write_benchmarks(self) -> None:
        """All problems of the benchmarks, one after the other. Their family is the benchmark's name."""
        problems: list[Problem] = []
        for section in self.recipe.corpus.benchmarks:
            before = len(problems)
            for path in files_of(section, self.recipe.corpus.root):
                reader = Reader(section, path, 0)
                for item in reader.items():
                    problem = item.problem
                    problem.question, problem.answer = clean(problem.question), clean(problem.answer)
                    problem.family = section.name
                    problems.append(problem)
                if reader.bad:
                    first = reader.bad[0]
                    raise UserError(
                        f"{path}, row {first.line}: {first.why}; a benchmark must be read whole, or it is not held out"
                    )
            if len(problems) == before:
                raise UserError(f"benchmark `{section.name}` has no problem; check its `path`")
        write_jsonl(self.work / "benchmarks.jsonl", problems)

    def _write_conflicts(self) -> None:
        """Questions with answers that differ."""
        keep = self.recipe.curate.conflicts
        found = write_conflicts(self.work, self.shards, context.context(self.work).verify, keep)
        if found:
            done = "none of their answers is used" if keep == "none" else "the first answer of each is used"
            note(f"answers to {counted(found, 'question')} differ; {done} (curate.conflicts)")

    def _write_held_out_bands(self) -> None:
        """Keys, bands and texts of held-out questions, with negative ordinals, beside those of the shards."""
        held = self._held_out()
        compared = ((number - len(held), problem) for number, problem in enumerate(held))
        threshold = self.recipe.curate.near_duplicate_content
        passes.write_compared(self.work, "held_out", compared, self._templates(), threshold)

    def _write_refused_families(self) -> None:
        """The families that their controls refuse. A copy of a dropped problem in another family is dropped with it."""
        tally = summarise.controls(self.work, self.results["sound"])
        refused = tally.refused_families(self.recipe.controls)
        write_json(self.work / "refused_families.json", {key: asdict(why) for key, why in refused.items()})

    def _write_templates(self) -> None:
        """The boilerplate of each family, from the questions that the shards put by, and the held-out keys."""
        held = self._held_out()
        rows = ((number - len(held), p.id, *exact_keys(p), 0) for number, p in enumerate(held))
        write_rows(self.work / "held_keys" / "held_out.parquet", passes.KEYS, rows)
        families: dict[str, list[str]] = {}
        for problem in held:
            families.setdefault(problem.family, []).append(problem.question)
        for shard in self.shards:
            for batch in pq.ParquetFile(self.work / "questions" / f"{shard}.parquet").iter_batches():
                for row in batch.to_pylist():
                    families.setdefault(row["family"], []).append(row["question"])
        share = self.recipe.curate.boilerplate_share
        found = {name: sorted(map(str, template(map(shingles, questions), share)))
                 for name, questions in sorted(families.items())}  # fmt: skip
        write_json(self.work / "templates.json", found)

    def _templates(self) -> dict[str, frozenset[str]]:
        return {name: frozenset(grams) for name, grams in read_json(self.work / "templates.json").items()}

    def _generate(self) -> None:
        """Makes the traces that are wanted, shard by shard, going on within a shard."""
        if self.recipe.corpus.traces.by == "source":
            return
        done = self.work / "generated" / "done.json"
        if done.exists():
            return
        wanted = sum(wants_traces(item) for shard in self.shards for item in passes.fresh(self.work, shard))
        paths = {shard: self.work / "generated" / f"{shard}.jsonl" for shard in self.shards}
        before = self._spent(paths.values())
        with self._teacher() as generate, progress("Traces", total=wanted, unit="problem") as bar:
            bar.start_at(before.problems)
            for shard, path in paths.items():
                others = self._spent([one for one in paths.values() if one != path])
                generate_shard(path, passes.fresh(self.work, shard), generate, bar, self._told(others))
        spent = self._spent(paths.values())
        section = self.recipe.corpus.traces
        write_json(done, {**spent.to_json(), "cost": spent.cost(section.price), "currency": section.currency})

    def _spent(self, paths: Iterable[Path]) -> Spent:
        return sum((Generated(path).spent for path in paths), Spent())

    def _told(self, others: Spent) -> Callable[[Spent], dict[str, Any]]:
        """What the bar shows: tokens, their cost where the recipe has a price, problems that have no traces."""
        section = self.recipe.corpus.traces

        def told(spent: Spent) -> dict[str, Any]:
            spent = others + spent
            shown = {"tokens": f"{spent.completion_tokens:,}"} if spent.completion_tokens else {}
            if (cost := spent.cost(section.price)) is not None:
                shown["cost"] = f"{figures(cost, 4)} {section.currency}"
            return shown | ({"without": str(spent.without.total())} if spent.without else {})

        return told

    @contextmanager
    def _teacher(self) -> Iterator[Generate]:
        section = self.recipe.corpus.traces
        if section.by == "endpoint":
            with Endpoint(section, self.recipe) as endpoint:
                yield endpoint
        elif self._engine is None:
            raise UserError("corpus.traces.by = `engine` works through `h1r curate`, which brings the engine")
        else:
            with self._engine() as generate:
                yield in_batches(generate, section.concurrency)

    def _known_tokenizer(self) -> None:
        known = self.recipe.tokenizer.path or self.recipe.model.checkpoint
        if known is None and self.recipe.corpus.traces.by == "engine":
            raise UserError("corpus.traces.by = `engine` needs a trained model; set model.checkpoint")
        if known is not None:
            self._once("tokenizer", lambda: self._copy_tokenizer(known))

    def _copy_tokenizer(self, known: str) -> None:
        from h1r.data.tokenizer import load_tokenizer  # 220 MB of imports, which most passes run better without

        self._save_tokenizer(load_tokenizer(known))

    def _train_tokenizer(self) -> None:
        """Trains the tokenizer on what will be taught, where the recipe names none."""
        from h1r.data.tokenizer import train_tokenizer  # as above

        total = sum(1 for shard in self.shards for _ in read_items(self.work / "traced" / f"{shard}.parquet"))

        def texts() -> Iterator[str]:
            for shard in self.shards:
                for item in read_items(self.work / "traced" / f"{shard}.parquet"):
                    if share_of("tokenizer", item.problem.id) * total < TOKENIZER_SAMPLES:
                        yield render(item.traces[0].messages, self.recipe.chat.system_prompt)

        self._save_tokenizer(train_tokenizer(texts(), self.recipe.tokenizer.vocab_size))

    def _save_tokenizer(self, tokenizer: Any) -> None:
        """With the template that samples are encoded by, and its markers."""
        from h1r.data.tokenizer import with_chat_format  # as above

        tokenizer = with_chat_format(tokenizer, self.recipe.chat)
        if not is_foreign(tokenizer):
            add_control_tokens(tokenizer, (IM_START, IM_END))
        end_of_turn(tokenizer)
        replace_directory(self.work / "tokenizer", tokenizer.save_pretrained)

    def _label(self) -> None:
        """Has the judge say how hard problems are whose pass rate nobody knows."""
        wanted = {
            shard: [
                item.problem for item in read_items(self.work / "traced" / f"{shard}.parquet") if item.pass_rate is None
            ]
            for shard in self.shards
        }
        found: Counter[str] = Counter()
        (self.work / "difficulty").mkdir(exist_ok=True)
        with progress("Difficulty", total=sum(map(len, wanted.values())), unit="problem") as bar:
            for shard, problems in wanted.items():
                path = self.work / "difficulty" / f"{shard}.jsonl"
                label_problems(path, problems, self.recipe.judge, bar)
                labels = labels_in(path)
                found.update(labels.get(problem.id, "none") for problem in problems)
        if found["none"]:
            note(f"no label came for {counted(found['none'], 'problem')}; their class is by length")
        write_json(self.work / "labelled.json", dict(sorted(found.items())))

    def _need_something(self) -> None:
        """Drawn problems must leave samples and RL problems; a corpus of files at least one of both."""
        rows = {
            name: sum(pq.read_metadata(self.work / name / f"{shard}.parquet").num_rows for shard in self.shards)
            for name in ("traced", "rl")
        }
        if not any(rows.values()):
            raise self._nothing_left("training sample and no RL problem")
        if self._drawn_shards() and not all(rows.values()):
            raise self._nothing_left("RL problem" if rows["traced"] else "training sample")

    def _nothing_left(self, what: str) -> UserError:
        """Names the step that dropped most; what was dropped is in the directory of the stage."""
        write_jsonl(self.stage / "dropped.jsonl", summarise.dropped(self.work, self.results, self.shards))
        row = max(summarise.table(self.results), key=lambda row: row["in"] - row["out"])
        reason = next(iter(row["reasons"]), "no reason")
        return UserError(
            f"curation left no {what}: step `{row['step']}` dropped most, {row['in'] - row['out']} of {row['in']} "
            f"({reason}); see {self.stage / 'dropped.jsonl'}, mend the recipe and delete {self.stage}"
        )

    def _assemble(self) -> None:
        """The files of the stage, from those of the shards, in their order."""
        with atomic(self.stage / "samples.jsonl") as partial, open(partial, "wb") as target:
            for shard in self.shards:
                with open(self.work / "packed" / f"{shard}.jsonl", "rb") as source:
                    shutil.copyfileobj(source, target)
        (self.stage / "packed").mkdir(exist_ok=True)
        for shard in self.shards:
            with atomic(self.stage / "packed" / f"{shard}.parquet") as partial:
                shutil.copyfile(self.work / "packed" / f"{shard}.parquet", partial)
        write_jsonl(self.stage / "problems_rl.jsonl", (item.problem for item in self._rl_items()))
        write_jsonl(self.stage / "held_out.jsonl", (p for p in self._held_out() if p.answer))
        write_jsonl(self.stage / "dropped.jsonl", summarise.dropped(self.work, self.results, self.shards))
        write_jsonl(self.stage / "near_held_out.jsonl", summarise.near_held_out(self.work, self.shards))
        replace_directory(
            self.stage / "tokenizer",
            lambda target: shutil.copytree(self.work / "tokenizer", target, dirs_exist_ok=True),
        )

    def _rl_items(self) -> Iterator[Item]:
        for shard in self.shards:
            yield from read_items(self.work / "rl" / f"{shard}.parquet")


def told_of(path: str | Path, result: dict[str, Any]) -> str:
    """Prints how many rows of a file were set aside and why, from what `passes.read` returned; returns the reasons."""
    reasons = sorted(result["bad"].items(), key=lambda pair: -pair[1][0])
    named = "; ".join(f"{count:,}: {why} (row {row:,} first)" for why, (count, row) in reasons[:TOLD])
    if named:
        more = f"; and {len(reasons) - TOLD} other reasons" if len(reasons) > TOLD else ""
        rows = counted(sum(count for _, (count, _) in reasons), "row")
        note(f"{path}: {rows} set aside; {named}{more}")
    return named


def _examined(
    problems: Sequence[Problem], ask: Ask, section: ControlsSection
) -> tuple[Sequence[Refusal | None], Tally]:
    """What is refused of a sample: by its references, and by its controls where these are enabled."""
    if section.enabled:
        found = examine(problems, ask, section, references=True)
        return found.refusals, found.tally
    verdicts = ask(problems, [reference_text(problem) for problem in problems])
    return [None if one.reward >= 1 else Refusal("reference answer does not verify", "") for one in verdicts], Tally()


def summary_table(summary: dict[str, Any]) -> Table:
    """The steps of a summary as a table for the terminal."""
    table = Table("step", "unit", title="Curation", title_justify="left")
    for heading in ("in", "out", "dropped"):
        table.add_column(heading, justify="right")
    table.add_column("why")
    for row in summary["table"]:
        why = "\n".join(f"{count:,} {reason}" for reason, count in row["reasons"].items())
        counts = (f"{count:,}" for count in (row["in"], row["out"], row["in"] - row["out"]))
        table.add_row(row["step"], row["unit"], *counts, why)
    return table
