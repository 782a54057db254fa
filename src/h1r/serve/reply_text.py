"""What a client sees of a model's text: the thinking apart from the answer, whole or as it comes.

    <think>\\nLet me see.\\n</think>\\n\\n\\\\boxed{4}      reasoning_content "Let me see."      content "\\\\boxed{4}"

A stream tells text once it cannot change any more: what might be the beginning of a tag or of a stop string, and the
bytes of a character that is not whole, are held back.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from h1r.data.chat import THINK_CLOSE, THINK_OPEN
from h1r.data.growing_text import Growing, growing, token_bytes
from h1r.response.extract import split_response
from h1r.serve.messages import TOOL_CALL


def parts_of(text: str, open_thinking: bool = False) -> tuple[str | None, str]:
    """Thinking (None without any) and answer, without the blanks around the tags. open_thinking: the tag that opens it
    stands in the prompt."""
    found = split_response(f"{THINK_OPEN}{text}" if open_thinking and THINK_OPEN not in text else text)
    thinking = None if found.thinking is None else found.thinking.strip()
    if found.answer is None:
        return thinking, ""
    return thinking, found.answer if thinking is None else found.answer.lstrip()


class TokenTexts:
    """What tokens are as text. Those of a byte-level tokenizer are looked up in it once each, as bytes."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._table = token_bytes(tokenizer)

    def one(self, token_id: int) -> str:
        """The text of a token by itself."""
        return self.bytes_of(token_id).decode(errors="replace")

    def bytes_of(self, token_id: int) -> bytes:
        """The bytes of a token; of a byte-level tokenizer those that make the text when they are joined."""
        if self._table is None:
            return str(self._tokenizer.decode([token_id])).encode(errors="replace")
        return self._table[token_id]

    def thinking(self, token_ids: Sequence[int], text: str) -> int:
        """How many tokens of a trace with this text are thinking, its tags included."""
        thinking, answer = parts_of(text)
        if thinking is None:
            return 0
        if not answer and THINK_CLOSE not in text:
            return len(token_ids)
        if self._table is None:
            written = self._tokenizer.decode(list(token_ids))  # without what the prompt opened of the thinking
            whole = written.rfind(THINK_CLOSE, 0, len(text)) + len(THINK_CLOSE)
            return bisect_left(
                range(len(token_ids)), whole, key=lambda count: len(self._tokenizer.decode(list(token_ids[:count])))
            )
        pieces, mark, end = [self._table[one] for one in token_ids], THINK_CLOSE.encode(), 0
        joined = b"".join(pieces)
        for _ in range(text.count(THINK_CLOSE)):
            end = joined.index(mark, end) + len(mark)
        return bisect_left(list(accumulate(map(len, pieces))), end) + 1

    def growing(self) -> Growing:
        """For the tokens of one trace."""
        return growing(self._tokenizer, self._table)


class Splitter:
    """Text as it comes, in pieces of ("reasoning_content" | "content", text). stops: strings that may end it.

    tools: from a tool call on nothing is told before the end, when `rest` holds it. raw: all text is the answer.
    """

    def __init__(
        self, stops: Sequence[str] = (), tools: bool = False, open_thinking: bool = False, raw: bool = False
    ) -> None:
        self._stops, self._tools = stops, tools
        self._text = ""
        self._where = "answer" if raw else "thinking" if open_thinking else "start"
        self._blank = not raw
        """Whether only blanks of this part have come, which are left out."""
        self.told = {"reasoning_content": "", "content": ""}

    def push(self, text: str) -> list[tuple[str, str]]:
        if self._where == "answer" and not (self._stops or self._tools or self._blank):
            self.told["content"] += text
            return [("content", text)] if text else []
        self._text += text
        found: list[tuple[str, str]] = []
        while (piece := self._next()) is not None:
            if piece[1]:
                found.append(piece)
                self.told[piece[0]] += piece[1]
        return found

    def rest(self, thinking: str | None, answer: str) -> list[tuple[str, str]]:
        """What is still to be told of both, which are known now. Of a text that closes a thinking which it never opened
        all was told as the answer, and so is what was held back of it."""
        if self.told["content"] and not answer.startswith(self.told["content"]):
            return [("content", self._text)] if self._text and self._where == "answer" else []
        left = []
        for name, text in (("reasoning_content", thinking or ""), ("content", answer)):
            if text.startswith(self.told[name]) and (more := text[len(self.told[name]) :]):
                left.append((name, more))
        return left

    @property
    def _name(self) -> str:
        return "reasoning_content" if self._where == "thinking" else "content"

    def _next(self) -> tuple[str, str] | None:
        """The next piece; ("", "") where something was passed over; None where more must come first."""
        if self._where == "start":
            text = self._text.lstrip()
            if THINK_OPEN.startswith(text) and len(text) < len(THINK_OPEN):
                return None
            if text.startswith(THINK_OPEN):
                self._where, self._text = "thinking", text[len(THINK_OPEN) :]
            else:
                self._where, self._blank = "answer", False
            return ("", "")
        if self._where == "held":
            return None
        mark = THINK_CLOSE if self._where == "thinking" else TOOL_CALL if self._tools else None
        ends = [at for stop in self._stops if (at := self._text.find(stop)) >= 0]
        at = -1 if mark is None else self._text.find(mark)
        if mark is not None and 0 <= at <= min(ends, default=at):  # a stop string before it ends the text
            before, after = self._text[:at], self._text[at:]
            if self._where == "thinking":
                told = self._begun(before).rstrip()
                self._where, self._text, self._blank = "answer", after[len(mark) :], True
                return ("reasoning_content", told)
            self._where, self._text = "held", after
            return ("content", self._begun(before).rstrip())
        if ends:
            name, ready = self._name, self._begun(self._text[: min(ends)])
            self._where, self._text = "held", ""
            return (name, ready.rstrip() if name == "reasoning_content" else ready)
        keep = max((_held(self._text, one) for one in (*self._stops, *([mark] if mark else []))), default=0)
        ready = self._text[: len(self._text) - keep]
        if mark is not None:  # blanks before a tag are none of the text's
            ready = ready.rstrip()
        told = self._begun(ready)
        if not told:  # blanks stay, since they may be the beginning of a stop string
            return None
        self._text, self._blank = self._text[len(ready) :], False
        return (self._name, told)

    def _begun(self, text: str) -> str:
        """Without the blanks that a part begins with."""
        return text.lstrip() if self._blank else text


def _held(text: str, mark: str) -> int:
    """How many of the last characters may be the beginning of the mark."""
    return next((n for n in range(min(len(text), len(mark) - 1), 0, -1) if mark.startswith(text[-n:])), 0)
