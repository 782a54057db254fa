"""The body of a request, checked: what `/v1/chat/completions`, `/v1/completions` and `/v1/responses` have in common."""

from __future__ import annotations

import json
import math
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from h1r.records import first_problem, place_of
from h1r.serve.errors import ApiError
from h1r.serve.limits import Limits

Kind = Literal["chat", "completion", "response"]
Whole = Annotated[int, Field(strict=True)]
Number = Annotated[float, Field(strict=True)]
Flag = Annotated[bool, Field(strict=True)]
Text = Annotated[str, Field(max_length=512)]

_SEEDS = 1 << 62
_MOST_TOKENS = 1 << 30
_XARGS, _MOST = "deepconf_", 1 << 31
_DEEPEST = 100
"""Lists and objects within each other; what templates and other servers write of them is recursive."""
_DEEP = f"has lists and objects more than {_DEEPEST} deep"
_OTHERS: dict[str, tuple[Any, ...]] = {
    "functions": ([],), "function_call": ("auto", "none"), "modalities": (["text"],), "audio": (),
    "web_search_options": (), "repetition_penalty": (1,), "length_penalty": (1,), "typical_p": (1,),
    "use_beam_search": (False,), "min_tokens": (0,), "ignore_eos": (False,), "stop_token_ids": ([],),
    "bad_words": ([],), "allowed_token_ids": (), "structured_outputs": (), "guided_json": (), "guided_regex": (),
    "guided_choice": (), "guided_grammar": (), "grammar": ("",), "json_schema": (),
}  # fmt: skip
"""Keys of other servers and of former times that change an answer, each with what changes nothing."""
_MAYBE_SURROGATE = re.compile(rb"(?i)\\ud[89a-f]")


class StreamOptions(BaseModel):
    """`stream_options`. Other keys are left alone."""

    include_usage: Flag = False


