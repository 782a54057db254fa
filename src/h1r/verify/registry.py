"""Names of verifiers, as problems carry them, and the functions behind the names.

A verifier is a few functions of one module, named by "module:function" so that a worker process can find them:

    grade(problem, answer) -> Verdict          may hang, raise, or kill its process; called in a worker only
    quick(problem, answer) -> Verdict | None   optional; provably ends in linear time, so it runs in any process;
                                               None hands the answer on to `grade`
    submit(problem, answer) -> Future[Verdict] instead of `grade`; returns at once and bounds itself (in sandboxes, by
                                               requests), so it is called in the pool's own process and at any time
    warm()                                     optional; imports and caches, not charged to the first answer

A worker imports and warms what its pool needs, and then gives up its rights (`isolation`): while `grade` runs, files
outside installed packages, the network and other processes are out of reach. So a module imports what it needs at its
top, and reads its data there or in `warm`. A verifier that needs files, the network or programs to grade says so with
`confined=False`; it then has workers of its own, and should trust what it is given.

Each answer is graded in a fork of a worker, so what `grade` stores is gone afterwards, threads that `warm` started are
not there, and (if confined) files that it left open are closed. A verifier that cannot do with that says
`keeps_state=True`: its workers grade one answer after the other themselves, and what one answer does to them, the next
ones find.

`answer` is the part of the response after `</think>`. A verdict's reward is 1 for a correct answer, else 0.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from h1r.errors import UserError


@dataclass(frozen=True, slots=True)
class Verifier:
    r"""Where the functions of one verifier are, each as "module:function".

    `stated` is how a response states an answer, with %s in its place. Problems without a reference answer have None
    there, and in `usable_part` the part that their verdicts have if, and only if, the problem can be checked.
    `time_limit_s` is for verifiers whose honest answers need far less time than a pool allows: the smaller limit holds.
    `confined`: whether `grade` does without files, network and processes (our choice: yes unless it says otherwise).
    `keeps_state`: whether answers share a process, rather than having one each (our choice: no).
    """

    name: str
    grade: str | None
    quick: str | None = None
    warm: str | None = None
    submit: str | None = None
    stated: str | None = r"\boxed{%s}"
    usable_part: str | None = None
    time_limit_s: float | None = None
    confined: bool = True
    keeps_state: bool = False


_MATH_LIMIT_S = 2.0
"""Honest answers that need tier 2 take at most about half a second of it."""
_VERIFIERS = {
    verifier.name: verifier
    for verifier in (
        Verifier("choice", grade=None, quick="h1r.verify.choice.grade:grade"),
        Verifier("code", grade=None, submit="h1r.verify.code.grade:submit", stated="```\n%s\n```"),
        Verifier("exact", grade=None, quick="h1r.verify.exact:grade"),
        *(
            Verifier(
                f"instructions{mode}",
                f"h1r.verify.instructions.grade:grade{mode}",
                warm="h1r.verify.instructions.grade:warm",
                stated=None,
                usable_part="instructions_strict",
            )
            for mode in ("", "_loose")
        ),
        Verifier("judge", grade=None, quick="h1r.verify.judge.grade:quick", submit="h1r.verify.judge.grade:submit"),
        Verifier(
            "math",
            "h1r.verify.math.tiers:grade",
            quick="h1r.verify.math.tiers:quick",
            warm="h1r.verify.math.tiers:warm",
            time_limit_s=_MATH_LIMIT_S,
        ),
        Verifier(
            "math_lenient",
            "h1r.verify.math.tiers:grade_lenient",
            quick="h1r.verify.math.tiers:quick_lenient",
            warm="h1r.verify.math.tiers:warm",
            time_limit_s=_MATH_LIMIT_S,
        ),
        Verifier("reasoning_gym", "h1r.verify.reasoning_gym:grade", warm="h1r.verify.reasoning_gym:warm"),
    )
}


def verifier_names() -> list[str]:
    """The known names, sorted."""
    return sorted(_VERIFIERS)


def require(name: str) -> Verifier:
    """The verifier of that name; `UserError` names the nearest known ones."""
    if name in _VERIFIERS:
        return _VERIFIERS[name]
    near = difflib.get_close_matches(name, _VERIFIERS, n=3, cutoff=0.6) or verifier_names()
    raise UserError(f"unknown verifier `{name}`; use one of {', '.join(f'`{known}`' for known in near)}")


def register(verifier: Verifier) -> None:
    """Adds a verifier, or replaces the one of its name. At least one of `grade`, `submit` and `quick` must be given.

    Its modules must be importable by name from `sys.path`: workers are fresh processes.
    """
    deciding = [target for target in (verifier.grade, verifier.submit, verifier.quick) if target]
    targets = [*deciding, verifier.warm] if verifier.warm else deciding
    if not deciding or any(target.count(":") != 1 for target in targets):
        raise UserError(
            f'verifier `{verifier.name}` needs a `grade`, `submit` or `quick` of the form "module:function"'
        )
    _VERIFIERS[verifier.name] = verifier


def resolve(target: str) -> Callable[..., Any]:
    """The function behind "module:function"; raises `ImportError` or `AttributeError`."""
    module, _, function = target.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return found
