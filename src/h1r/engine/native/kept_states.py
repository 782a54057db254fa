"""States that a later prompt may go on from: of traces that ended (`SamplingParams.keep_state`), and of prompts alone
(`keep_prompt`).

A state is one row of a cache of its own, of exactly the length that it holds: the prompt and all but the last token of
the trace, which has not been through the model. A prompt that begins with these tokens is prefilled from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from h1r.models.cache import KVCache

MOST_PROMPTS = 64
"""States that are kept where prompts are: about as many chats go on at a time. Our choice."""


@dataclass(eq=False)
class KeptState:
    token_ids: list[int]
    cache: KVCache
    """One row, of len(token_ids) tokens."""
    num_bytes: int


class KeptStates:
    """At most `limit` bytes: the oldest make room for a new one. A prompt whose state is gone is prefilled whole."""

    def __init__(self) -> None:
        self.limit = 0.0
        self.reused_tokens = 0
        """Prompt tokens of all calls so far that were not prefilled again."""
        self._states: list[KeptState] = []

    @property
    def num_bytes(self) -> int:
        return sum(one.num_bytes for one in self._states)

    def make_room(self, num_bytes: int) -> bool:
        """Forgets the oldest states until so many bytes are free; forgets none, and is False, where they never are."""
        if num_bytes > self.limit:
            return False
        while self.num_bytes + num_bytes > self.limit:
            del self._states[0]
        return True

    def make_room_for_prompt(self, token_ids: list[int], num_bytes: int) -> bool:
        """The same for a prompt's state; False where it is kept already."""
        if any(one.token_ids == token_ids for one in self._states) or not self.make_room(num_bytes):
            return False
        del self._states[: max(0, len(self._states) - MOST_PROMPTS + 1)]
        return True

    def add(self, state: KeptState) -> None:
        self._states.append(state)

    def take(self, prompt: Sequence[int]) -> KeptState | None:
        """The longest state that a prompt begins with and goes beyond; it is no longer kept."""
        fitting = [one for one in self._states if _begins(prompt, one.token_ids)]
        if not fitting:
            return None
        best = max(fitting, key=lambda one: len(one.token_ids))
        self._states.remove(best)
        self.reused_tokens += len(best.token_ids)
        return best

    def clear(self) -> None:
        self._states = []


def _begins(prompt: Sequence[int], token_ids: list[int]) -> bool:
    return len(prompt) > len(token_ids) and list(prompt[: len(token_ids)]) == token_ids
