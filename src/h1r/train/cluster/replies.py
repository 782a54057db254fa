"""What actors say, with mistakes of the user's as `UserError`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from h1r.common.prose import counted
from h1r.errors import UserError


class TrainerLostError(UserError):
    """A trainer's actor died. what: without what to do."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}; --resume goes on from the newest checkpoint")
        self.what = what


def line(error: Exception) -> str:
    """The first line of what Ray says of an actor that died, or the error's name where it says nothing."""
    text = str(error).strip()
    return text.splitlines()[0].rstrip(".") if text else type(error).__name__


def answers(ray: Any, asked: Sequence[Any], what: str) -> list[Any]:
    """All answers in order, or the first failure as soon as it comes: others may wait for who failed. Raises
    `UserError` where an actor did, `RuntimeError` where it failed otherwise, and Ray's own errors where one died."""
    waiting = list(asked)
    while waiting:
        ended, waiting = ray.wait(waiting)
        for one in ended:
            answer(ray, one, what)
    return [answer(ray, one, what) for one in asked]


def first_dead(ray: Any, asked: Sequence[Any], limit_s: float) -> Exception | None:
    """What Ray says of an actor that died, of those that were asked; None where all answer, or are at work still after
    `limit_s`."""
    ended, _ = ray.wait(list(asked), num_returns=len(asked), timeout=limit_s)
    for one in ended:
        try:
            ray.get(one)
        except ray.exceptions.RayActorError as error:
            found: Exception = error
            return found
        except ray.exceptions.RayTaskError:
            continue
    return None


def answer(ray: Any, asked: Any, what: str) -> Any:
    """One of `answers`."""
    try:
        return ray.get(asked)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        if isinstance(cause, UserError):
            raise UserError(str(cause)) from None
        raise RuntimeError(f"a {what} on the Ray cluster failed: {error}") from error


def first_answers(ray: Any, asked: Sequence[Any], limit_s: float, what: str) -> list[Any]:
    """Those of actors that are still to start; `UserError` where some do not in `limit_s`, or die."""
    started, late = ray.wait(list(asked), num_returns=len(asked), timeout=limit_s)
    if late:
        _first(ray, started, what)
        raise UserError(
            f"{len(late)} of {counted(len(asked), what)} did not start in {limit_s:g} s: the cluster has too few free "
            "processors or cards; lower cluster.trainers or cluster.engines, or raise cluster.start_limit_s"
        )
    return _first(ray, asked, what)


def _first(ray: Any, asked: Sequence[Any], what: str) -> list[Any]:
    try:
        return answers(ray, asked, what)
    except ray.exceptions.RayActorError as error:
        raise UserError(
            f"one of {counted(len(asked), what)} died when it started ({line(error)}); look whether its machine has "
            "room for it"
        ) from error
