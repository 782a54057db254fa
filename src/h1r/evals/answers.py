"""What asking a checkpoint takes, and answers to a person's questions as plain traces; `solving.py` has DeepConf."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from h1r.common.files import read_json
from h1r.common.hub import local_directory
from h1r.common.progress import note
from h1r.config import Recipe, load_recipe, resolve
from h1r.data.lazy_tokenizer import load_lazily
from h1r.engine.choose import open_engine
from h1r.engine.protocol import Engine, SamplingParams
from h1r.errors import UserError
from h1r.evals.answer_view import View
from h1r.evals.questions import problem_of
from h1r.models import CausalLM
from h1r.records import Trace
from h1r.rollout.pipeline import RolloutPipeline
from h1r.run.directory import DEFAULTS, PROMPT, model_directory, stored_defaults
from h1r.train.start import answering
from h1r.verify import use_judge

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def recipe_of(checkpoint: str, overrides: dict[str, Any] | None = None) -> Recipe:
    """The recipe of the run that a checkpoint lies in (up to two directories above it), else the defaults. Traces of
    votes are as long as half of the model's positions at most, where no override says how long.

    Its plugins are not loaded: nothing that lies beside a checkpoint runs because somebody named the checkpoint.
    """
    recipe, positions = _recipe_of(checkpoint, overrides), None
    with suppress(UserError):  # a run may have no model yet
        positions = positions_of(model_directory(checkpoint))
    if positions is None or recipe.scaling.max_tokens <= positions // 2 or "scaling.max_tokens" in (overrides or {}):
        return recipe
    return recipe.model_copy(update={"scaling": recipe.scaling.model_copy(update={"max_tokens": positions // 2})})


def positions_of(directory: Path) -> int | None:
    """Of the model in a directory, as far as its config.json says."""
    path = directory / "config.json"
    positions = read_json(path).get("max_position_embeddings") if path.exists() else None
    return positions if isinstance(positions, int) and positions > 1 else None


def _recipe_of(checkpoint: str, overrides: dict[str, Any] | None) -> Recipe:
    path = local_directory(checkpoint) or Path(checkpoint)
    for directory in (path, *path.parents[:2]):
        if (file := directory / "recipe.json").exists():
            stored, given = read_json(file), overrides or {}
            if isinstance(stored, dict) and stored.get("plugins") and "plugins" not in given:
                note(f"the plugins of {file} are not loaded; --set plugins=[...] loads some")
            return load_recipe(file, {"plugins": [], **given})
    tables = {name: table for name, table in stored_defaults(checkpoint).items() if name != PROMPT}
    said = str(model_directory(checkpoint) / DEFAULTS) if tables else "--set"
    return resolve({"name": "defaults", **tables}, overrides, said)


def sampling_of(checkpoint: str) -> dict[str, Any]:
    """The sampling defaults that a checkpoint directory has in its generation_config.json: temperature (0: greedy),
    top_p, max_tokens; those that it does not have are missing. Of a model with fewer positions than max_tokens and a
    prompt need, half of them."""
    directory = model_directory(checkpoint)
    path = directory / "generation_config.json"
    stored = read_json(path) if path.exists() else {}
    positions = positions_of(directory)
    if positions and (stored.get("max_new_tokens") or 0) > positions // 2:
        stored = {**stored, "max_new_tokens": positions // 2}
    names = {"temperature": "temperature", "top_p": "top_p", "max_new_tokens": "max_tokens"}
    found = {ours: stored[name] for name, ours in names.items() if stored.get(name) is not None}
    return {"temperature": 0.0, **found} if stored.get("do_sample") is False and len(found) else found


def generate(
    checkpoint: str,
    questions: Sequence[str],
    params: SamplingParams,
    overrides: dict[str, Any] | None = None,
    finished: list[Trace] | None = None,
    view: View | None = None,
) -> list[Trace]:
    """Traces of each question, in order of (question, sample); finished: gets each as it ends, for who is stopped.
    view: what is shown meanwhile, a count if None. `UserError` for a checkpoint that cannot be loaded."""
    recipe = recipe_of(checkpoint, overrides)
    traces = [] if finished is None else finished
    view = view or View(len(questions) * params.n)
    with open_checkpoint(checkpoint, recipe) as (engine, tokenizer):
        pipeline = RolloutPipeline(
            engine,
            tokenizer,
            system_prompt=(overrides or {}).get("chat.system_prompt"),
            section=recipe.rollout,
            environment=recipe.environment,
        )
        problems = [problem_of(question) for question in questions]
        prompts = pipeline.prompts(problems)
        with view.showing(engine, tokenizer, prompts):
            for trace in pipeline.stream(problems, params, prompts):
                traces.append(trace)
                view.ended(trace)
    return in_order(traces)


def in_order(traces: Sequence[Trace]) -> list[Trace]:
    """By question, then by sample."""
    return sorted(traces, key=lambda trace: (trace.prompt_index, trace.sample_index))


@contextmanager
def open_checkpoint(checkpoint: str, recipe: Recipe) -> Iterator[tuple[Engine, PreTrainedTokenizerFast]]:
    """The engine and tokenizer of a checkpoint, with the recipe's threads, kernels and judge; a run directory stands
    for the last model trained in it."""
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    use_judge(recipe.judge)
    found: str | Path = source if (source := model_directory(checkpoint)).is_dir() else checkpoint

    def model() -> CausalLM:
        return answering(found, recipe)

    # Loaded first where it is needed: what is wrong with a checkpoint is told before what is wrong with its tokenizer.
    early = model() if recipe.engine.kind == "native" else None
    tokenizer = load_lazily(found)
    with open_engine(recipe.engine, tokenizer, model if early is None else lambda: early, found) as engine:
        yield engine, tokenizer
