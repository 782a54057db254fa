"""The stages of a run that evaluate: pass@1 of one of its models, and test-time scaling of the last one.

    eval/MODEL.json  eval/benchmarks/MODEL/NAME.json       the scores ("base", "sft", "rl")
    eval/safety/MODEL/NAME.json                            what a guard model says of answers (`safety.py`)
    eval/MODEL.KEY.samples.jsonl  ...NAME.KEY.samples.jsonl  every answer (`samples.py`); the key stands for all that
                                                           they depend on
    eval/controls/NAME.json                                which problems controls refuse (`kept.py`)
    scaling/result.json

An evaluation that was stopped goes on where it was. One with answers that have no verdict is not finished: the next
attempt asks for these alone.

Only this file and `answers.py` build engines here; the benchmarks themselves know them by the protocol.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from h1r.common.files import write_json
from h1r.common.hub import local_directory, version_of
from h1r.common.progress import note
from h1r.config import BenchmarkSection, EvalSection, Recipe
from h1r.data.tokenizer import load_tokenizer, with_chat_format
from h1r.engine.choose import open_engine
from h1r.engine.endpoint.engine import ONLY_BENCHMARKS, EndpointEngine
from h1r.engine.protocol import Engine, SamplingParams
from h1r.errors import UserError
from h1r.evals import safety
from h1r.evals.benchmark import evaluate
from h1r.evals.benchmarks import (
    Benchmark,
    Usable,
    accepted,
    check_verifiers,
    load_benchmark,
    settings,
)
from h1r.evals.board import display
from h1r.evals.budgets import at_budgets, cons_at_n, settings_of
from h1r.evals.guard import Guard, guard_decides
from h1r.evals.kept import contents_of, measured, unfinished
from h1r.evals.samples import Samples
from h1r.evals.summary import benchmark_line, room_text
from h1r.models import CausalLM
from h1r.records import Problem, read_jsonl
from h1r.rollout.pipeline import RolloutPipeline, VerifyMany
from h1r.run.directory import Run
from h1r.run.names import model_name
from h1r.scaling.study import study
from h1r.train.start import answering, curated, data_directory, saved_tokenizer, starting_model, tokenizer_of
from h1r.verify import judge_words, open_backend

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_LONG = ("outcomes", "examples", "of")
"""What a result has and its summary leaves out, but for the engine among `of`."""


def evaluate_stage(recipe: Recipe, run: Run, which: str) -> dict[str, Any]:
    """pass@1 of the run's model `which` ("base", "sft" or "rl") on its held-out problems; writes eval/WHICH.json.

    Then on each of `eval.benchmarks`, and of `eval.safety`. A run without curated problems has these alone, and
    `model.checkpoint` as its base model. Returns the result without the outcome of each problem and without the
    examples, that of each benchmark under "benchmarks", and that of each set of prompts under "safety". `UserError`
    when an earlier stage is missing, or a benchmark cannot be read.
    """
    remote = recipe.engine.kind == "endpoint"
    if remote and which != "base":
        raise UserError(f'engine.kind = "endpoint" asks a model of somebody else, not `{which}`; take another engine')
    benchmarks = [load_benchmark(section, recipe.corpus.root) for section in recipe.eval.own]
    guard = Guard(recipe.eval.guard) if recipe.eval.safety else None
    prompts = [load_benchmark(section, recipe.corpus.root) for section in recipe.eval.safety]
    others = benchmarks or prompts or recipe.eval.delegated
    has_data = (data_directory(recipe, run) / "tokenizer").is_dir() or not others
    problems = _held_out(recipe, run) if has_data and recipe.eval.held_out else []
    if not (problems or benchmarks or prompts) and recipe.eval.delegated:
        return {}
    tokenizer = None if remote else _tokenizer(recipe, run, which, has_data)
    found: dict[str, dict[str, Any]] = {}
    with run.timed(f"eval_{which}", add=False), open_backend(recipe.verify) as pool, ExitStack() as stack:
        check_verifiers(benchmarks, pool.verify_many)

        judge = recipe.judge.decides(recipe.verify.judge_on)
        graded_by = {"judge": judge, "time_limit_s": recipe.verify.time_limit_s}

        def usable_of(
            sections: Sequence[BenchmarkSection], read: Sequence[Benchmark], directory: str
        ) -> dict[str, Usable]:
            return {
                section.name: accepted(
                    one,
                    pool.verify_many,
                    recipe.controls,
                    section.allow_unusable,
                    run.path / directory / f"{section.name}.json",
                    graded_by,
                )
                for section, one in zip(sections, read, strict=True)
            }

        usable = usable_of(recipe.eval.own, benchmarks, "eval/controls")
        safety_prompts = usable_of(recipe.eval.safety, prompts, "eval/controls/safety")
        engine = stack.enter_context(_engine(recipe, run, which, tokenizer))
        model = engine.model if isinstance(engine, EndpointEngine) else model_name(which, recipe.model.checkpoint)

        def pipeline_of(verify_many: VerifyMany) -> RolloutPipeline:
            return RolloutPipeline(
                engine,
                tokenizer,
                verify_many,
                recipe.chat.system_prompt if remote else None,
                section=recipe.rollout,
                environment=recipe.environment,
            )

        def title(section: BenchmarkSection) -> str:
            return f"{section.name}, {model}"

        totals = {f"Evaluate {model}": len(problems) * recipe.eval.samples} if problems else {}
        for section in recipe.eval.own:
            totals[title(section)] = len(usable[section.name][0]) * settings(section, recipe.eval).samples
        for section in recipe.eval.safety:
            totals[title(section)] = len(safety_prompts[section.name][0]) * settings(section, recipe.eval).samples
        shown = stack.enter_context(display(totals))
        pipeline = pipeline_of(pool.verify_many)
        same = _depends_on(recipe, run, which, engine)

        def of(problems: list[Problem], section: EvalSection) -> dict[str, Any]:
            asked = section.model_dump(exclude={"benchmarks", "held_out", "safety", "guard"})
            if recipe.scaling.top_k != SamplingParams().confidence_top_k:
                asked["confidence_top_k"] = recipe.scaling.top_k
            words = judge_words(problems, recipe.judge.reply, recipe.verify.judge_on)
            judged = {"judge_words": words} if words else {}
            return {**same, **judged, "problems": contents_of(problems), "settings": asked}

        def measure(problems: list[Problem], section: EvalSection, name: str, path: Path) -> dict[str, Any]:
            found = measured(
                of(problems, section),
                path,
                lambda samples: evaluate(
                    pipeline, problems, section, recipe.seed, shown.progress, name, samples, recipe.scaling
                ).to_dict(),
            )
            shown.ended(name, found["pass_at_1"])
            return found

        def priced(result: dict[str, Any], problems: list[Problem], path: Path) -> dict[str, Any]:
            """With what its answers come to by votes, if that was priced by other settings, or by an older version."""
            voted, kept = result.get("budgets", {}), path.with_name(result["samples"])
            if voted is None or voted.get("settings") == settings_of(recipe.scaling) or not kept.exists():
                return result
            with Samples(kept, problems, result["samples_per_problem"]) as samples:
                voted = at_budgets(samples, recipe.scaling, pool.verify_many, recipe.eval.confidence_level)
            return {**result, "budgets": voted, "cons_at_n": cons_at_n(voted)}

        result: dict[str, Any] = {}
        if problems:
            path = run.stage("eval") / f"{which}.json"
            result = measure(problems, recipe.eval, f"Evaluate {model}", path)
            if room := room_text(result):
                note(f"held-out problems, {model}, {room}")
        for section, one in zip(recipe.eval.own, benchmarks, strict=True):
            own, unusable = usable[section.name]
            path = run.stage(f"eval/benchmarks/{which}") / f"{section.name}.json"
            measured_now = measure(own, settings(section, recipe.eval), title(section), path)
            left_out = {"unusable": unusable, "ungradable": one.ungradable}
            whole = {**priced(measured_now, own, path), **left_out}
            if whole != measured_now:
                measured_now = whole
                write_json(path, measured_now)
            found[section.name] = summary_of(measured_now)
            note(benchmark_line(section.name, measured_now))
        guarded: dict[str, dict[str, Any]] = {}
        scoring = pipeline_of(guard.verify_many if guard else pool.verify_many)
        for section in recipe.eval.safety:
            asked, (own, unusable) = settings(section, recipe.eval), safety_prompts[section.name]
            path = run.stage(f"eval/safety/{which}") / f"{section.name}.json"
            safe = measured(
                {**of(own, asked), "guard": guard_decides(recipe.eval.guard)},
                path,
                partial(safety.measure, scoring, own, asked, recipe.seed, shown.progress, title(section)),
            )
            guarded[section.name] = whole = {**safe, "unusable": unusable}
            if whole != safe:
                write_json(path, whole)
            shown.ended(title(section), safe["pass_at_1"])
    summary = {
        **_without(result, *_LONG),
        **({"benchmarks": found} if found else {}),
        **({"safety": {name: _without(one, *_LONG) for name, one in guarded.items()}} if guarded else {}),
    }
    without = sum(map(unfinished, (result, *found.values(), *guarded.values())))
    return {**summary, "unfinished": without} if without else summary


def scaling_stage(recipe: Recipe, run: Run) -> dict[str, Any]:
    """Majority and DeepConf at the recipe's budgets, on the last model trained; writes scaling/result.json."""
    if recipe.engine.kind == "endpoint":
        raise UserError(ONLY_BENCHMARKS)
    which = run.last_trained()
    problems, tokenizer = _held_out(recipe, run), tokenizer_of(recipe, run, which)
    with (
        run.timed("scaling", add=False),
        open_backend(recipe.verify) as pool,
        _engine(recipe, run, which, tokenizer) as engine,
    ):
        pipeline = RolloutPipeline(
            engine, tokenizer, pool.verify_many, section=recipe.rollout, environment=recipe.environment
        )
        result = study(pipeline, problems, recipe.scaling, recipe.seed, slots=recipe.engine.max_sequences)
        result["model"] = which
        write_json(run.stage("scaling") / "result.json", result)
    return _without(result, *_LONG)


