"""Our engines as a model provider of inspect_ai: a checkpoint, run or hub id on an engine in this process, or an API.

    inspect eval TASK --model h1r/runs/demo/rl/model
    inspect eval TASK --model h1r/CHECKPOINT -M engine.kind=vllm
    inspect eval TASK --model h1r/NAME -M engine.kind=endpoint -M engine.url=https://host/v1 -M engine.key_variable=KEY

Arguments of the model (-M) are keys of the recipe. A model in this process is what `h1r serve` serves, asked without a
port: inspect_ai's client of OpenAI-compatible servers talks to the server's application. So chat template, tool calls
and thinking are read as they are there. An endpoint is asked by that client itself, with its limits and retries.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import httpx2
from inspect_ai.model import GenerateConfig
from inspect_ai.model._providers.openai_compatible import OpenAICompatibleAPI

from h1r.common.servers import api_key as key_of
from h1r.config import Recipe, resolve
from h1r.errors import UserError
from h1r.evals.answers import recipe_of
from h1r.serve.app import Service
from h1r.serve.limits import Limits
from h1r.serve.local import Local
from h1r.serve.logs import RequestLog
from h1r.serve.model import open_model

NO_KEY = "none"
"""Of servers that ask for none; the client wants one."""


class H1R(OpenAICompatibleAPI):
    """See the module. `UserError` for a checkpoint that cannot be opened, and for a key of the recipe that is none."""

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = GenerateConfig(),  # noqa: B008 (inspect_ai's own signature)
        **keys: Any,
    ) -> None:
        if base_url:
            keys = {"engine.kind": "endpoint", "engine.url": base_url, **keys}
        remote = keys.get("engine.kind") == "endpoint"
        recipe = resolve({"name": "defaults"}, keys, "-M") if remote else recipe_of(model_name, keys)
        self._things, self._name, self._at_once = ExitStack(), model_name, recipe.engine.max_sequences
        self._parameters: dict[str, Any] = {}
        given: dict[str, Any] = {}
        if remote:
            base_url, api_key = _address(recipe), api_key or key_of(recipe.engine.key_variable) or NO_KEY
            self._parameters = recipe.engine.endpoint.parameters
            given = {"client_timeout": recipe.engine.endpoint.timeout_s}
        else:
            base_url, api_key = "http://h1r/v1", NO_KEY
            given = {"http_client": self._in_process(recipe)}
        super().__init__(model_name, base_url, api_key, config, service="h1r", **given)

    def _in_process(self, recipe: Recipe) -> httpx2.AsyncClient:
        """A client of the server's application, on the model that is named."""
        limits = Limits()
        model = self._things.enter_context(open_model(self._name, self._name, recipe))
        service = Service(Local(model, limits), limits, RequestLog(quiet=True))
        return httpx2.AsyncClient(transport=httpx2.ASGITransport(service.app()), timeout=None)

    async def aclose(self) -> None:
        """Ends connections and the engine."""
        await super().aclose()
        self.release()

    def release(self) -> None:
        """Ends the engine in this process, if there is one; nothing can be asked after it."""
        self._things.close()

    def service_model_name(self) -> str:
        """As the server knows it."""
        return self._name

    def max_connections(self) -> int:
        """Requests at once: what the engine decodes together."""
        return self._at_once

    def connection_key(self) -> str:
        """What shares these connections."""
        return f"h1r/{self._name}@{self.base_url}"

    def completion_params(self, config: GenerateConfig, tools: bool) -> dict[str, Any]:
        """Those of inspect_ai, and the recipe's own for an API."""
        params: dict[str, Any] = super().completion_params(config, tools)
        return {**params, "extra_body": {**(params.get("extra_body") or {}), **self._parameters}}


def _address(recipe: Recipe) -> str:
    if len(recipe.engine.addresses) != 1:
        raise UserError("inspect_ai asks one server; give engine.url, and put `h1r serve URL URL` before several")
    return recipe.engine.addresses[0]
