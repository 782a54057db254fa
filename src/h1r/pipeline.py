"""The stages of one run, in order, and which of them are finished.

    curate -> eval_base -> sft -> eval_sft -> pool -> rl -> eval_rl -> scaling

A finished stage leaves `runs/NAME/done/STAGE.json`, the summary it returned; an evaluation with answers that have no
verdict (the judge was down, the sandbox failed) is not finished. Rooms are imported when their stage
starts, so that the command line answers at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from h1r.common.files import locked, read_json, write_json
from h1r.common.progress import note
from h1r.common.prose import counted
from h1r.common.torch_ahead import begin_loading
from h1r.config import CorpusBenchmark, Recipe
from h1r.errors import UserError
from h1r.run.checkpoints import Checkpoints
from h1r.run.directory import Run
from h1r.run.listing import PLAN
from h1r.run.trackers.open import check_trackers, log_summary

Summary = dict[str, Any]


def _curate(recipe: Recipe, run: Run, resume: bool) -> Summary:
    from h1r.data.curate.plan import curate

    if recipe.corpus.traces.by != "engine":
        return curate(recipe, run)
    from h1r.train.teacher import engine_teacher

    return curate(recipe, run, lambda: engine_teacher(recipe))


def _evaluate(which: str) -> Callable[[Recipe, Run, bool], Summary]:
    def evaluate(recipe: Recipe, run: Run, resume: bool) -> Summary:
        from h1r.evals.stages import evaluate_stage

        summary = evaluate_stage(recipe, run, which)
        if not recipe.eval.delegated:
            return summary
        from h1r.delegate.inspect_tasks import run_tasks

        found, unfinished = run_tasks(recipe, run, which)
        unfinished += summary.get("unfinished", 0)
        summary["benchmarks"] = {**summary.get("benchmarks", {}), **found}
        return {**summary, "unfinished": unfinished} if unfinished else summary

    return evaluate


def _sft(recipe: Recipe, run: Run, resume: bool) -> Summary:
    from h1r.train.sft import sft

    return sft(recipe, run, resume=resume)


def _pool(recipe: Recipe, run: Run, resume: bool) -> Summary:
    from h1r.train.pool import build_pool

    return build_pool(recipe, run)


def _rl(recipe: Recipe, run: Run, resume: bool) -> Summary:
    from h1r.train.rl import rl

    return rl(recipe, run, resume=resume)


def _scaling(recipe: Recipe, run: Run, resume: bool) -> Summary:
    from h1r.evals.stages import scaling_stage

    return scaling_stage(recipe, run)


STAGES: dict[str, Callable[[Recipe, Run, bool], Summary]] = {
    "curate": _curate,
    "eval_base": _evaluate("base"),
    "sft": _sft,
    "eval_sft": _evaluate("sft"),
    "pool": _pool,
    "rl": _rl,
    "eval_rl": _evaluate("rl"),
    "scaling": _scaling,
}
TRAINING = ("sft", "rl")
"""Stages that leave checkpoints and can go on from them."""


def finished(run: Run, stage: str) -> Summary | None:
    """The summary of a finished stage, None before."""
    path = run.path / "done" / f"{stage}.json"
    return read_json(path) if path.exists() else None


def run_stage(stage: str, recipe: Recipe, run: Run, resume: bool = False, partial: bool = False) -> Summary:
    """Runs one stage and returns its summary.

    Training that has begun is never started over by accident: without `resume` it raises `UserError`, with it the
    stage goes on from its newest checkpoint, and a finished one returns its summary again, or goes on where `rl.steps`
    has been raised. Other stages run anew. A stage that another process is running in this directory raises
    `UserError`: they would mix their files. `partial`: it is asked for a part of its work (some benchmarks of an
    evaluation), and does not count as finished by it. A new run that a mistake of the user's ends before it has made
    anything is removed.
    """
    with run.leaving_nothing():
        return _run_stage(stage, recipe, run, resume, partial)


def _run_stage(stage: str, recipe: Recipe, run: Run, resume: bool, partial: bool) -> Summary:
    if stage in TRAINING:
        done = finished(run, stage)
        if resume and (complete := _complete(recipe, run, stage)):
            return complete
        directory = run.path / stage
        begun = Checkpoints(directory).latest()
        if not resume and (done is not None or begun):
            state = "is finished" if done is not None else f"stopped at step {begun[0] if begun else 0}"
            raise UserError(
                f"{directory} {state}; add --resume to go on, give another --out, or delete {directory} and "
                f"{run.path / 'done' / f'{stage}.json'} to train again"
            )
    check_files(stage, recipe)
    if stage != "curate":
        begin_loading("torch" if recipe.engine.kind == "endpoint" else "torch and the model")
    from h1r.verify import use_judge

    check_trackers(recipe)
    check_parts(recipe)
    _use_threads(recipe.threads)
    use_judge(recipe.judge)
    busy = f"another process runs {stage} in {run.path}; wait for it, or give another --out"
    with locked(run.path / f".{stage}.lock", busy):
        summary = STAGES[stage](recipe, run, resume)
        place = run.path / "done" / f"{stage}.json"
        if summary.get("unfinished"):
            place.unlink(missing_ok=True)
            note(
                f"{stage}: no verdict on {counted(summary['unfinished'], 'answer')}, so it is not finished; the "
                f"same command "
                "again asks for these alone"
            )
        elif not partial:
            before = finished(run, stage)
            write_json(place, summary)
            if stage in TRAINING and before is not None:
                _unfinish_after(stage, run)
        if stage not in TRAINING:
            log_summary(recipe, run, stage, summary)
    return summary


def _complete(recipe: Recipe, run: Run, stage: str) -> Summary | None:
    """The summary of a stage that is finished and has nothing left to do: RL may have been given more steps."""
    done = finished(run, stage)
    return None if done is not None and stage == "rl" and recipe.rl.steps > done.get("steps", recipe.rl.steps) else done


def _unfinish_after(stage: str, run: Run) -> None:
    """What was finished of another model is not finished of this one."""
    names = list(STAGES)
    for later in names[names.index(stage) + 1 :]:
        (run.path / "done" / f"{later}.json").unlink(missing_ok=True)


def run_all(recipe: Recipe, run: Run, until: str | None = None) -> Iterator[tuple[str, Summary, bool]]:
    """Every stage in order, to the last or to `until`: (name, summary, whether it ran now). Finished ones are skipped,
    begun training goes on."""
    names = list(STAGES)
    planned = names[: names.index(until) + 1] if until else names
    busy = f"another process runs the stages of {run.path}; wait for it, or give another --out"
    with locked(run.path / PLAN, busy, says=planned[-1]):
        for stage in planned:
            done = _complete(recipe, run, stage)
            yield stage, run_stage(stage, recipe, run, resume=True) if done is None else done, done is None


def check_parts(recipe: Recipe) -> None:
    """Refuses names of verifiers and rewards that nobody registered, hours before the stage that would miss them."""
    from h1r.rollout.rewards import Rewards
    from h1r.verify import require

    Rewards(recipe.rl.rewards)
    for one in (*recipe.corpus.sources, *recipe.corpus.benchmarks, *recipe.eval.benchmarks):
        if isinstance(one, CorpusBenchmark) and one.verifier:
            require(one.verifier)


def check_files(stage: str, recipe: Recipe) -> None:
    """Refuses files of a person's own that are missing, or hold nothing, before anything is loaded that takes
    seconds."""
    from h1r.data.file_kinds import conversations_file
    from h1r.data.own import check_benchmark, check_conversations
    from h1r.train.problems import check_problems

    if stage == "sft":
        named = {recipe.sft.data: recipe.sft.columns} | {one.data: one.columns for one in recipe.sft.mixture}
        for data, columns in named.items():
            if file := conversations_file(data):
                check_conversations(file, columns)
    elif stage == "pool" and recipe.rl.problems:
        check_problems(recipe.rl.problems)
    elif stage.startswith("eval_"):
        for one in (*recipe.eval.own, *recipe.eval.safety):
            check_benchmark(one, recipe.corpus.root)


def _use_threads(threads: int) -> None:
    if threads:
        import torch

        torch.set_num_threads(threads)
