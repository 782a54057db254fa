"""The curation stage: problems in, training samples out, and a table of what was dropped and why.

    split -> reference answers -> negative controls -> exact duplicates -> decontamination -> near duplicates
          -> traces -> verifier -> trace rules -> weights

Rules of arXiv 2601.02346, sections 2 and 3.1; the pass-rate rule for RL problems needs a fine-tuned model and comes
later (`difficulty.select_for_rl`). Problems are sifted before traces are made of them, which costs least. Everything is
seeded by `problems.seed` and the problem's id, so a problem's traces do not depend on what else is in the data.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from h1r.common.files import replace_directory, write_json
from h1r.common.progress import progress
from h1r.config import ControlsSection, CurateSection, Recipe
from h1r.data.chat import render
from h1r.data.curate.io.generated import derive_seed
from h1r.data.curate.io.split import Splits, split_problems
from h1r.data.curate.rules.decontaminate import HeldOutIndex, decontaminate
from h1r.data.curate.rules.dedup import drop_exact_duplicates, drop_near_duplicates, drop_repeated_traces
from h1r.data.curate.rules.difficulty import weigh_samples
from h1r.data.curate.rules.filters import Candidate, DropLog, Dropped, apply_rule, excerpt, num_chars, trace_rules
from h1r.data.solvers import traces
from h1r.data.tokenizer import load_tokenizer, train_tokenizer
from h1r.errors import UserError
from h1r.records import BadLine, Message, Problem, Sample, Verdict, write_jsonl
from h1r.run.directory import Run
from h1r.verify import Backend, open_backend
from h1r.verify.controls import examine
from h1r.verify.controls.report import family_rows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from h1r.data.curate.generate import GenerateBatch

VERIFY_CHUNK = 256
"""Texts handed to the verifier at a time, so that progress shows."""


def curate(
    recipe: Recipe, run: Run, engine: Callable[[], AbstractContextManager[GenerateBatch]] | None = None
) -> dict[str, Any]:
    """Runs the stage and returns its summary.

    A recipe with `[[corpus.sources]]` goes the way of `corpus/plan.py`, which asks `engine` for traces if the recipe
    wants that. Else writes to `run.stage("curate")`:

        held_out.jsonl problems_train.jsonl problems_rl.jsonl   Problems; the second are those behind the samples
        samples.jsonl            Samples: a user turn and an assistant turn with its thinking
        dropped.jsonl            every record dropped: id, step, reason, excerpt
        rejected_lines.jsonl     input lines that could not be read, when there are any
        tokenizer/               trained on the samples, or a copy of `tokenizer.path`'s, or of the model checkpoint's
        summary.json             the summary, last

    Summary: `table` rows {step, unit, in, out, reasons}; `classes` samples per difficulty class; `families`
    {name: {samples, mean_chars}}; `controls` what the negative controls of each family earned; `contamination` {"sft"
    and "rl": {benchmark: counts}} (`decontaminate`); `problems` {held_out, train, rl}; `rejected_lines`. Raises
    `UserError` when nothing is left of the samples or of a set of problems; what was dropped is on disk also then.
    """
    if recipe.corpus.sources:
        from h1r.data.curate.plan import curate_corpus

        return curate_corpus(recipe, run, engine)
    with run.timed("curate", add=False):
        stage = run.stage("curate")
        (stage / "summary.json").unlink(missing_ok=True)
        drop_log = DropLog()
        bad: list[BadLine] = []
        try:
            summary = _curate(recipe, stage, drop_log, bad)
        finally:
            write_jsonl(stage / "dropped.jsonl", drop_log.dropped)
            _write_rejected(stage / "rejected_lines.jsonl", bad)
        write_json(stage / "summary.json", summary)
    return summary


def summary_table(summary: dict[str, Any]) -> Table:
    """The steps of a curation summary as a table for the terminal."""
    table = Table("step", "unit", title="Curation", title_justify="left")
    for heading in ("in", "out", "dropped"):
        table.add_column(heading, justify="right")
    table.add_column("why")
    for row in summary["table"]:
        why = "\n".join(f"{count:,} {reason}" for reason, count in row["reasons"].items())
        counts = (f"{count:,}" for count in (row["in"], row["out"], row["in"] - row["out"]))
        table.add_row(row["step"], row["unit"], *counts, why)
    return table


def _curate(recipe: Recipe, stage: Path, drop_log: DropLog, bad: list[BadLine]) -> dict[str, Any]:
    known = recipe.tokenizer.path or recipe.model.checkpoint
    tokenizer = load_tokenizer(known) if known else None
    section = recipe.problems
    with progress("Problems", total=section.held_out + section.train + section.rl, unit="problem") as bar:
        splits = split_problems(section, bad, bar)
    total = len(splits.held_out) + len(splits.train) + len(splits.rl)
    unread = [Dropped(f"{line.path}:{line.line}", "read", "malformed line", excerpt(line.text)) for line in bad]
    drop_log.record("read", "problem", total + len(bad), unread)

    with open_backend(recipe.verify, format_checks=False) as pool:
        splits = _sound(splits, pool, drop_log)
        splits, controls = _controlled(splits, pool, recipe.controls, drop_log)
        splits, contamination = _distinct(splits, recipe.curate, drop_log)
        _need(splits.held_out, "held-out problem", drop_log, stage)
        _need(splits.rl, "RL problem", drop_log, stage)
        write_jsonl(stage / "held_out.jsonl", splits.held_out)
        write_jsonl(stage / "problems_rl.jsonl", splits.rl)
        candidates = _candidates(splits.train, recipe, pool, drop_log)

    samples = _sift(candidates, recipe.curate, drop_log)
    _need(samples, "training sample", drop_log, stage)
    taught = {sample.problem_id for sample in samples}
    problems = [problem for problem in splits.train if problem.id in taught]
    _check_disjoint(problems, splits.rl)
    write_jsonl(stage / "problems_train.jsonl", problems)
    write_jsonl(stage / "samples.jsonl", samples)
    _write_tokenizer(tokenizer, recipe, samples, stage / "tokenizer")
    return {
        "table": drop_log.table,
        "classes": dict(sorted(Counter(sample.difficulty_class for sample in samples).items())),
        "families": _families(samples),
        "contamination": contamination,
        "controls": controls,
        "problems": {"held_out": len(splits.held_out), "train": len(problems), "rl": len(splits.rl)},
        "rejected_lines": len(bad),
    }


def _sound(splits: Splits, pool: Backend, drop_log: DropLog) -> Splits:
    """Without the problems whose reference answer does not score 1.0 under their own verifier."""
    problems = [*splits.held_out, *splits.train, *splits.rl]
    texts = [rf"\boxed{{{problem.answer}}}" for problem in problems]
    verdicts = _verify(pool, problems, texts, "Reference answers", "problem")
    dropped = []
    for problem, verdict in zip(problems, verdicts, strict=True):
        if verdict.reward < 1:
            why = f"{verdict.error}: " if verdict.error else ""
            reason = "reference answer does not verify"
            dropped.append(Dropped(problem.id, "reference answers", reason, excerpt(f"{why}{problem.answer}")))
    drop_log.record("reference answers", "problem", len(problems), dropped)
    out = {item.id for item in dropped}
    return Splits(*(_without(part, out) for part in (splits.held_out, splits.train, splits.rl)))


def _controlled(
    splits: Splits, pool: Backend, section: ControlsSection, drop_log: DropLog
) -> tuple[Splits, list[dict[str, Any]]]:
    """Without the problems that pay an answer which solves nothing, and what the controls of each family earned."""
    problems = [*splits.held_out, *splits.train, *splits.rl]
    if not section.enabled:
        return splits, []
    with progress("Negative controls", total=len(problems), unit="problem") as bar:
        found = examine(problems, pool.verify_many, section)
        bar.advance(len(problems))
    dropped = [
        Dropped(problem.id, "negative controls", why.reason, excerpt(why.detail))
        for problem, why in zip(problems, found.refusals, strict=True)
        if why
    ]
    drop_log.record("negative controls", "problem", len(problems), dropped)
    out = {item.id for item in dropped}
    splits = Splits(*(_without(part, out) for part in (splits.held_out, splits.train, splits.rl)))
    return splits, family_rows(found.tally, section)


def _distinct(splits: Splits, section: CurateSection, drop_log: DropLog) -> tuple[Splits, dict[str, Any]]:
    """Training and RL problems without duplicates, of each other and of held-out ones, and the overlap report.

    Of a training problem and its duplicate among the RL problems the first stays.
    """
    problems = [*splits.train, *splits.rl]
    unique, dropped = drop_exact_duplicates(problems)
    drop_log.record("exact duplicates", "problem", len(problems), dropped)

    for_rl = {problem.id for problem in splits.rl}
    index = HeldOutIndex(splits.held_out, section.ngram, section.boilerplate_share)
    train, dropped_train, report_sft = decontaminate([p for p in unique if p.id not in for_rl], index)
    rl, dropped_rl, report_rl = decontaminate([p for p in unique if p.id in for_rl], index)
    drop_log.record("decontamination", "problem", len(unique), [*dropped_train, *dropped_rl])

    clean = [*train, *rl]
    threshold, share = section.near_duplicate_threshold, section.boilerplate_share
    content = section.near_duplicate_content
    distinct, dropped = drop_near_duplicates(clean, threshold, share, splits.held_out, content)
    drop_log.record("near duplicates", "problem", len(clean), dropped)
    return (
        Splits(splits.held_out, [p for p in distinct if p.id not in for_rl], [p for p in distinct if p.id in for_rl]),
        {"sft": report_sft, "rl": report_rl},
    )


def _candidates(problems: Sequence[Problem], recipe: Recipe, pool: Backend, drop_log: DropLog) -> list[Candidate]:
    """Every problem's worked traces with their verdicts."""
    asked: list[Problem] = []
    answers: list[Message] = []
    numbers: list[int] = []
    dropped: list[Dropped] = []
    for problem in problems:
        rng = random.Random(derive_seed(recipe.problems.seed, "traces", problem.id))
        found = traces(problem, recipe.curate.traces_per_problem, rng)
        if not found:
            dropped.append(Dropped(problem.id, "worked traces", "no worked trace", excerpt(problem.question)))
        asked.extend([problem] * len(found))
        answers.extend(found)
        numbers.extend(range(len(found)))
    drop_log.record("worked traces", "problem", len(problems), dropped)
    texts = [f"<think>\n{answer.thinking or ''}\n</think>\n\n{answer.content}" for answer in answers]
    verdicts = _verify(pool, asked, texts, "Worked traces", "trace")
    return [
        Candidate(problem, _sample(problem, answer, number), verdict)
        for problem, answer, number, verdict in zip(asked, answers, numbers, verdicts, strict=True)
    ]


