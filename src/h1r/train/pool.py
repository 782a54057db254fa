"""The RL pool: which problems the SFT model sometimes solves (arXiv 2601.02346, section 3.1, Figure 9).

curate/problems_rl.jsonl, or the file of rl.problems
-> references -> what rules can grade, where asked -> negative controls -> 8 rollouts each -> verdicts -> keep or drop
-> rl_pool/pool.jsonl
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from h1r.common.files import write_json
from h1r.common.hub import version_of
from h1r.common.progress import note, progress
from h1r.common.prose import counted
from h1r.config import ControlsSection, Recipe
from h1r.data.curate.rules.difficulty import Rollouts, select_for_rl
from h1r.data.curate.rules.filters import Dropped, excerpt
from h1r.engine.protocol import Engine, SamplingParams
from h1r.errors import UserError
from h1r.records import Problem, Trace, read_jsonl, write_jsonl
from h1r.rollout.pipeline import RolloutPipeline
from h1r.run.directory import Run
from h1r.train.cluster.handles import open_cluster, open_engines
from h1r.train.fleet import open_start
from h1r.train.pool_rollouts import PoolRollouts
from h1r.train.problems import check_ids, read_problems
from h1r.train.start import curated, rl_start
from h1r.verify import Backend, judge_words, open_backend, with_max_tests
from h1r.verify.controls import examine_sampled
from h1r.verify.controls.answers import lacks_reference
from h1r.verify.controls.report import family_rows
from h1r.verify.gradable import why_ungradable

_CURATED = "problems_rl.jsonl"


def build_pool(recipe: Recipe, run: Run) -> dict[str, Any]:
    """Measures pass rates with the model that RL starts from and writes rl_pool/{pool.jsonl, dropped.jsonl,
    summary.json, rollouts.jsonl}. Rollouts are graded while others are generated, and a stopped pool goes on. With
    `cluster.backend = "ray"` engines of the cluster sample, which draw what one draws.
    `UserError` for a file of problems that cannot be read, two problems with one id, and where none is left."""
    source, tokenizer = rl_start(recipe, run)
    given, without = _candidates(recipe, run)
    with (
        run.timed("rl_pool", add=False),
        ExitStack() as stack,
    ):
        apart = recipe.cluster.backend == "ray" and recipe.engine.kind != "server"
        cluster = stack.enter_context(open_cluster(recipe)) if apart else None
        pool = stack.enter_context(open_backend(recipe.verify, format_checks=False))
        section = recipe.rl_pool
        reasons = {one.id: why for one in given if (why := why_ungradable(one))}
        problems, ungradable = _gradable(given, reasons, section.only_gradable)
        tested = [
            with_max_tests(problem, recipe.rl.max_tests, recipe.seed, recipe.rl.partial_credit) for problem in problems
        ]
        refused, controls = _refused(tested, pool, recipe.controls)
        taken = len(problems)
        if refused or without:
            note(f"RL pool: {counted(len(without), 'problem')} without a reference answer and {len(refused)} "
                 f"that negative "
                 "controls refuse are left out; rl_pool/dropped.jsonl names them")  # fmt: skip
        out = {one.id for one in refused}
        problems = [problem for problem in problems if problem.id not in out]
        tested = [problem for problem in tested if problem.id not in out]
        if not problems:
            why = next((one.reason for one in (*refused, *ungradable, *without)), "there was none")
            raise UserError(f"no RL problem is left ({why}); see the table of `h1r curate` and mend [problems]")
        stage = run.stage("rl_pool")
        table = [_row("reference answers", len(given) + len(without), without)] if without else []
        table += [_row("gradable by rules", len(given), ungradable)] if section.only_gradable else []
        table.append(_row("negative controls", taken, refused))
        left_out = [*without, *ungradable, *refused]
        counts = {"count": len(reasons), "of": len(given), "reasons": dict(Counter(reasons.values()).most_common())}
        common = {"controls": controls, "ungradable": counts}
        if not section.rollouts:
            write_jsonl(stage / "pool.jsonl", problems)
            write_jsonl(stage / "dropped.jsonl", left_out)
            summary: dict[str, Any] = {"table": table, **common, "pass_rate_histogram": []}
            write_json(stage / "summary.json", summary)
            return summary
        opened = open_start(recipe, source, tokenizer) if cluster is None else open_engines(cluster, recipe, run)
        engine: Engine = stack.enter_context(opened)
        pipeline = RolloutPipeline(
            engine, tokenizer, pool.verify_many, section=recipe.rollout, environment=recipe.environment
        )
        params = SamplingParams(
            n=section.rollouts,
            temperature=section.temperature,
            top_p=section.top_p,
            max_tokens=section.max_tokens or recipe.rl.max_tokens,
            seed=recipe.seed,
        )
        of = _settings(recipe, source, params, problems)
        known = stack.enter_context(closing(PoolRollouts(stage / "rollouts.jsonl", of)))
        rollouts = _rollouts(pipeline, problems, tested, params, known)
        kept, dropped = select_for_rl(problems, rollouts, section)
        solved = Counter(one.solved for one in rollouts.values())
        write_jsonl(stage / "pool.jsonl", kept)
        write_jsonl(stage / "dropped.jsonl", [*left_out, *dropped])
        summary = {
            "table": [*table, _row("pass rate", len(problems), dropped)],
            **common,
            "pass_rate_histogram": [solved.get(k, 0) for k in range(section.rollouts + 1)],
        }
        write_json(stage / "summary.json", summary)
    return summary


def _settings(
    recipe: Recipe, source: str | Path, params: SamplingParams, problems: Sequence[Problem]
) -> dict[str, Any]:
    """What rollouts depend on beside their problem."""
    words = judge_words(problems, recipe.judge.reply, recipe.verify.judge_on)
    narrow = [] if recipe.engine.weights == "auto" else [recipe.engine.weights]
    return {
        "model": version_of(source) or str(source),
        "params": dataclasses.asdict(params),
        "chat": recipe.chat.model_dump(),
        "environment": recipe.environment.model_dump(),
        "engine": [recipe.engine.kind, recipe.engine.dtype, *narrow],
        "judge": [*recipe.judge.decides(recipe.verify.judge_on), *([words] if words else [])],
    }


def _rollouts(
    pipeline: RolloutPipeline,
    problems: Sequence[Problem],
    tested: Sequence[Problem],
    params: SamplingParams,
    known: PoolRollouts,
) -> dict[str, Rollouts]:
    """What the rollouts of each problem came to, by its id; `tested` are the problems with the tests that they run."""
    found = {problem.id: known.known(test) for problem, test in zip(problems, tested, strict=True)}
    missing = [test for problem, test in zip(problems, tested, strict=True) if found[problem.id] is None]
    if len(missing) < len(problems):
        note(f"{len(problems) - len(missing)} of {len(problems)} problems have their rollouts from an earlier attempt")
    with progress("RL pool", total=len(problems) * params.n, unit="rollout") as bar:
        bar.start_at((len(problems) - len(missing)) * params.n)

        def on_trace(trace: Trace) -> None:
            # Of a trace only what is graded is kept: a pool of long rollouts would not fit into memory otherwise.
            trace.token_ids, trace.logprobs, trace.sampling_logprobs, trace.confidences = [], [], [], []
            bar.advance(1)

        for index, graded in pipeline.graded_by_problem(missing, params, on_trace) if missing else ():
            found[missing[index].id] = known.add(missing[index], graded)
    return {name: rollouts for name, rollouts in found.items() if rollouts is not None}


def _candidates(recipe: Recipe, run: Run) -> tuple[list[Problem], list[Dropped]]:
    """The problems of `rl.problems`, or of the run's curation, that can be graded, and those that cannot."""
    path = recipe.rl.problems
    found = read_problems(path) if path else list(read_jsonl(curated(recipe, run, _CURATED), Problem))
    check_ids(found, path or _CURATED)
    missing = [problem for problem in found if lacks_reference(problem)]
    gone = {problem.id for problem in missing}
    dropped = [Dropped(one.id, "reference answers", "no reference answer", excerpt(one.question)) for one in missing]
    return [problem for problem in found if problem.id not in gone], dropped


