"""What the model is asked: token ids that know which problem they are for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from h1r.data.chat import prompt_ids
from h1r.records import Problem


class ProblemPrompt(list[int]):
    """The token ids of a prompt, and the `problem` that it was made for. Engines read it as any prompt."""

    def __init__(self, token_ids: Iterable[int], problem: Problem) -> None:
        super().__init__(token_ids)
        self.problem = problem


def prompts_for(tokenizer: Any, problems: Sequence[Problem], system_prompt: str | None) -> list[ProblemPrompt]:
    """The prompt of each problem: its question as the only turn. `system_prompt` as in `data.chat.render`."""
    return [ProblemPrompt(prompt_ids(tokenizer, one.question, system_prompt), one) for one in problems]