def _sample(problem: Problem, answer: Message, number: int) -> Sample:
    return Sample(
        problem_id=problem.id,
        messages=[Message(role="user", content=problem.question), answer],
        family=problem.family,
        category=problem.category,
        metadata={"trace": number},
    )


def _sift(candidates: list[Candidate], section: CurateSection, drop_log: DropLog) -> list[Sample]:
    """The samples that pass every rule for traces, weighted by difficulty."""
    for step, rule in trace_rules(section.max_chars):
        taken = len(candidates)
        candidates, dropped = apply_rule(candidates, step, rule)
        drop_log.record(step, "trace", taken, dropped)
    taken = len(candidates)
    candidates, dropped = drop_repeated_traces(candidates)
    drop_log.record("repeated traces", "trace", taken, dropped)

    pass_rates = {
        candidate.problem.id: float(candidate.problem.difficulty["pass_rate"])
        for candidate in candidates
        if isinstance(candidate.problem.difficulty.get("pass_rate"), int | float)
    }
    samples, dropped = weigh_samples([candidate.sample for candidate in candidates], pass_rates, section)
    drop_log.record("difficulty", "trace", len(candidates), dropped)
    return samples


def _verify(pool: Backend, problems: Sequence[Problem], texts: Sequence[str], name: str, unit: str) -> list[Verdict]:
    verdicts: list[Verdict] = []
    with progress(name, total=len(texts), unit=unit) as bar:
        for start in range(0, len(texts), VERIFY_CHUNK):
            part = slice(start, start + VERIFY_CHUNK)
            verdicts += pool.verify_many(problems[part], texts[part])
            bar.advance(len(verdicts) - start)
    return verdicts


