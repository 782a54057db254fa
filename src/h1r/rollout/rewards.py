"""The reward of a rollout: a weighted sum of named parts, each a function of the answer and its verdict.

    reward = sum of weight * part over `[rl.rewards]`

    correct   the verdict's own part of that name: 1 for a right answer, else 0 (or a share, where a verifier gives one)
    format    0 for an answer in the format that was asked for, -1 for one that misses one of `rl.format_conditions`

    @reward("brevity")
    def brevity(problem: Problem, text: str, verdict: Verdict) -> float:
        return -len(text) / 1000

`text` is the whole response, thinking included. A reward runs in the trainer's own process, on text of the model: it
must end in time that grows with the length of the text. What it raises ends the run with one sentence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from h1r.common.registry import Registry
from h1r.errors import UserError
from h1r.records import Problem, Verdict

RewardFunction = Callable[[Problem, str, Verdict], float]
REWARDS: Registry[RewardFunction] = Registry("reward")
FORMAT = "format"


def reward(name: str, *, replace: bool = False) -> Callable[[RewardFunction], RewardFunction]:
    """Registers the function that it decorates as the part `name`, which a recipe gives a weight in `[rl.rewards]`."""
    return REWARDS.register(name, replace=replace)


@reward("correct")
def correct(problem: Problem, text: str, verdict: Verdict) -> float:
    """What the verifier says."""
    return verdict.parts.get("correct", 0.0)


@reward(FORMAT)
def well_formed(problem: Problem, text: str, verdict: Verdict) -> float:
    """0, or -1 for an answer in another format than was asked for (arXiv 2601.02346, section 3.4)."""
    return format_part(verdict, (FORMAT,))


def format_part(verdict: Verdict, conditions: Sequence[str]) -> float:
    """0, or -1 for an answer that misses one of the conditions.

    A verdict that does not tell the conditions apart speaks of all of them by its part `format`.
    """
    whole = verdict.parts.get(FORMAT, 0.0)
    return -float(any(verdict.parts.get(condition, whole) < 1.0 for condition in conditions))


class Rewards:
    """The parts that have a weight other than 0, in the order of `weights`. `UserError` for a name nobody registered.

    `format_conditions`: of the part `format`.
    """

    def __init__(self, weights: Mapping[str, float], format_conditions: Sequence[str] = (FORMAT,)) -> None:
        self.weights = {name: weight for name, weight in weights.items() if weight}
        self._functions = {name: REWARDS.require(name) for name in self.weights}
        if self._functions.get(FORMAT) is well_formed:
            self._functions[FORMAT] = lambda problem, text, verdict: format_part(verdict, format_conditions)

    @property
    def needs_format(self) -> bool:
        """Whether verdicts must say how well formed a response is; a part of a user's may read that, too."""
        return any(name != "correct" for name in self.weights)

    def parts(self, problem: Problem, text: str, verdict: Verdict) -> dict[str, float]:
        """Each part's value, without its weight. `UserError` for a part that raises or is no finite number."""
        return {name: _value(name, function, problem, text, verdict) for name, function in self._functions.items()}

    def total(self, parts: Mapping[str, float]) -> float:
        """The weighted sum."""
        return sum(weight * parts[name] for name, weight in self.weights.items())


def _value(name: str, function: RewardFunction, problem: Problem, text: str, verdict: Verdict) -> float:
    try:
        value = float(function(problem, text, verdict))
    except Exception as error:
        why = f"{type(error).__name__}: {error}".splitlines()[0][:300]
        raise UserError(
            f"reward `{name}` failed at an answer to problem `{problem.id}` ({why}); mend it, and go on with --resume"
        ) from error
    if not math.isfinite(value):
        raise UserError(f"reward `{name}` is {value} for an answer to problem `{problem.id}`; return a finite number")
    return value
