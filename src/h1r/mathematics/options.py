"""How a problem wants its answers compared: keys of `problem.metadata`.

"decimals": 2          numbers need to agree to two decimals only
"tolerance": 0.05      numbers need to agree to 5 % of the larger only
"ordered": true        the elements of a bare list count in their order, as a tuple's do
"units": "required"    a value with a unit and one without differ (default "optional": the question has named it);
         "ignored"     units are not compared at all
"form": "factored"     the answer has this form (`forms` lists them; default "auto": what the question's words ask for)
"accept": ["B", ...]   other reference answers, each of which is right
"try_list": ["n=1"]    formulas need to agree at these values of their unknowns only (`points`)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from h1r.errors import UserError
from h1r.mathematics.forms import NAMES
from h1r.mathematics.points import Point, point_of
from h1r.records import Problem

UNITS = ("optional", "required", "ignored")
MAX_DECIMALS = 15


@dataclass(frozen=True, slots=True)
class Options:
    """The keys above, checked."""

    decimals: int | None = None
    tolerance: float | None = None
    ordered: bool = False
    units: Literal["optional", "required", "ignored"] = "optional"
    accept: tuple[str, ...] = ()
    form: str = "auto"
    try_list: tuple[Point, ...] = ()


DEFAULT = Options()
_KEYS = frozenset(Options.__dataclass_fields__)


def options_of(problem: Problem) -> Options:
    """The options of a problem; `UserError` names the problem, the key and what it may be."""
    if _KEYS.isdisjoint(problem.metadata):
        return DEFAULT
    given = {key: problem.metadata[key] for key in _KEYS if problem.metadata.get(key) is not None}
    try:
        return _checked(given)
    except ValueError as error:
        raise UserError(f"problem `{problem.id}`: metadata {error}") from None


def _checked(given: Mapping[str, Any]) -> Options:
    decimals, tolerance = given.get("decimals"), given.get("tolerance")
    if decimals is not None and not (type(decimals) is int and 0 <= decimals <= MAX_DECIMALS):
        raise ValueError(f"`decimals` is {decimals!r}; give a whole number from 0 to {MAX_DECIMALS}")
    if tolerance is not None and not (type(tolerance) in (int, float) and 0 <= tolerance < 1):
        raise ValueError(f"`tolerance` is {tolerance!r}; give a share from 0 to below 1, as 0.05 for 5 %")
    if type(ordered := given.get("ordered", False)) is not bool:
        raise ValueError(f"`ordered` is {ordered!r}; give true or false")
    if (units := given.get("units", "optional")) not in UNITS:
        raise ValueError(f"`units` is {units!r}; give one of {', '.join(UNITS)}")
    accept = given.get("accept", ())
    if not isinstance(accept, list | tuple) or not all(isinstance(answer, str) for answer in accept):
        raise ValueError("`accept` is no list of texts")
    form = str(given.get("form", "auto")).replace(" ", "_").replace("-", "_")
    if form not in NAMES:
        raise ValueError(f"`form` is {form!r}; give one of {', '.join(NAMES)}")
    tried = given.get("try_list", ())
    if not isinstance(tried, list | tuple) or not all(isinstance(point, str) for point in tried):
        raise ValueError("`try_list` is no list of texts such as a=2,b=3")
    return Options(decimals, tolerance, ordered, units, tuple(accept), form, tuple(map(point_of, tried)))
