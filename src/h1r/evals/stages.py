"""The stages of a run that evaluate: pass@1 of one of its models, and test-time scaling of the last one.

    eval/base.json  eval/sft.json  eval/rl.json  eval/benchmarks/MODEL/NAME.json      scaling/result.json

Only this file and `answers.py` build engines here; the benchmarks themselves know them by the protocol.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from h1r.common.files import write_json
from h1r.config import EvalSection, Recipe
from h1r.data.tokenizer import load_tokenizer
from h1r.engine.choose import open_engine
from h1r.engine.protocol import Engine
from h1r.errors import UserError
from h1r.evals.benchmark import evaluate
from h1r.evals.benchmarks import accepted, check_verifiers, load_benchmark, measured, settings
from h1r.models import CausalLM
from h1r.records import Problem, read_jsonl
from h1r.rollout.pipeline import RolloutPipeline
from h1r.run.directory import Run
from h1r.scaling.study import study
from h1r.train.start import loaded, starting_model
from h1r.verify import open_backend

TRAINED = ("sft", "rl")


def evaluate_stage(recipe: Recipe, run: Run, which: str) -> dict[str, Any]:
    """pass@1 of the run's model `which` ("base", "sft" or "rl") on its held-out problems; writes eval/WHICH.json.

    Then on each of `eval.benchmarks`. A run without curated problems has these alone, and `model.checkpoint` as its
    base model. Returns the result without the outcome of each problem and without the examples, and that of each
    benchmark under "benchmarks". `UserError` when an earlier stage is missing, or a benchmark cannot be read.
    """
    benchmarks = {section.name: load_benchmark(section, recipe.corpus.root) for section in recipe.eval.benchmarks}
    curated = (run.path / "curate" / "tokenizer").is_dir() or not benchmarks
    problems, tokenizer = _held_out(run) if curated else [], _tokenizer(recipe, run, curated)
    result: dict[str, Any] = {}
    weights = _weights(recipe, run, which)
    with run.timed(f"eval_{which}", add=False), open_backend(recipe.verify) as pool, ExitStack() as stack:
        check_verifiers(benchmarks, pool.verify_many)
        usable = {name: accepted(name, own, pool.verify_many, recipe.controls) for name, own in benchmarks.items()}
        engine = stack.enter_context(_engine(recipe, run, which, tokenizer))
        pipeline = RolloutPipeline(
            engine, tokenizer, pool.verify_many, recipe.chat.system_prompt, recipe.rollout, recipe.environment
        )

        def measure(problems: list[Problem], section: EvalSection, name: str) -> dict[str, Any]:
            return evaluate(pipeline, problems, section, recipe.seed, name=name).to_dict()

        if problems:
            result = measure(problems, recipe.eval, f"Evaluate {which}")
            write_json(run.stage("eval") / f"{which}.json", result)
        found = {}
        for section in recipe.eval.benchmarks:
            asked, (own, unusable) = settings(section, recipe.eval), usable[section.name]
            path = run.stage(f"eval/benchmarks/{which}") / f"{section.name}.json"
            one = measured(own, asked, weights, path, partial(measure, own, asked, f"{section.name}, {which}"))
            found[section.name] = {**_without(one, "outcomes", "examples", "of"), "unusable": unusable}
    return {**_without(result, "outcomes", "examples"), **({"benchmarks": found} if found else {})}


def scaling_stage(recipe: Recipe, run: Run) -> dict[str, Any]:
    """Majority and DeepConf at the recipe's budgets, on the last model trained; writes scaling/result.json."""
    which = last_trained(run)
    problems, tokenizer = _held_out(run), load_tokenizer(run.need("curate/tokenizer", "curate"))
    with (
        run.timed("scaling", add=False),
        open_backend(recipe.verify) as pool,
        _engine(recipe, run, which, tokenizer) as engine,
    ):
        pipeline = RolloutPipeline(
            engine, tokenizer, pool.verify_many, recipe.chat.system_prompt, recipe.rollout, recipe.environment
        )
        result = study(pipeline, problems, recipe.scaling, recipe.seed, slots=recipe.engine.max_sequences)
        result["model"] = which
        write_json(run.stage("scaling") / "result.json", result)
    return _without(result, "outcomes", "examples")


def models_of(run: Run) -> list[str]:
    """The models that the run has now: "base", and the trained ones."""
    return ["base", *(which for which in TRAINED if (run.path / which / "model").is_dir())]


def last_trained(run: Run) -> str:
    """ "rl" or "sft", whichever was trained last; `UserError` when neither was."""
    trained = models_of(run)[1:]
    if not trained:
        raise UserError(f"{run.path} holds no trained model; run `h1r sft {run.path}` first")
    return trained[-1]


def _engine(recipe: Recipe, run: Run, which: str, tokenizer: Any) -> AbstractContextManager[Engine]:
    directory = None if which == "base" else run.need(f"{which}/model", which)
    return open_engine(recipe.engine, tokenizer, lambda: _model(recipe, run, which), directory)


def _model(recipe: Recipe, run: Run, which: str) -> CausalLM:
    if which == "base" and recipe.model.checkpoint and not (run.path / "curate" / "tokenizer").is_dir():
        return loaded(recipe.model.checkpoint, recipe.model.kernels)
    if which == "base":
        return starting_model(recipe, run)
    return loaded(run.need(f"{which}/model", which), recipe.model.kernels)


def _weights(recipe: Recipe, run: Run, which: str) -> Any:
    """What tells the weights of a model apart: the recipe of the base model, the files of a trained one."""
    if which == "base":
        return {"seed": recipe.seed, **recipe.model.model_dump()}
    return weight_files(run.path / which / "model")


def weight_files(directory: Path) -> list[list[Any]]:
    """What tells the weights in a checkpoint directory from others that lay or will lie there."""
    files = sorted(directory.glob("*.safetensors"))
    return [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]


def _tokenizer(recipe: Recipe, run: Run, curated: bool) -> PreTrainedTokenizerFast:
    """The run's own, else that of the checkpoint under evaluation."""
    given = recipe.tokenizer.path or recipe.model.checkpoint
    if curated or given is None:
        return load_tokenizer(run.need("curate/tokenizer", "curate"))
    return load_tokenizer(given)


def _held_out(run: Run) -> list[Problem]:
    return list(read_jsonl(run.need("curate/held_out.jsonl", "curate"), Problem))


def _without(result: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in result.items() if key not in keys}