def _engine(recipe: Recipe, run: Run, which: str, tokenizer: Any) -> AbstractContextManager[Engine]:
    directory: Path | None
    if which != "base":
        directory = run.need(f"{which}/model", which)
    elif recipe.model.checkpoint and not (run.path / "curate" / "tokenizer").is_dir():
        # As it lies there: of any architecture that the engine knows, whether we do or not.
        directory = local_directory(recipe.model.checkpoint)
    else:
        directory = None
    return open_engine(recipe.engine, tokenizer, lambda: _model(recipe, run, which), directory)


def _model(recipe: Recipe, run: Run, which: str) -> CausalLM:
    if which == "base" and recipe.model.checkpoint and not (run.path / "curate" / "tokenizer").is_dir():
        return answering(recipe.model.checkpoint, recipe)
    if which == "base":
        return starting_model(recipe, run)
    return answering(run.need(f"{which}/model", which), recipe)


def _depends_on(recipe: Recipe, run: Run, which: str, engine: Engine) -> dict[str, Any]:
    """What a result depends on beside its problems: the contents of the weights, or the model of an API and where that
    is; the prompt, the engine, the judge."""
    kind = recipe.engine.computes
    judge = recipe.judge.decides(recipe.verify.judge_on)
    if isinstance(engine, EndpointEngine):
        own = recipe.engine.endpoint.model_dump(include={"parameters", "leave_out"})
        asked = {"engine": {**kind, **own, "model": engine.model}, "server": engine.answers_of}
        return {**asked, "system_prompt": recipe.chat.system_prompt, "judge": judge, "seed": recipe.seed}
    curated_with = run.path / "curate" / "tokenizer"
    found: list[str | Path] = [curated_with] if curated_with.is_dir() else []
    found += [one for one in (recipe.tokenizer.path, recipe.model.checkpoint) if one]
    found += [run.path / which / "model"] if which != "base" else []
    return {
        "model": recipe.model.model_dump(),
        "files": [version_of(one) for one in found],
        "chat": recipe.chat.model_dump(),
        "environment": recipe.environment.model_dump(),
        "engine": kind,
        "judge": judge,
        "seed": recipe.seed,
    }


def _tokenizer(recipe: Recipe, run: Run, which: str, has_data: bool) -> PreTrainedTokenizerFast:
    """That of the model under evaluation; of a base model, the one that it is to be trained with."""
    if which != "base":
        return tokenizer_of(recipe, run, which)
    given = recipe.tokenizer.path or recipe.model.checkpoint
    if has_data or given is None:
        return saved_tokenizer(recipe, run)
    return with_chat_format(load_tokenizer(given), recipe.chat)


def _held_out(recipe: Recipe, run: Run) -> list[Problem]:
    return list(read_jsonl(curated(recipe, run, "held_out.jsonl"), Problem))


def summary_of(result: dict[str, Any]) -> dict[str, Any]:
    """A result of a benchmark as the summary of its stage has it."""
    kept = {**_without(result, *_LONG), "of": {"engine": result["of"]["engine"]}}
    return {**kept, "budgets": _without(voted, "settings")} if (voted := result.get("budgets")) else kept


def _without(result: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in result.items() if key not in keys}
