"""What a client has of another server's stream, and what of a second server's stream goes beyond it.

A server that dies in the middle is followed by another one, which begins again: with the same seed it writes the same,
in other pieces and under other ids. What the client has already is left out, and ids and numbers go on as they were.
Where the second server writes something else, the stream ends with an error.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from h1r.serve.errors import ApiError

_TEXTS = ("content", "reasoning_content", "reasoning", "text")
ENDS = frozenset({"response.completed", "response.incomplete"})
"""Events that a stream of `/v1/responses` ends with: vLLM's, as OpenAI's, has no `[DONE]`."""
FAILURES = frozenset({"error", "response.failed"})

_Key = tuple[Any, ...]


class Retold:
    """One client's stream. `begin` is called before each server's."""

    def __init__(self) -> None:
        self._told: dict[_Key, str] = {}
        """The client's, of each text: what a choice or an item says, the arguments of a call."""
        self._awaited: dict[_Key, str] = {}
        """What of it the present server has still to write again."""
        self._counts: Counter[_Key] = Counter()
        """How often the client was told what is no text: events of a response, tokens with log-probabilities."""
        self._left: Counter[_Key] = Counter()
        """How many of them the present server has still to tell again."""
        self._ids: dict[_Key, str] = {}
        self._number = 0
        self._any = self._again = False

    def begin(self) -> None:
        """A server begins."""
        self._awaited, self._left, self._again = dict(self._told), self._counts.copy(), self._any

    def unsaid(self, data: dict[str, Any]) -> dict[str, Any] | None:
        """A chunk or event without what the client has; None where nothing is left of it. `ApiError` where it is
        another text. Anything else that is raised: it is no chunk."""
        left = self._event(data) if str(data.get("type", "")).startswith("response.") else self._chunk(data)
        self._any = self._any or left is not None
        return left

    def _chunk(self, data: dict[str, Any]) -> dict[str, Any] | None:
        """Of a chat or a completion."""
        self._keep(data, "id", ("chunk",))
        cut = bool(data.get("usage")) and not data.get("choices") and bool(self._passed(("usage",), 1))
        for choice in data.get("choices") or ():
            index = int(choice.get("index", 0))
            place = choice.get("delta", choice)
            for name in _TEXTS:
                cut |= self._cut(place, name, (index, name))
            calls = place.get("tool_calls") or ()
            for call in calls:
                key = index, "call", int(call.get("index", 0))
                self._keep(call, "id", key)
                function = call.get("function") or {}
                for name in ("name", "arguments"):
                    cut |= self._cut(function, name, (*key, name))
                if self._again and not function.get("name"):  # the rest of a call that the client knows
                    call.pop("id", None)
                    function.pop("name", None)
            if cut and calls:
                place["tool_calls"] = [one for one in calls if any((one.get("function") or {}).values())]
            if choice.get("finish_reason") and self._passed((index, "end"), 1):
                choice["finish_reason"], cut = None, True
            for name, tokens in _token_lists(choice.get("logprobs")):
                tokens[:] = tokens[self._passed((index, name), len(tokens)) :]
        return None if cut and not _says(data) else data

    def _event(self, data: dict[str, Any]) -> dict[str, Any] | None:
        """Of `/v1/responses`."""
        place = data.get("output_index")
        key = (data["type"], place, data.get("content_index"), data.get("summary_index"))
        self._keep(data, "item_id", ("id", place))
        response = data.get("response") or {}
        self._keep(response, "id", ("response",))
        for number, item in [(place, data.get("item") or {}), *enumerate(response.get("output") or ())]:
            for name in ("id", "call_id"):
                self._keep(item, name, (name, number))
        if isinstance(data.get("delta"), str):
            if self._cut(data, "delta", key) and not data["delta"]:
                return None
        elif self._passed(key, 1):
            return None
        if self._again and "sequence_number" in data:
            data["sequence_number"] = self._number
        self._number = int(data.get("sequence_number", -1)) + 1
        return data

    def _cut(self, place: dict[str, Any], name: str, key: _Key) -> bool:
        """Leaves out of a text what the client has of it; whether that is something."""
        text = place.get(name)
        if not isinstance(text, str) or not text:
            return False
        awaited = self._awaited.get(key, "")
        common = min(len(awaited), len(text))
        if awaited[:common] != text[:common]:
            raise ApiError(
                502, "the server died in the middle of its answer, and another one with the same seed writes another",
                code="backend_failed",
            )  # fmt: skip
        self._awaited[key] = awaited[common:]
        place[name] = new = text[common:]
        self._told[key] = self._told.get(key, "") + new
        return common > 0

    def _passed(self, key: _Key, count: int) -> int:
        """Of so many that come now, those that the client has."""
        passed = min(count, self._left[key])
        self._left[key] -= passed
        self._counts[key] += count - passed
        return passed

    def _keep(self, place: dict[str, Any], name: str, key: _Key) -> None:
        """Has an id of a later server be the one that the client was told."""
        if isinstance(given := place.get(name), str):
            first = self._ids.setdefault(key, given)
            place[name] = first if self._again else given


def _says(data: dict[str, Any]) -> bool:
    """Whether a chunk tells anything."""
    for choice in data.get("choices") or ():
        place = choice.get("delta", choice)
        if choice.get("finish_reason") or any(place.get(name) for name in (*_TEXTS, "tool_calls")):
            return True
        if any(tokens for _, tokens in _token_lists(choice.get("logprobs"))):
            return True
    return False


def _token_lists(logprobs: Any) -> Iterator[tuple[str, list[Any]]]:
    """What a choice's `logprobs` has one of for each token, by name."""
    if isinstance(logprobs, dict):
        for name in ("content", "tokens", "token_logprobs", "top_logprobs", "text_offset"):
            if isinstance(tokens := logprobs.get(name), list):
                yield name, tokens
