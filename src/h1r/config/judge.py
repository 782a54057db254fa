"""The language model that judges answers which no rule can check."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import model_validator

from h1r.config.base import NonNegative, Positive, PositiveFloat, Section


class JudgeSection(Section):
    """Servers for the verifier `judge` (section 3.4 names parallel vLLM instances, neither model nor prompt).

    An API key is no part of a recipe: it is read from the environment variable H1R_JUDGE_API_KEY.
    """

    urls: list[str] = []
    """OpenAI-compatible servers with their `/v1`, asked in turns. Empty: problems with this verifier are refused."""
    model: str = ""
    """The model's name there."""
    concurrency: Positive = 32
    """Requests at once on each server. Our choice."""
    timeout_s: PositiveFloat = 120.0
    """Of one attempt. Our choice."""
    attempts: Positive = 5
    """Tries of one request before the answer counts as wrong, with an error. Our choice."""
    temperature: NonNegative = 0.0
    """Sampling temperature of the judge. Our choice."""
    max_tokens: Positive = 2048
    """Longest reply, its thinking included. Our choice."""
    max_question_chars: Positive = 20_000
    """A longer question is cut in its middle. Our choice."""
    max_answer_chars: Positive = 4_000
    """A longer answer is cut to its end. Our choice."""
    reply: Literal["verdict", "brackets", "boxed", "square", "decision", "compass", "hle", "conclusion"] = "verdict"
    """Form of the verdict, for models that were trained on one (`h1r.verify.judge.forms`). Problems that ask with a
    benchmark's own words (`metadata` "judge") have the form of these. Our choice."""
    cache: str | None = None
    """SQLite file that keeps judgements from run to run. Unset: they are kept in memory."""

    @model_validator(mode="after")
    def _model_is_named(self) -> JudgeSection:
        if bool(self.urls) != bool(self.model):
            raise ValueError("urls and model go together; give both or neither")
        return self

    def decides(self, judge_on: str) -> list[Any]:
        """What of this a verdict depends on, with `verify.judge_on`; what is as it is by default is not in it."""
        words = {"temperature", "max_tokens", "max_question_chars", "max_answer_chars", "reply"}
        changed = self.model_dump(include=words, exclude_defaults=True)
        return [self.model, judge_on, *([changed] if changed else [])]
