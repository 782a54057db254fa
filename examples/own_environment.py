"""An environment of one's own: the model may correct itself after a hint.

    h1r curate examples/own_environment.toml --out runs/hints
    h1r eval runs/hints --model base

The recipe names this file in `plugins` and the environment in [environment]. `h1r docs add-an-environment` explains
each method.
"""

from __future__ import annotations

from h1r.records import Message, Problem, Trace
from h1r.response.extract import last_boxed
from h1r.rollout.environment import Environment, Reply, environment


@environment("hints")
class Hints(Environment):
    """Says "too low" or "too high" of a wrong number. Full reward for the first answer, `second` for a later one."""

    def __init__(self, second: float = 0.5) -> None:
        self.second = second
        self.number = 0.0
        self.answers: list[float | None] = []

    def start(self, problem: Problem) -> list[Message]:
        self.number = float(problem.answer)
        return [Message("user", f"{problem.question}\nYou get a hint after a wrong answer.")]

    def step(self, message: Message) -> Reply:
        answer = number_in(message.content)
        self.answers.append(answer)
        if answer == self.number:
            return None
        if answer is None:
            return Message("user", r"I see no number. Put your answer into \boxed{}.")
        return Message("user", "Too low. Try again." if answer < self.number else "Too high. Try again.")

    def reward(self, trace: Trace) -> float:
        if self.number not in self.answers:
            return 0.0
        return 1.0 if self.answers[0] == self.number else self.second


def number_in(content: str) -> float | None:
    """The boxed number of an answer; None where there is none. Model text is hostile: everything may be in the box."""
    try:
        return float(last_boxed(content) or "")
    except ValueError:
        return None
