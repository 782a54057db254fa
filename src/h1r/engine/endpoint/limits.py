"""How many tokens an API lets an answer have: from its list of models, and from its refusals, as servers word them.

    context   prompt and answer together       most   the answer alone

A request that asks for more is refused with status 400 and these numbers; it is then asked again with what there is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from h1r.common.progress import note
from h1r.common.prose import counted
from h1r.engine.requests import allowed_tokens

_CONTEXT = re.compile(r"maximum context length (?:is|of) (\d{1,12})|must be <= (\d{1,12})\. Given: \d{1,12} `inputs`")
_PROMPT = re.compile(r"(?<!\d)(\d{1,12}+) (?:input tokens|in the messages|tokens from the input|`inputs` tokens)")
_MOST = re.compile(
    r"supports at most (\d{1,12}) completion tokens|max_tokens: \d{1,12} > (\d{1,12})"
    r"|max_tokens is \[1, ?(\d{1,12})\]|max_(?:completion_)?tokens`? must be less than or equal to `?(\d{1,12})"
)
_OTHER_NAME = re.compile(r"max_tokens'? is not supported[^.]{0,40}\. Use '?max_completion_tokens")
"""vLLM, SGLang, TGI; OpenAI, Anthropic, DeepSeek, Groq."""


class Limits:
    """What is known of the limits of a model, and of the length of each prompt (by its index)."""

    def __init__(self, listed: Mapping[str, Any]) -> None:
        self.context = next((n for key in ("max_model_len", "context_length") if (n := _size(listed.get(key)))), None)
        self.most: int | None = None
        self.key = "max_tokens"
        self.prompt_tokens: dict[int, int] = {}
        self._said = False

    def max_tokens(self, prompt: int, asked: int) -> int:
        """How many tokens the answer to this prompt may have, where `asked` are wanted. `ValueError` where there is no
        room for one."""
        allowed = min(asked, self.most or asked)
        if self.context is not None:
            allowed = allowed_tokens(self.prompt_tokens.get(prompt, 1), allowed, self.context)
        if allowed < asked and not self._said:
            self._said = True
            note(
                f"max_tokens = {asked} is more than the server has for an answer; answers have at most "
                f"{counted(allowed, 'token')}" + ("" if allowed == self.most else ", by the length of the prompt")
            )
        return allowed

    def learn(self, prompt: int, refusal: str) -> bool:
        """Takes over what a refusal says; whether the request is worth another try."""
        before = self.context, self.most, self.key, self.prompt_tokens.get(prompt)
        if found := _number(_CONTEXT, refusal):
            self.context = found
            if length := _number(_PROMPT, refusal):
                self.prompt_tokens[prompt] = length
        if found := _number(_MOST, refusal):
            self.most = found
        if _OTHER_NAME.search(refusal):
            self.key = "max_completion_tokens"
        return before != (self.context, self.most, self.key, self.prompt_tokens.get(prompt))


def _number(pattern: re.Pattern[str], text: str) -> int | None:
    found = pattern.search(text)
    return int(next(group for group in found.groups() if group)) if found else None


def _size(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 1 else None
