"""Our own engine as the teacher of a curation: `corpus.traces.by = "engine"`, with the checkpoint of the recipe."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from h1r.config import Recipe
from h1r.data.chat import prompt_ids
from h1r.data.curate.generate import GenerateBatch, given_from
from h1r.data.curate.io.items import Given
from h1r.data.tokenizer import load_tokenizer
from h1r.engine.choose import open_engine
from h1r.engine.protocol import SamplingParams
from h1r.errors import UserError
from h1r.models import CausalLM
from h1r.records import Problem
from h1r.train.start import loaded


@contextmanager
def engine_teacher(recipe: Recipe) -> Iterator[GenerateBatch]:
    """Traces from `model.checkpoint`, `corpus.traces.n` a problem, until the end of the `with` block.

    What a problem gets depends on the recipe and its text only, not on the batch that it is in. `UserError` without a
    checkpoint: random weights have nothing to teach.
    """
    checkpoint, section = recipe.model.checkpoint, recipe.corpus.traces
    if checkpoint is None:
        raise UserError("corpus.traces.by = `engine` needs a trained model; set model.checkpoint")
    tokenizer = load_tokenizer(recipe.tokenizer.path or checkpoint)
    params = SamplingParams(
        n=section.n,
        temperature=section.temperature,
        top_p=section.top_p,
        max_tokens=section.max_tokens,
        seed=recipe.corpus.seed,
    )

    def model() -> CausalLM:
        return loaded(checkpoint, recipe.model.kernels)

    with open_engine(recipe.engine, tokenizer, model, checkpoint) as engine:

        def generate(problems: Sequence[Problem]) -> Iterator[tuple[int, list[Given]]]:
            prompts = [prompt_ids(tokenizer, problem.question, recipe.chat.system_prompt) for problem in problems]
            found: dict[int, list[tuple[int, Given]]] = {}
            for trace in engine.stream(prompts, params):
                index = trace.prompt_index
                given = given_from(problems[index].question, trace.text, trace.finish_reason)
                found.setdefault(index, []).append((trace.sample_index, given))
                if len(found[index]) == section.n:
                    yield index, [one for _, one in sorted(found.pop(index), key=lambda pair: pair[0])]

        yield generate
