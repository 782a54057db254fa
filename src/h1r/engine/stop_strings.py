"""How a trace ends in its text: stop strings, and the text that is left of its tokens. What every engine shares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def holds_stop_string(tokenizer: Any, ids: Sequence[int], stops: Sequence[str]) -> bool:
    """Whether the last of these tokens complete one of the strings. Asked at every token, so it reads the tail only."""
    # A stop string of c characters spans at most the last 4 c byte-level tokens (UTF-8).
    reach = 4 * max(len(stop) for stop in stops)
    tail = tokenizer.decode(list(ids[-reach:]))
    return any(stop in tail for stop in stops)


def text_of(tokenizer: Any, ids: Sequence[int], ended: bool, stops: Sequence[str]) -> str:
    """The text of a trace, without the end token that it closes with (`ended`) and from the first stop string on
    without anything; "" without a tokenizer."""
    if tokenizer is None:
        return ""
    text: str = tokenizer.decode(list(ids[:-1] if ended else ids))
    cuts = [at for stop in stops if (at := text.find(stop)) >= 0]
    return text[: min(cuts)] if cuts else text
