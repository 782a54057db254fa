"""DeepConf as a request asks for it, by the three roads that clients have, the stronger one first:

    extra_body={"deepconf": {"budget": 64, "tau": 0.95, ...}}         keys of `Options`
    model="tiny@deepconf-64" | "tiny@deepconf" | "tiny@majority-16" | "tiny@esc-40" (any registered method)
    reasoning_effort="low" | "medium" | "high"                        `EFFORTS`

What a request leaves open is as in the recipe's [scaling]. A budget below two warm-ups, where it is none of the
recipe's own has a quarter of its traces as warm-up.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from h1r.common.bounds import BOUNDS, bounds_of
from h1r.common.prose import listing
from h1r.common.scaling_methods import METHODS
from h1r.config import ScalingSection
from h1r.engine.protocol import SamplingParams
from h1r.errors import UserError
from h1r.records import first_problem, place_of
from h1r.scaling.ballot import Method, Needs
from h1r.scaling.confidence import Reading
from h1r.scaling.deepconf import majority_params
from h1r.scaling.methods import meets, method_of, option_names
from h1r.scaling.parameters import Consensus, DeepConf
from h1r.scaling.voting import Voter
from h1r.serve.errors import ApiError
from h1r.serve.testing import checked_tests
from h1r.serve.wanted import Body

EFFORTS = {"none": 0, "minimal": 0, "low": 16, "medium": 64, "high": 256, "xhigh": 512, "max": 512}
"""Traces of each `reasoning_effort`; 0 is a plain answer. Our choice. No more than the server's limit."""
_USUAL_BUDGET = 64
_SUFFIX = re.compile(r"(?P<model>.+)@(?P<method>[a-z][a-z0-9_]{0,63})(?:-(?P<budget>[0-9]{1,6}))?")
_DEEPCONF_ONLY = ("warmup", "keep_top", "reading", "tau", "consensus", "voter", "warmup_votes")
_OF_CONFIDENCE = ("keep_top", "reading", "voter", "warmup_votes")

_TYPES = {int: "integer", float: "number"}

Select = Literal["votes", "tests", "confidence"]
Fraction = Annotated[float, Field(gt=0, le=1)]


class Options(BaseModel):
    """The object `deepconf` of a request. Unset: as in the recipe."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    method: str | None = None
    """A registered method. majority: every trace runs to its end and has one vote; with `tau` no longer than until they
    agree. The keys from `warmup` to `warmup_votes` are DeepConf's, others have `options`."""
    options: dict[str, bool | int | float] = {}
    """The method's own, in place of `scaling.options`. Numbers alone: a request names no file of the server's."""
    budget: Annotated[int, Field(ge=1, strict=True)] | None = None
    """Traces, the warm-up included."""
    warmup: Annotated[int, Field(ge=1, strict=True)] | None = None
    keep_top: Fraction | None = None
    reading: Reading | None = None
    tau: Fraction | None = None
    consensus: Consensus | None = None
    voter: Voter | None = None
    warmup_votes: Literal["above_threshold", "all"] | None = None
    window: Annotated[int, Field(ge=1, le=1 << 31, strict=True)] | None = None
    select: Select | None = None
    """votes: the answer that the traces agree on. For answers that are not short: tests: a program that passes the
    request's `tests`; confidence: the whole trace of the highest confidence. Unset: tests where there are some, else
    votes."""
    tests: Any = None
    """See `testing.py`."""
    verifier: str = "math"
    """Which verifier reads answers, and says which are the same."""
    return_traces: bool | Literal["tokens"] = False
    """Every trace in the reply; "tokens": with its tokens and their confidences."""
    curves: Annotated[int, Field(ge=0, le=256, strict=True)] = 0
    """Points of the confidence curve that progress has of every trace that ended; 0: none."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A request for DeepConf: its parameters, and what is made of its traces."""

    params: Method
    select: Select
    verifier: str
    tests: tuple[Any, ...]
    return_traces: bool | Literal["tokens"]
    method: str
    curves: int = 0