class Body(BaseModel):
    """The keys that are read. Others are passed over, as other servers do, unless they would change the answer in a way
    that is not to be had here (`refuse_unknown`). The value null is none given."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    model: Text = ""
    stream: Flag = False
    stream_options: StreamOptions | None = None
    n: Annotated[Whole, Field(ge=1)] = 1
    temperature: Annotated[Number, Field(ge=0, le=100)] | None = None
    top_p: Annotated[Number, Field(gt=0, le=1)] | None = None
    top_k: Annotated[Whole, Field(ge=-1, le=_MOST_TOKENS)] | None = None
    min_p: Annotated[Number, Field(ge=0, le=1)] | None = None
    max_tokens: Annotated[Whole, Field(ge=1, le=_MOST_TOKENS)] | None = None
    seed: Annotated[Whole, Field(ge=-_SEEDS, lt=_SEEDS)] | None = None
    stop: str | list[str] | None = None
    logprobs: Flag | Annotated[Whole, Field(ge=0, le=20)] | None = None
    top_logprobs: Annotated[Whole, Field(ge=0, le=20)] | None = None
    reasoning_effort: Text | None = None
    deepconf: Any = None
    messages: list[Any] | None = None
    prompt: Any = None
    instructions: str | None = None
    echo: Flag = False
    tools: list[dict[str, Any]] | None = None
    tool_choice: Any = None
    response_format: Any = None
    logit_bias: dict[str, Number] | None = None
    frequency_penalty: Number | None = None
    presence_penalty: Number | None = None
    best_of: Whole | None = None
    vllm_xargs: dict[str, Any] | None = None
    """Of them `deepconf_...`, as our plugin of vLLM takes them: see `early_stop`."""
    suffix: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _null_is_none(cls, found: Any) -> Any:
        return {key: value for key, value in found.items() if value is not None} if isinstance(found, dict) else found

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def wants_logprobs(self) -> bool:
        return self.logprobs is not None and self.logprobs is not False

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage


def parse_json(data: bytes) -> dict[str, Any]:
    """The object of a body. `ApiError` for anything else."""
    try:
        return json_object(data)
    except NotWritableError as error:
        raise ApiError(400, f"the body {error}") from None


class NotWritableError(Exception):
    """What was read cannot be written again as it came. The message is a predicate."""


def json_object(data: bytes) -> dict[str, Any]:
    """An object of JSON. `NotWritableError` for anything else, for numbers that are not finite, half of a surrogate
    pair, and lists and objects more than `_DEEPEST` deep."""
    try:
        found = json.loads(data.decode("utf-8-sig"), parse_constant=_refuse_constant, parse_float=_finite)
    except ValueError:
        raise NotWritableError("is no JSON in UTF-8, or holds a number that is not finite") from None
    except RecursionError:
        raise NotWritableError(_DEEP) from None
    if not isinstance(found, dict):
        raise NotWritableError("is no JSON object")
    if _is_deep(found):
        raise NotWritableError(_DEEP)
    if _MAYBE_SURROGATE.search(data):
        try:
            json.dumps(found, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise NotWritableError("holds half of a surrogate pair, which is no character") from None
    return found


def read_body(found: dict[str, Any], kind: Kind, limits: Limits) -> Body:
    """The checked body of a request. `ApiError` for what cannot be meant."""
    found = dict(found)
    if kind == "chat" and found.get("max_completion_tokens") is not None:
        found["max_tokens"] = found["max_completion_tokens"]
    if kind == "response":
        effort = found.get("reasoning")
        found["max_tokens"] = found.get("max_output_tokens")
        found["reasoning_effort"] = effort.get("effort") if isinstance(effort, dict) else None
    try:
        body = Body.model_validate(found)
    except RecursionError:
        raise ApiError(400, "the body is too deep") from None
    except ValidationError as error:
        raise ApiError(400, first_problem(error), place_of(error.errors()[0]["loc"]).split(".")[0] or None) from None
    if not body.model:
        raise ApiError(400, "model is missing; /v1/models lists what there is", "model")
    if body.n > limits.choices:
        raise ApiError(400, f"n is {body.n}, and this server allows {limits.choices}", "n")
    if len(body.stops) > limits.stops or not all(0 < len(one) <= 256 for one in body.stops):
        raise ApiError(400, f"stop takes up to {limits.stops} strings of 1 to 256 characters", "stop")
    if kind == "response" and body.n > 1:
        raise ApiError(400, "a response is one answer; leave n away", "n")
    if kind == "chat" and not body.messages:
        raise ApiError(400, "messages is missing or empty", "messages")
    if body.messages is not None and len(body.messages) > limits.messages:
        raise ApiError(400, f"messages are more than {limits.messages}", "messages")
    return body


def refuse_unknown(body: Body, found: dict[str, Any]) -> None:
    """`ApiError` for a key that an engine of our own cannot follow and that would change the answer."""
    form = body.response_format.get("type") if isinstance(body.response_format, dict) else body.response_format
    chosen = body.tool_choice
    cannot = {
        "response_format": form not in (None, "text"),
        "logit_bias": bool(body.logit_bias),
        "frequency_penalty": bool(body.frequency_penalty),
        "presence_penalty": bool(body.presence_penalty),
        "best_of": body.best_of not in (None, body.n),
        "suffix": bool(body.suffix),
        "echo": body.echo,
        "tool_choice": chosen not in (None, "auto", "none"),
        **{name: found.get(name) not in (None, *nothing) for name, nothing in _OTHERS.items()},
    }
    for name, refused in cannot.items():
        if refused:
            raise ApiError(
                400, f"this model's engine cannot follow {name}; leave it out", name, "unsupported_parameter"
            )
    ranks = body.top_logprobs or 0
    if not isinstance(body.logprobs, bool):
        ranks = max(ranks, body.logprobs or 0)
    if ranks:
        name = "top_logprobs" if body.top_logprobs else "logprobs"
        raise ApiError(400, f"{name}: this engine keeps the log-probability of the drawn token alone; ask for 0", name)


def early_stop(body: Body, top_k: int) -> tuple[float, int | None] | None:
    """The threshold (nats) below which a trace of the request ends and the window (tokens), where it gives one; None
    where it asks for no such stop. The keys are those of our plugin of vLLM. top_k: of the likeliest tokens, how many a
    confidence is over here. `ApiError` for what cannot be followed."""
    given = {key: value for key, value in (body.vllm_xargs or {}).items() if key.startswith(_XARGS)}
    if not given:
        return None
    threshold, window = given.pop(f"{_XARGS}threshold", None), given.pop(f"{_XARGS}window", None)
    is_number = type(threshold) in (int, float) and abs(threshold) <= _MOST
    cannot = {f"{_XARGS}threshold": not is_number, **dict.fromkeys(given, True)}
    cannot[f"{_XARGS}window"] = window is not None and not (type(window) is int and 1 <= window <= _MOST)
    cannot[f"{_XARGS}top_k"] = given.get(f"{_XARGS}top_k", top_k) != top_k
    if wrong := [key for key, fails in cannot.items() if fails]:
        takes = f"a threshold in nats, a window of 1 token and more, and a top_k of {top_k}"
        raise ApiError(400, f"vllm_xargs: {wrong[0][:40]} cannot be followed; give {takes}", "vllm_xargs")
    return float(threshold), window


def refuse_many_answers(count: int) -> None:
    """`ApiError` where a request that DeepConf is for wants several answers, or has several questions."""
    if count > 1:
        raise ApiError(400, "DeepConf gives one answer to one question; leave n at 1, and ask one by one", "n")


def refuse_own_stop(body: Body) -> None:
    """`ApiError` where a request that DeepConf is for brings a threshold of its own."""
    if any(key.startswith(_XARGS) for key in body.vllm_xargs or {}):
        raise ApiError(400, "DeepConf finds its own threshold; leave vllm_xargs out", "vllm_xargs")


def _refuse_constant(name: str) -> Any:
    raise ValueError(name)


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(text)
    return value


def _is_deep(found: dict[str, Any]) -> bool:
    level: list[Any] = [found]
    for _ in range(_DEEPEST):
        level = [
            one for some in level for one in (some.values() if isinstance(some, dict) else some)
            if isinstance(one, dict | list)
        ]  # fmt: skip
        if not level:
            return False
    return True