def _without(problems: Iterable[Problem], out: set[str]) -> list[Problem]:
    return [problem for problem in problems if problem.id not in out]


def _check_disjoint(train: Iterable[Problem], rl: Iterable[Problem]) -> None:
    """RL problems must not be SFT problems (section 3.1); the split and the duplicate rules see to it."""
    if both := {problem.id for problem in train} & {problem.id for problem in rl}:
        raise ValueError(f"{len(both)} problems are in the SFT and the RL set, {min(both)} among them")


def _need(records: Sequence[Any], what: str, drop_log: DropLog, stage: Path) -> None:
    """Raises `UserError` naming the step that dropped most, when nothing is left."""
    if records:
        return
    row = drop_log.worst()
    reason = next(iter(row["reasons"]), "no reason")
    raise UserError(
        f"curation left no {what}: step `{row['step']}` dropped most, {row['in'] - row['out']} of {row['in']} "
        f"({reason}); see {stage / 'dropped.jsonl'} and mend [problems] or [curate] in the recipe"
    )


def _families(samples: Iterable[Sample]) -> dict[str, dict[str, float]]:
    """Samples and mean characters of the answer turn per family."""
    lengths: dict[str, list[int]] = defaultdict(list)
    for sample in samples:
        lengths[sample.family].append(num_chars(sample))
    return {
        family: {"samples": len(found), "mean_chars": round(sum(found) / len(found), 1)}
        for family, found in sorted(lengths.items())
    }


def _write_tokenizer(
    tokenizer: PreTrainedTokenizerFast | None, recipe: Recipe, samples: Sequence[Sample], path: Path
) -> None:
    """Saves the given tokenizer, or one trained on the samples as the model will see them; whole or not at all."""
    if tokenizer is None:
        texts = (render(sample.messages, recipe.chat.system_prompt) for sample in samples)
        tokenizer = train_tokenizer(texts, recipe.tokenizer.vocab_size)
    replace_directory(path, tokenizer.save_pretrained)


def _write_rejected(path: Path, bad: Sequence[BadLine]) -> None:
    if bad:
        write_jsonl(path, bad)
    else:
        path.unlink(missing_ok=True)