def methods_for(section: ScalingSection, has: frozenset[Needs]) -> list[dict[str, Any]]:
    """The methods that a request may name, DeepConf and majority first, each with its numeric options, what they are
    unless given and may be, in the words of JSON Schema:

        [{"name": "esc", "options": [{"name": "window", "type": "integer", "default": 5, "minimum": 2}]}, ...]

    Without those that need what the engine does not tell (`has`), or what only a recipe can give and this one does not.
    DeepConf's and majority's keys are those of `Options`."""
    found: list[dict[str, Any]] = [{"name": "deepconf", "options": []}, {"name": "majority", "options": []}]
    for name in sorted({*METHODS.names()} - {"deepconf", "majority"}):
        kind = METHODS.require(name)
        if not meets(kind, has):
            continue
        try:
            method = method_of(section, _USUAL_BUDGET, name)
        except (UserError, ValueError):
            continue
        given = [(one, getattr(method, one)) for one in option_names(kind)]
        options = [
            {"name": one, "type": _TYPES[type(value)], "default": value, **bounds_of(kind, one)}
            for one, value in given
            if type(value) in _TYPES
        ]
        found.append({"name": name, "options": options})
    return found


def numbers_for(budget: int, max_tokens: int | None = None) -> dict[str, dict[str, Any]]:
    """The numbers of a request and of its object `deepconf`, by name, with what each may be, in the words of JSON
    Schema: {"tau": {"type": "number", "exclusiveMinimum": 0, "maximum": 1}, ...}. budget, max_tokens: the server's."""
    found: dict[str, dict[str, Any]] = {}
    for model in (Body, Options):
        for name, schema in model.model_json_schema()["properties"].items():
            kinds = [one for one in schema.get("anyOf", [schema]) if one.get("type") in _TYPES.values()]
            if len(kinds) == 1:
                found[name] = {key: kinds[0][key] for key in ("type", *BOUNDS) if key in kinds[0]}
    found["budget"]["maximum"] = budget
    if max_tokens is not None:
        found["max_tokens"]["maximum"] = max_tokens
    return found


def split_model(name: str) -> tuple[str, str | None, int | None]:
    """A model's name, and of its suffix the method and the budget; None where there is none."""
    match = _SUFFIX.fullmatch(name)
    if match is None or match["method"] not in METHODS.names():
        return name, None, None
    return match["model"], match["method"], int(match["budget"]) if match["budget"] else None


def plan_for(
    section: ScalingSection,
    most: int,
    sampling: SamplingParams,
    given: Any,
    suffix: tuple[str | None, int | None],
    effort: str | None,
) -> Plan | None:
    """What a request asks for; None for a plain answer. `given`: its object `deepconf`. most: the server's limit of
    traces. sampling: as the request has it. `ApiError` for what cannot be."""
    if given is not None and not isinstance(given, dict):
        raise ApiError(400, 'deepconf is an object, such as {"budget": 64}', "deepconf")
    try:
        options = None if given is None else Options.model_validate(given)
    except RecursionError:
        raise ApiError(400, "deepconf is too deep", "deepconf") from None
    except ValidationError as error:
        place = place_of(error.errors()[0]["loc"])
        dot = "." if place else ": "
        raise ApiError(
            400, f"deepconf{dot}{first_problem(error)}", f"deepconf{dot}{place}" if place else "deepconf"
        ) from None
    method, budget = suffix
    if effort is not None and effort not in EFFORTS and method is None:
        raise ApiError(400, f"reasoning_effort is none of {', '.join(EFFORTS)}", "reasoning_effort")
    if options is None:
        if method is None:
            budget = min(EFFORTS.get(effort or "none", 0), most)
            if not budget:
                return None
        options = Options(method=method)
    elif method is not None and options.method is None:
        options = options.model_copy(update={"method": method})
    if options.method is None:
        options = options.model_copy(update={"method": section.method})
    if options.budget is None:
        wanted = budget if budget is not None else max(section.budgets, default=_USUAL_BUDGET)
        options = options.model_copy(update={"budget": wanted if budget is not None else min(wanted, most)})
    assert options.budget is not None
    if not 1 <= options.budget <= most:
        asked, key = ("deepconf.budget", "deepconf.budget") if budget != options.budget else ("the budget", "model")
        raise ApiError(400, f"{asked} is {str(options.budget)[:40]}, and this server allows 1 to {most}", key)
    if options.method not in METHODS.names():
        raise ApiError(400, f"deepconf.method is none of {listing(sorted(METHODS.names()))}", "deepconf.method")
    try:
        params = _params(options, section, sampling)
    except (UserError, ValueError) as error:
        raise ApiError(400, f"deepconf: {str(error).removeprefix('deepconf: ')}", "deepconf") from None
    select, tests = _selection(options)
    name = options.method or section.method
    return Plan(params, select, options.verifier, tests, options.return_traces, name, options.curves)


