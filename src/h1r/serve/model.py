"""A model of ours behind the server: its tokenizer, its engine's thread, and what a request becomes on it."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from h1r.config import Recipe
from h1r.data.chat import conversation_ids, open_thinking
from h1r.engine.native.engine import NativeEngine
from h1r.engine.protocol import SamplingParams
from h1r.engine.requests import refusal
from h1r.engine.streaming import StreamingEngine
from h1r.errors import UserError
from h1r.evals.answers import open_checkpoint
from h1r.records import Message, Problem, content_id
from h1r.rollout.prompts import ProblemPrompt
from h1r.serve.engine_thread import EngineThread
from h1r.serve.errors import ApiError
from h1r.serve.messages import checked
from h1r.serve.options import Plan
from h1r.serve.reply_text import TokenTexts
from h1r.serve.solving import Question
from h1r.serve.testing import tested_problem
from h1r.serve.verifying import Verifying, check_verifier
from h1r.serve.wanted import Body, early_stop
from h1r.serve.window import INTERVAL_S


class Model:
    """`name` is what clients ask for. Belongs to the event loop, but for `verify_many`."""

    def __init__(
        self,
        name: str,
        recipe: Recipe,
        tokenizer: Any,
        owner: EngineThread,
        sizes: tuple[int, int],
        ends: Sequence[int],
    ) -> None:
        self.name, self.recipe, self.tokenizer, self.owner = name, recipe, tokenizer, owner
        self.vocab_size, self.positions = sizes
        self.created = int(time.time())
        self.ends = frozenset(ends)
        """Tokens that end an answer, and are no part of its text."""
        self.texts = TokenTexts(tokenizer)
        self.verifying = Verifying(recipe.verify)

    def chat_prompt(self, messages: Sequence[Message], tools: Any) -> list[int]:
        """A conversation as token ids. `ApiError` for one that the model's template refuses."""
        try:
            return conversation_ids(self.tokenizer, messages, None, tools or None)
        except UserError as error:
            raise ApiError(400, str(error), "messages") from None

    def text_prompts(self, given: Any) -> list[list[int]]:
        """The prompts of `/v1/completions`: a text or token ids, or several of these."""
        several = given if isinstance(given, list) and given and not isinstance(given[0], int) else [given]
        if len(several) > 128:
            raise ApiError(400, "prompt is a list of more than 128", "prompt")
        return [self._text_prompt(one) for one in several]

    def _text_prompt(self, given: Any) -> list[int]:
        if isinstance(given, str) and given:
            return [int(one) for one in self.tokenizer.encode(checked(given, "prompt"), add_special_tokens=False)]
        if isinstance(given, list) and given and all(type(one) is int for one in given):
            return list(given)
        raise ApiError(400, "prompt is neither a text, nor token ids, nor a list of these, or it is empty", "prompt")

    def sampling(self, body: Body, prompt: Sequence[int], seed: int) -> SamplingParams:
        """How a request is sampled: as it says, else as the recipe's [scaling] does; an answer may be as long as the
        model's positions allow. `ApiError` for what the model cannot answer."""
        section = self.recipe.scaling
        room = self.positions - len(prompt)
        threshold, window = early_stop(body, section.top_k) or (None, None)
        params = SamplingParams(
            n=body.n,
            temperature=section.temperature if body.temperature is None else body.temperature,
            top_p=section.top_p if body.top_p is None else body.top_p,
            top_k=max(0, body.top_k or 0),
            min_p=body.min_p or 0.0,
            max_tokens=body.max_tokens or max(1, min(section.max_tokens, room)),
            seed=seed,
            stop=body.stops,
            confidence_top_k=section.top_k,
            confidence_window=window or section.window,
            confidence_threshold=threshold,
            keep_prompt=bool(body.messages),
        )
        if why := refusal(prompt, params, self.tokenizer, self.vocab_size, self.positions):
            code = "context_length_exceeded" if room < params.max_tokens else None
            raise ApiError(400, why, "messages" if body.messages else "prompt", code)
        return params

    def question(self, prompt: Sequence[int], messages: Sequence[Message], plan: Plan, seed: int) -> Question:
        """A conversation as a problem for DeepConf; that of one question is the one that `h1r solve` has."""
        problem = problem_of(messages, plan)
        return Question(
            problem, ProblemPrompt(prompt, problem), plan, seed, self.recipe.rollout, self.verifying.many,
            self.tokenizer, "engine",
        )  # fmt: skip

    def opens_thinking(self, prompt: Sequence[int]) -> bool:
        """Whether the prompt itself ends with the tag that opens the thinking, as some templates have it."""
        return bool(open_thinking(self.tokenizer, prompt))


def problem_of(messages: Sequence[Message], plan: Plan) -> Problem:
    """A conversation as a problem; that of one question is the one that `h1r solve` has. `ApiError` for a verifier
    whose answers cannot be the same."""
    asked = [one.content for one in messages if one.role != "system"]
    text = asked[0] if len(asked) == 1 else "\n\n".join(f"{one.role}: {one.content}" for one in messages)
    problem = Problem(id=content_id(text), question=text, answer="", verifier=plan.verifier)
    if plan.tests:
        return tested_problem(problem, plan.tests)
    check_verifier(plan.verifier)
    return problem


def seed_of(body: Body) -> int:
    """The request's seed, or a new one."""
    return secrets.randbits(40) if body.seed is None else body.seed


@contextmanager
def open_model(checkpoint: str, name: str, recipe: Recipe, stream_interval_s: float = INTERVAL_S) -> Iterator[Model]:
    """A checkpoint, run directory or hub id on the engine of its recipe. stream_interval_s: see `Limits`. `UserError`
    for what cannot be served."""
    with ExitStack() as things:
        engine, tokenizer = things.enter_context(open_checkpoint(checkpoint, recipe))
        if isinstance(engine, NativeEngine):
            config = engine.model.config
            sizes = config.vocab_size, config.max_position_embeddings
        elif isinstance(engine, StreamingEngine):
            engine.begin()
            things.callback(engine.end)
            sizes = engine.vocab_size, engine.max_model_len
        else:
            raise UserError(f"h1r serve needs an engine of kind native, vllm or server, and not {recipe.engine.kind}")
        owner = EngineThread(engine, recipe.engine.max_sequences, stream_interval_s)
        things.callback(owner.close)
        model = Model(name, recipe, tokenizer, owner, sizes, engine.eos_token_ids)
        things.callback(model.verifying.close)
        yield model
