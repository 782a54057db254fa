"""What the model talks to: an environment gives the first messages of a conversation and answers the model's turns.

    start(problem) -> messages        step(message) -> a reply, several, or None for the end        reward(trace)

Each trace has an environment of its own, made by `kind(**options)` of the recipe's [environment], so that it may keep
state from turn to turn. `start` is called once more for the prompt itself, and must give the same messages for the same
problem. `step` runs in a thread. What `step` and `reward` raise is an error of the trace, and the trace is tried again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from h1r.common.registry import Registry
from h1r.config.rollout import EnvironmentSection
from h1r.errors import UserError
from h1r.records import Message, Problem, Trace

Reply = Message | Sequence[Message] | None


class Environment:
    """One turn: the problem's question, and no reply to the answer. A base class for environments of your own."""

    tools: Sequence[dict[str, Any]] = ()
    """JSON schemas of the functions that the model may call, listed in the system turn."""

    def start(self, problem: Problem) -> list[Message]:
        """The messages before the model's first turn; a "system" message takes the place of the recipe's prompt."""
        return [Message("user", problem.question)]

    def step(self, message: Message) -> Reply:
        """The reply to the model's turn, by "tool" or "user"; None ends the conversation.

        `message.content` is the turn without its thinking, and "" while that is not closed. Both are hostile input.
        """
        return None

    def reward(self, trace: Trace) -> float | None:
        """The reward of the whole trace in [0, 1], 1 for correct; None: the verifier's, which reads the last turn."""
        return None


MakeEnvironment = Callable[[], Environment]
SINGLE_TURN = "single_turn"
ENVIRONMENTS: Registry[Callable[..., Environment]] = Registry(
    "environment", {SINGLE_TURN: f"{__name__}:Environment", "python_tool": "h1r.rollout.python_tool:PythonTool"}
)


def environment(name: str, *, replace: bool = False) -> Callable[[type[Environment]], type[Environment]]:
    """Registers the class that it decorates as the `kind` of that name in a recipe's [environment]."""
    return ENVIRONMENTS.register(name, replace=replace)


def environment_for(problem: Problem, section: EnvironmentSection) -> MakeEnvironment | None:
    """What makes the environment of each of this problem's traces; None for a single turn.

    `UserError` for a name that is not known, or options that the environment does not take.
    """
    name = str(problem.metadata.get("environment") or section.kind)
    if name == SINGLE_TURN:
        return None
    make = partial(ENVIRONMENTS.require(name), **(section.options if name == section.kind else {}))
    try:
        make()
    except TypeError as error:
        raise UserError(
            f"environment `{name}` does not take environment.options = {section.options}: {error}"
        ) from None
    return make
