"""Names of verifiers, as problems carry them, and the functions behind the names.

    @verifier("palindrome", answer_form="Answer: %s")
    def grade(problem: Problem, answer: str) -> Verdict | float: ...

A verifier is a few functions of one module, named by "module:function" so that a worker process can find them:

    grade(problem, answer) -> Verdict | float  may hang, raise, or kill its process; called in a worker only
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

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from h1r.common import plugins
from h1r.common.registry import Registry
from h1r.errors import UserError
from h1r.records import Problem, Verdict

AnswerKind = Literal["text", "value", "letters", "program", "response"]
"""What an answer is, which controls, votes and curation go by:

    text       a text; two are the same when equal as texts, or as plain numbers
    value      mathematics; two are the same when their values are; a problem's metadata may have options of `math`
    letters    letters of the options of a multiple-choice question
    program    a program, which is run against the `tests` of the problem's metadata
    response   the response as a whole, which no reference answer is compared with
"""
Grade = TypeVar("Grade", bound=Callable[[Problem, str], Verdict | float])


@dataclass(frozen=True, slots=True)
class Verifier:
    r"""Where the functions of one verifier are, each as "module:function", and what others have to know of it.

    `file` is the file that their module is imported from, where its name alone does not find it.
    `answer_form` is how a response states an answer, with %s in its place. Problems without a reference answer have
    None there, and in `usable_part` the part that their verdicts have if, and only if, the problem can be checked.
    `answer_kind` is what an answer is (`AnswerKind`), `extract` the function that finds it in the part of a response
    after `</think>`, text -> text or None; it runs in the caller's process. Default: what `answer_form` says.
    `compares`: whether it holds answers against the reference, or the tests, of a problem, and in one way for all of
    them; an answer that earns wrongly then speaks against that problem, else against its family.
    `needs_box`: curation drops a worked trace without a `\boxed{}`. `boxes_predictions`: `h1r verify FILE` puts a bare
    prediction into one. `needs_judge`: every verdict may cost a request to a language model.
    `generated`: a program wrote its problems, so that the layout of a question can be its content.
    `time_limit_s` is for verifiers whose honest answers need far less time than a pool allows: the smaller limit holds.
    `confined`: whether `grade` does without files, network and processes (our choice: yes unless it says otherwise).
    `keeps_state`: whether answers share a process, rather than having one each (our choice: no).
    """

    name: str
    grade: str | None
    quick: str | None = None
    warm: str | None = None
    submit: str | None = None
    file: str | None = None
    answer_form: str | None = r"\boxed{%s}"
    answer_kind: AnswerKind = "text"
    extract: str | None = None
    usable_part: str | None = None
    compares: bool = False
    needs_box: bool = False
    boxes_predictions: bool = False
    needs_judge: bool = False
    generated: bool = False
    time_limit_s: float | None = None
    confined: bool = True
    keeps_state: bool = False

    @property
    def may_be_judged(self) -> bool:
        """Whether a language model can hold an answer against the same reference (`verify.judge_on`)."""
        return self.compares and not self.needs_judge and self.answer_kind in ("text", "value", "letters")


_MATH_LIMIT_S = 2.0
"""Honest answers that need tier 2 take at most about half a second of it."""
VERIFIERS: Registry[Verifier] = Registry("verifier")


def verifier(
    name: str,
    *,
    answer_form: str | None = r"\boxed{%s}",
    answer_kind: AnswerKind = "text",
    extract: Callable[[str], str | None] | None = None,
    compares: bool = False,
    warm: Callable[[], object] | None = None,
    time_limit_s: float | None = None,
    confined: bool = True,
    keeps_state: bool = False,
    replace: bool = False,
) -> Callable[[Grade], Grade]:
    """Registers the `grade` that it decorates as the verifier `name`, and returns it as it is.

    `grade(problem, answer)` gets the part of the response after `</think>`, and returns a `Verdict` or a reward from 0
    to 1. It must stand at the top of its module or file, since worker processes import that; the other arguments are
    the fields of `Verifier`, functions in place of their names. `UserError` for a name that another verifier has.
    """

    def register_grade(grade: Grade) -> Grade:
        module, file = plugins.importable(grade.__module__)
        found = Verifier(
            name,
            _target(name, module, grade),
            warm=warm and _target(name, module, warm),
            file=file,
            answer_form=answer_form,
            answer_kind=answer_kind,
            extract=extract and _target(name, module, extract),
            compares=compares,
            time_limit_s=time_limit_s,
            confined=confined,
            keeps_state=keeps_state,
        )
        _check_form(found)
        VERIFIERS.add(name, found, replace=replace)
        return grade

    return register_grade


def register(verifier: Verifier) -> None:
    """Adds a verifier, or replaces the one of its name. At least one of `grade`, `submit` and `quick` must be given.

    Its modules must be importable by name from `sys.path`, or from its `file`: workers are fresh processes.
    """
    deciding = [target for target in (verifier.grade, verifier.submit, verifier.quick) if target]
    targets = [*deciding, verifier.warm] if verifier.warm else deciding
    if not deciding or any(target.count(":") != 1 for target in targets):
        raise UserError(
            f'verifier `{verifier.name}` needs a `grade`, `submit` or `quick` of the form "module:function"'
        )
    _check_form(verifier)
    VERIFIERS.add(verifier.name, verifier, replace=True)


def verifier_names() -> list[str]:
    """The known names, sorted."""
    return VERIFIERS.names()


def require(name: str) -> Verifier:
    """The verifier of that name; `UserError` names the nearest known ones."""
    return VERIFIERS.require(name)


def is_generated(problem: Problem) -> bool:
    """Whether a program wrote the problem, as its verifier declares. `UserError` for an unknown verifier."""
    return bool(problem.verifier) and require(problem.verifier).generated


def resolve(target: str, file: str | None = None) -> Callable[..., Any]:
    """The function behind "module:function", whose module is imported from `file` if one is given.

    Raises `ImportError`, `AttributeError`, or what the module raises.
    """
    module, _, function = target.partition(":")
    if file is not None:
        plugins.import_file(file)
    found: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return found


def as_verdict(found: Verdict | float) -> Verdict:
    """What a `grade` returned, as a verdict; `ValueError` for a number that is no reward."""
    if isinstance(found, Verdict):
        return found
    if not isinstance(found, int | float) or not 0 <= found <= 1:
        raise ValueError(f"a verifier returns a Verdict or a number from 0 to 1, not {found!r:.80}")
    return Verdict(float(found))


def _target(name: str, module: str, function: Callable[..., object]) -> str:
    if "." in function.__qualname__:
        raise UserError(
            f"verifier `{name}`: `{function.__qualname__}` must be a function at the top of its module, where worker "
            "processes find it; move it there"
        )
    return f"{module}:{function.__qualname__}"


def _check_form(verifier: Verifier) -> None:
    if verifier.answer_form is not None and verifier.answer_form.count("%s") != 1:
        raise UserError(
            f"verifier `{verifier.name}`: answer_form is {verifier.answer_form!r}; write %s once, where the answer goes"
        )


for _built_in in (
    Verifier("choice", grade=None, quick="h1r.verify.choice.grade:grade", answer_kind="letters", compares=True),
    Verifier(
        "code",
        grade=None,
        submit="h1r.verify.code.grade:submit",
        answer_form="```\n%s\n```",
        answer_kind="program",
        compares=True,
    ),
    Verifier("exact", grade=None, quick="h1r.verify.exact:grade", compares=True, boxes_predictions=True),
    *(
        Verifier(
            f"instructions{mode}",
            f"h1r.verify.instructions.grade:grade{mode}",
            warm="h1r.verify.instructions.grade:warm",
            answer_form=None,
            answer_kind="response",
            usable_part="instructions_strict",
            compares=True,
        )
        for mode in ("", "_loose")
    ),
    Verifier(
        "judge",
        grade=None,
        quick="h1r.verify.judge.grade:quick",
        submit="h1r.verify.judge.grade:submit",
        compares=True,
        needs_judge=True,
    ),
    Verifier(
        "math",
        "h1r.mathematics.tiers:grade",
        quick="h1r.mathematics.tiers:quick",
        warm="h1r.mathematics.tiers:warm",
        answer_kind="value",
        compares=True,
        needs_box=True,
        time_limit_s=_MATH_LIMIT_S,
    ),
    Verifier(
        "math_lenient",
        "h1r.mathematics.tiers:grade_lenient",
        quick="h1r.mathematics.tiers:quick_lenient",
        warm="h1r.mathematics.tiers:warm",
        answer_kind="value",
        extract="h1r.mathematics.extract:find_answer",
        compares=True,
        time_limit_s=_MATH_LIMIT_S,
    ),
    Verifier(
        "reasoning_gym",
        "h1r.verify.reasoning_gym:grade",
        quick="h1r.verify.reasoning_gym.plain:quick",
        warm="h1r.verify.reasoning_gym:warm",
        needs_box=True,
        boxes_predictions=True,
        generated=True,
    ),
):
    register(_built_in)
