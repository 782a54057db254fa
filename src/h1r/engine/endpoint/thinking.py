"""How many tokens of a trace are thinking, where the tokens are another server's.

Where it tells each token the count is that of the native engine: to the one that ends the last `</think>`, tags
included. Where it tells none, or leaves the tag out of what it tells, the tokens are shared out by characters.
"""

from __future__ import annotations

from h1r.response.extract import THINK_CLOSE, split_response

_MARK = THINK_CLOSE.encode()


class Thinking:
    """Of one trace, whose tokens are pushed in order, as bytes, where they are told."""

    def __init__(self) -> None:
        self._tail = b""
        self._told = self._closed = 0
        """Tokens so far, and those to the last mark."""

    def push(self, content: bytes) -> None:
        """The next token."""
        self._told += 1
        joined = self._tail + content
        if _MARK in joined:
            self._closed, joined = self._told, joined.rpartition(_MARK)[2]
        self._tail = joined[1 - len(_MARK) :]

    def tokens(self, text: str, count: int) -> int:
        """How many of the `count` tokens of this text."""
        found = split_response(text)
        if found.thinking is None:
            return 0
        if self._closed:
            return min(self._closed, count)
        if THINK_CLOSE not in text:
            return count
        return round(count * (text.rindex(THINK_CLOSE) + len(THINK_CLOSE)) / len(text))