def _selection(options: Options) -> tuple[Select, tuple[Any, ...]]:
    """How the reply is chosen, and the tests that choose it."""
    if options.tests is None:
        if options.select == "tests":
            raise ApiError(400, 'deepconf.select is "tests", and deepconf.tests is missing', "deepconf.tests")
        return options.select or "votes", ()
    if options.select not in (None, "tests"):
        raise ApiError(400, f'deepconf.tests go with select "tests", not "{options.select}"', "deepconf.select")
    if "verifier" in options.model_fields_set:
        raise ApiError(400, "deepconf.tests decide in place of a verifier; leave deepconf.verifier out", "deepconf")
    return "tests", checked_tests(options.tests)


def _params(options: Options, section: ScalingSection, sampling: SamplingParams) -> Method:
    budget = options.budget or 0
    sampling = dataclasses.replace(
        sampling, confidence_top_k=section.top_k, confidence_window=options.window or section.window
    )
    if options.method not in ("deepconf", "majority"):
        given = [key for key in _DEEPCONF_ONLY if getattr(options, key) is not None]
        if given:
            raise ValueError(f"{given[0]} goes with method deepconf or majority, not {options.method}")
        return dataclasses.replace(method_of(section, budget, options.method, **options.options), sampling=sampling)
    if options.options:
        raise ValueError(f"method {options.method} has no options")
    if options.method == "majority":
        given = [key for key in _OF_CONFIDENCE if getattr(options, key) is not None]
        if given:
            raise ValueError(f"{given[0]} goes with method deepconf, not majority")
        params = majority_params(budget, sampling)
        if options.tau is None:
            return params
        # Nothing is filtered or stopped by confidence, and agreement is looked for from the first votes on.
        return dataclasses.replace(
            params, warmup=options.warmup or _warmup(section, budget), stop_doubtful=False, tau=options.tau,
            consensus=options.consensus or section.consensus,
        )  # fmt: skip
    chosen = {
        name: value
        for name in ("keep_top", "reading", "tau", "consensus", "voter", "warmup_votes")
        if (value := getattr(options, name)) is not None
    }
    own = {name: getattr(section, name) for name in ("keep_top", "reading", "tau", "consensus", "voter")}
    own["warmup_votes"] = section.warmup_votes
    warmup = options.warmup or _warmup(section, budget)
    return DeepConf(budget=budget, warmup=warmup, sampling=sampling, **{**own, **chosen})


def _warmup(section: ScalingSection, budget: int) -> int:
    """The recipe's, where it leaves as many traces to save on; else a quarter of the budget."""
    if budget >= 2 * section.warmup or budget in section.budgets:
        return section.warmup
    return min(section.warmup, max(2, budget // 4), budget)
