"""What the model is asked: token ids that know which problem they are for, and what will answer the model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from h1r.config.rollout import EnvironmentSection
from h1r.data.chat import conversation_ids, prompt_ids
from h1r.engine.protocol import ChatPrompt
from h1r.errors import UserError
from h1r.records import Problem
from h1r.rollout.environment import MakeEnvironment, environment_for


class ProblemPrompt(ChatPrompt):
    """The token ids of a prompt, or its messages, and the `problem` it was made for. Engines read it as any prompt.

    `environment` makes what answers the model in each trace; None where the first answer is the last.
    """

    def __init__(
        self,
        token_ids: Iterable[int],
        problem: Problem,
        environment: MakeEnvironment | None = None,
        messages: Sequence[dict[str, str]] = (),
    ) -> None:
        super().__init__(token_ids, messages)
        self.problem = problem
        self.environment = environment


def prompts_for(
    tokenizer: Any, problems: Sequence[Problem], system_prompt: str | None, section: EnvironmentSection
) -> list[ProblemPrompt]:
    """The prompt of each problem: its question as the only turn, or the messages that its environment starts with.

    `system_prompt` as in `data.chat.render`. Without a tokenizer prompts are messages alone, and None is no system
    prompt. `UserError` for an environment that is not known, and for one without a tokenizer.
    """
    return [_prompt(tokenizer, problem, system_prompt, section) for problem in problems]


def _prompt(tokenizer: Any, problem: Problem, system_prompt: str | None, section: EnvironmentSection) -> ProblemPrompt:
    make = environment_for(problem, section)
    if tokenizer is None:
        if make is not None:
            raise UserError(
                f"problem {problem.id} has an environment, and conversations with one need an engine that takes tokens"
            )
        system = [{"role": "system", "content": system_prompt}] if system_prompt else []
        return ProblemPrompt((), problem, messages=[*system, {"role": "user", "content": problem.question}])
    if make is None:
        return ProblemPrompt(prompt_ids(tokenizer, problem.question, system_prompt), problem)
    first = make()
    messages = first.start(problem)
    return ProblemPrompt(conversation_ids(tokenizer, messages, system_prompt, first.tools), problem, make)
