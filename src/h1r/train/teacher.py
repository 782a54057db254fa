"""Our own engine as the teacher of a curation: `corpus.traces.by = "engine"`, with the checkpoint of the recipe."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from h1r.config import Recipe
from h1r.data.curate.generate import GenerateBatch, given_from
from h1r.data.curate.io.items import Given
from h1r.data.tokenizer import load_tokenizer
from h1r.engine.choose import open_engine
from h1r.engine.protocol import SamplingParams
from h1r.errors import UserError
from h1r.models import CausalLM
from h1r.records import Problem, Trace
from h1r.rollout.pipeline import RolloutPipeline
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
        pipeline = RolloutPipeline(engine, tokenizer, system_prompt=recipe.chat.system_prompt, section=recipe.rollout)

        def generate(problems: Sequence[Problem]) -> Iterator[tuple[int, list[Given]]]:
            found: dict[int, list[Trace]] = {}
            for trace in pipeline.stream(problems, params):
                traces = found.setdefault(trace.prompt_index, [])
                traces.append(trace)
                if len(traces) == section.n:
                    traces = sorted(found.pop(trace.prompt_index), key=lambda one: one.sample_index)
                    question = problems[trace.prompt_index].question
                    good = [one for one in traces if one.finish_reason != "error"]
                    yield trace.prompt_index, [given_from(question, one.text, one.finish_reason) for one in good]

        yield generate