def _gradable(
    problems: Sequence[Problem], reasons: Mapping[str, str], only: bool
) -> tuple[list[Problem], list[Dropped]]:
    """The problems, and those left out since no rule can grade them, by `reasons`, {id: why}; all are kept where `only`
    is false, and how many there are is said."""
    if reasons:
        done = "left out" if only else "kept; rl_pool.only_gradable = true leaves them out"
        first, why = next(iter(reasons.items()))
        note(
            f"RL pool: {len(reasons)} of {counted(len(problems), 'problem')} "
            f"({100 * len(reasons) / len(problems):.1f}%) cannot be graded by rules, such as {first} ({why}): {done}"
        )
    if not only:
        return list(problems), []
    dropped = [
        Dropped(one.id, "gradable by rules", reasons[one.id], excerpt(one.question))
        for one in problems
        if one.id in reasons
    ]
    return [problem for problem in problems if problem.id not in reasons], dropped


def _refused(
    problems: Sequence[Problem], pool: Backend, section: ControlsSection
) -> tuple[list[Dropped], list[dict[str, Any]]]:
    """The problems that pay an answer which solves nothing under the tests that RL runs, and rows by family."""
    if not section.enabled:
        return [], []
    found = examine_sampled(problems, pool.verify_many, section, references=True)
    pairs = zip(problems, found.refusals, strict=True)
    refused = [Dropped(one.id, "negative controls", why.reason, excerpt(why.detail)) for one, why in pairs if why]
    return refused, family_rows(found.tally, section)


def _row(step: str, taken: int, dropped: Sequence[Dropped]) -> dict[str, Any]:
    reasons = Counter(one.reason for one in dropped)
    return {
        "step": step,
        "unit": "problem",
        "in": taken,
        "out": taken - len(dropped),
        "reasons": dict(reasons.most_common()),
    }
