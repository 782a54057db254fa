"""A checkpoint of ours as what is served: bodies become jobs on its engine."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from h1r.engine.native.engine import NativeEngine
from h1r.records import Message
from h1r.scaling.ballot import Needs
from h1r.serve.engine_thread import EngineThread
from h1r.serve.errors import ApiError
from h1r.serve.jobs import DeepConfJob, Form, Job, Plain
from h1r.serve.limits import Limits
from h1r.serve.listing import models_of
from h1r.serve.messages import messages_of
from h1r.serve.model import Model, seed_of
from h1r.serve.options import plan_for, split_model
from h1r.serve.responses import refuse_unknown_of_response
from h1r.serve.wanted import Body, Kind, refuse_many_answers, refuse_own_stop, refuse_unknown


class Local:
    """See `app.Served`."""

    def __init__(self, model: Model, limits: Limits) -> None:
        self._model, self._limits = model, limits

    def models(self) -> list[dict[str, Any]]:
        """See `app.Served`."""
        model = self._model
        has: frozenset[Needs] = frozenset({"confidences", "logprobs"})
        if isinstance(model.owner.engine, NativeEngine):
            has |= {"token_ids"}
        section = model.recipe.scaling
        return models_of(model.name, model.created, section, has, self._limits.budget, model.positions)

    def owners(self) -> list[EngineThread]:
        """See `app.Served`."""
        return [self._model.owner]

    def health(self) -> dict[str, Any]:
        """See `app.Served`."""
        alive = self._model.owner.alive
        return {"status": "ok" if alive else "down", "model": self._model.name}

    async def job(self, body: Body, found: dict[str, Any], kind: Kind) -> Job:
        """See `app.Served`."""
        model = self._model
        name, method, budget = split_model(body.model)
        if name != model.name:
            raise ApiError(404, f"there is no such model; this server has {model.name}", "model", "model_not_found")
        refuse_unknown(body, found)
        if kind == "response":
            refuse_unknown_of_response(found)
        messages = messages_of(body.messages or [])
        tools = None if body.tool_choice == "none" else body.tools
        chat = kind != "completion"
        prompts = [model.chat_prompt(messages, tools)] if chat else model.text_prompts(body.prompt)
        seed = seed_of(body)
        params = [model.sampling(body, prompt, seed) for prompt in prompts]
        form = Form(
            raw=not chat, tools=bool(tools), logprobs=body.wants_logprobs, stream=body.stream,
            open_thinking=chat and model.opens_thinking(prompts[0]),
        )  # fmt: skip
        one = dataclasses.replace(params[0], n=1)
        plan = plan_for(
            model.recipe.scaling, self._limits.budget, one, body.deepconf, (method, budget), body.reasoning_effort
        )
        if plan is None:
            return Plain(model, prompts, params, form)
        refuse_many_answers(body.n * len(prompts))
        refuse_own_stop(body)
        asked: Sequence[Message] = messages or [Message("user", str(body.prompt))]
        return DeepConfJob(model, model.question(prompts[0], asked, plan, seed), form)
