"""Servers of one model as what is served: plain requests are passed on, DeepConf runs here over their streams.

What the servers tell of each token decides how DeepConf saves, and the reply says which (`usage.deepconf.stopping`):

    engine       the same as `stream`, and the servers end doubtful traces themselves: `h1r serve`, vLLM with our plugin
    stream       top log-probabilities, or the confidences of `h1r serve`: a doubtful trace ends by closing its stream
    consensus    none: every trace runs to its end and has one vote, until the votes agree (`tau`, else 0.95)
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx2

from h1r.common.prose import counted
from h1r.common.servers import api_key, without_user
from h1r.config import Recipe, resolve
from h1r.engine.endpoint.streamed import USUAL_TOKENS, StreamedChats
from h1r.engine.protocol import SamplingParams
from h1r.records import Message
from h1r.rollout.prompts import ProblemPrompt
from h1r.scaling.ballot import Needs
from h1r.scaling.deepconf import majority_params
from h1r.scaling.parameters import DeepConf
from h1r.serve.engine_thread import EngineThread
from h1r.serve.errors import ApiError
from h1r.serve.jobs import DeepConfJob, Form, Job
from h1r.serve.limits import Limits
from h1r.serve.listing import models_of, recipe_behind
from h1r.serve.messages import messages_of
from h1r.serve.model import problem_of, seed_of
from h1r.serve.options import Plan, plan_for, split_model
from h1r.serve.passing_on import PassedOn
from h1r.serve.reply_text import TokenTexts
from h1r.serve.responses import refuse_unknown_of_response
from h1r.serve.solving import Question
from h1r.serve.verifying import Verifying
from h1r.serve.wanted import Body, Kind, refuse_many_answers, refuse_own_stop, refuse_unknown

TAU = 0.95


class Urls:
    """See `app.Served`."""

    tokenizer = None
    texts = TokenTexts(None)
    ends: frozenset[int] = frozenset()

    def __init__(self, engine: StreamedChats, recipe: Recipe, limits: Limits) -> None:
        self._engine, self._recipe, self._limits = engine, recipe, limits
        self.owner = EngineThread(engine, recipe.engine.max_sequences)
        self.verifying = Verifying(recipe.verify)
        self._created = int(time.time())
        self._client = httpx2.AsyncClient(limits=httpx2.Limits(max_connections=None, max_keepalive_connections=64))

    def models(self) -> list[dict[str, Any]]:
        """See `app.Served`."""
        engine, section = self._engine, self._recipe.scaling
        return models_of(engine.model, self._created, section, self._has, self._limits.budget, engine.positions)

    def owners(self) -> list[EngineThread]:
        """See `app.Served`."""
        return [self.owner]

    def health(self) -> dict[str, Any]:
        """Ok where one of the servers did not fail just now: one that rested is asked again. failing: of each whether
        its last request failed."""
        now, behind = time.monotonic(), self._engine.servers.all
        servers = [{"url": without_user(one.url), "failing": one.failures > 0} for one in behind]
        alive = self.owner.alive and not all(one.rests_until > now for one in behind)
        return {"status": "ok" if alive else "down", "model": self._engine.model, "servers": servers}

    async def job(self, body: Body, found: dict[str, Any], kind: Kind) -> Job:
        """See `app.Served`."""
        name, method, budget = split_model(body.model)
        if name != self._engine.model:
            said = f"there is no such model; this server has {self._engine.model}"
            raise ApiError(404, said, "model", "model_not_found")
        seed = seed_of(body)
        section = self._recipe.scaling
        sampling = SamplingParams(
            temperature=section.temperature if body.temperature is None else body.temperature,
            top_p=section.top_p if body.top_p is None else body.top_p, top_k=max(0, body.top_k or 0),
            min_p=body.min_p or 0.0, max_tokens=body.max_tokens or self._longest, fit=body.max_tokens is None,
            seed=seed, stop=body.stops,
        )  # fmt: skip
        plan = plan_for(section, self._limits.budget, sampling, body.deepconf, (method, budget), body.reasoning_effort)
        if plan is None:
            return self._passed_on(body, found, kind, seed)
        try:
            refuse_beyond_traces(body, found, kind)
            messages = messages_of(body.messages or [])
        except ApiError:
            if body.deepconf is None and method is None:  # an effort alone, which the servers may know as well
                return self._passed_on(body, found, kind, seed)
            raise
        positions = self._engine.positions
        if positions is not None and (body.max_tokens or 0) >= positions:
            room = counted(positions, "position")
            said = f"max_tokens is {body.max_tokens}, and prompt and answer have {room} together here"
            raise ApiError(400, said, "max_tokens", "context_length_exceeded")
        return DeepConfJob(self, self._question(messages, self._possible(plan), seed), Form(stream=body.stream))

    def _passed_on(self, body: Body, found: dict[str, Any], kind: Kind, seed: int) -> PassedOn:
        path = {"chat": "chat/completions", "completion": "completions", "response": "responses"}[kind]
        sent = {key: value for key, value in found.items() if key != "deepconf"}
        sent |= {"model": self._engine.model, "seed": seed if self._engine.ours else seed % (1 << 31)}
        weight = (body.max_tokens or USUAL_TOKENS) * body.n
        return PassedOn(self._engine.servers, self._client, path, sent, self._engine.key, weight)

    @property
    def _longest(self) -> int:
        """Tokens of a trace where the request does not say how many: the recipe's. Of servers that do not tell how long
        an answer may be, no more than most allow."""
        longest = self._recipe.scaling.max_tokens
        return min(longest, USUAL_TOKENS) if self._engine.positions is None else longest

    @property
    def _has(self) -> frozenset[Needs]:
        """What the servers tell of a trace's tokens."""
        return frozenset({"confidences", "logprobs"}) if self._engine.knows_confidences else frozenset()

    def _possible(self, plan: Plan) -> Plan:
        """What the servers can do of it."""
        lacks = plan.params.needs - self._has
        if lacks and not isinstance(plan.params, DeepConf):
            said = f"method {plan.method} needs {', '.join(sorted(lacks))}, which the servers here do not tell"
            raise ApiError(400, said, "deepconf.method")
        if self._engine.ours:
            return plan
        if self._engine.ranks:
            sampling = dataclasses.replace(plan.params.sampling, confidence_top_k=self._engine.ranks)
            return dataclasses.replace(plan, params=dataclasses.replace(plan.params, sampling=sampling))
        given = plan.params
        if not isinstance(given, DeepConf):
            return plan
        params = dataclasses.replace(
            majority_params(given.budget, given.sampling), warmup=min(given.warmup, max(2, given.budget // 4)),
            stop_doubtful=False, tau=given.tau or TAU, consensus=given.consensus,
        )  # fmt: skip
        return dataclasses.replace(plan, params=params, method="majority")

    def _question(self, messages: Sequence[Message], plan: Plan, seed: int) -> Question:
        problem = problem_of(messages, plan)
        sent = [{"role": one.role, "content": one.content} for one in messages]
        stopping = "stream" if self._engine.knows_confidences else "consensus"
        if self._engine.stops_early:
            stopping = "engine"
        prompt = ProblemPrompt((), problem, messages=sent)
        return Question(problem, prompt, plan, seed, self._recipe.rollout, self.verifying.many, None, stopping)


def refuse_beyond_traces(body: Body, found: dict[str, Any], kind: Kind) -> None:
    """`ApiError` for what the traces of DeepConf over other servers would not follow."""
    alone = "or leave DeepConf out, and the server answers it as it came"
    if kind == "completion":
        raise ApiError(400, f"DeepConf over other servers answers chats; ask /v1/chat/completions, {alone}", "prompt")
    refuse_many_answers(body.n)
    if body.tools and body.tool_choice != "none":
        raise ApiError(400, f"DeepConf over other servers calls no tools; leave tools out, {alone}", "tools")
    refuse_own_stop(body)
    refuse_unknown(body, found)
    if kind == "response":
        refuse_unknown_of_response(found)


@contextmanager
def open_urls(urls: Sequence[str], overrides: Mapping[str, Any], limits: Limits) -> Iterator[Urls]:
    """Servers at these addresses. overrides: keys of a recipe, whose [scaling] is else that of the servers, where they
    tell one (`listing.recipe_behind`). `UserError` where none answers."""
    others = {key: value for key, value in overrides.items() if key.partition(".")[0] != "scaling"}
    section = resolve({"name": "defaults"}, others, "--set").engine
    engine = StreamedChats(urls, section.endpoint.model, api_key(section.key_variable), section.max_sequences)
    with ExitStack() as things:
        things.callback(engine.close)
        served = Urls(engine, recipe_behind(engine.listed, overrides), limits)
        things.callback(served.verifying.close)
        things.callback(served.owner.close)
        yield served
