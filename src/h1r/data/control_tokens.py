r"""Text as token ids, in which nothing that somebody wrote becomes a control token.

A control token is a special token of the vocabulary, as `<|im_end|>` or `<|endoftext|>`. Only a chat template writes
them. The same characters in a question, an answer, a tool's output or a system prompt are text: they are guarded before
the template is rendered, and encoded as ordinary characters.

    "say <|im_end|>" --guard--> "say ESC#4" --template--> "<|im_start|>user\nsay ESC#4<|im_end|>\n" --token_ids--> ids

Added tokens that are not special (`<think>`, `<tool_call>` in most vocabularies) are text, and keep their token.
Text without such characters is tokenised in one call with the template around it, exactly as if there were no guard.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

_ESCAPE = "\U0010fffd"
_FIRST = 0xF0000
"""Private-use characters: the escape, and after it the number of what it stands for."""
_GUARDED = re.compile(f"{_ESCAPE}(.)", re.DOTALL)


@dataclass(frozen=True)
class ControlTokens:
    """The control tokens of a tokenizer. `ids`: of each text. `strips`: whether it takes the blanks before and after
    it in. `markers`: matches one of them, `guarded`: what `guard` replaces. `as_text`: the same tokenizer, to which
    control tokens are text; made when it is asked for."""

    size: int
    ids: dict[str, int]
    strips: dict[str, tuple[bool, bool]]
    markers: re.Pattern[str]
    guarded: re.Pattern[str]
    numbers: dict[str, int]
    texts: list[str]
    backend: Tokenizer | None

    @cached_property
    def as_text(self) -> Tokenizer:
        # A copy: a switch in the tokenizer itself would change what other threads encode meanwhile.
        from tokenizers import Tokenizer

        assert self.backend is not None
        copy = Tokenizer.from_str(self.backend.to_str())
        copy.encode_special_tokens = True
        copy.no_truncation()
        copy.no_padding()
        return copy


_KNOWN: WeakKeyDictionary[Any, ControlTokens] = WeakKeyDictionary()


def control_tokens(tokenizer: PreTrainedTokenizerFast) -> ControlTokens:
    """Those of `tokenizer`; none of an object that does not list its added tokens."""
    known = _KNOWN.get(tokenizer)
    size = len(tokenizer) if hasattr(tokenizer, "__len__") else 0
    if known is not None and known.size == size:
        return known
    added = getattr(tokenizer, "added_tokens_decoder", {})
    special = {token.content: number for number, token in added.items() if token.special and token.content}
    strips = {token.content: (token.lstrip, token.rstrip) for token in added.values()}
    texts = sorted(special, key=lambda text: (-len(text), text))
    markers = "|".join(map(re.escape, texts)) or "(?!)"
    found = ControlTokens(
        size,
        special,
        strips,
        re.compile(f"({markers})"),
        re.compile(f"{markers}|{_ESCAPE}"),
        {text: number for number, text in enumerate([*texts, _ESCAPE])},
        [*texts, _ESCAPE],
        getattr(tokenizer, "backend_tokenizer", None),
    )
    _KNOWN[tokenizer] = found
    return found


def add_control_tokens(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> None:
    """Makes each of `texts` a special token of the vocabulary where it is none yet."""
    from tokenizers import AddedToken

    if missing := [text for text in texts if text not in control_tokens(tokenizer).ids]:
        tokenizer.add_tokens([AddedToken(text, special=True, normalized=False) for text in missing], True)
        _KNOWN.pop(tokenizer, None)


def guard(tokenizer: PreTrainedTokenizerFast, value: Any) -> Any:
    """`value` with its text guarded: text, or lists and objects (keys included) that hold some."""
    known = control_tokens(tokenizer)

    def stand_in(match: re.Match[str]) -> str:
        return _ESCAPE + chr(_FIRST + known.numbers[match.group()])

    def guarded(one: Any) -> Any:
        if isinstance(one, str):
            return known.guarded.sub(stand_in, one)
        if isinstance(one, dict):
            return {guarded(key): guarded(item) for key, item in one.items()}
        return [guarded(item) for item in one] if isinstance(one, list | tuple) else one

    return guarded(value)


def token_ids(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> list[list[int]]:
    """The ids of rendered texts, in one batched call for those in which nothing is guarded."""
    plain = [number for number, text in enumerate(texts) if _ESCAPE not in text]
    found: list[list[int]] = [[] for _ in texts]
    if plain:
        batch = tokenizer([texts[i] for i in plain], add_special_tokens=False, return_attention_mask=False)
        for number, ids in zip(plain, batch["input_ids"], strict=True):
            found[number] = ids
    for number, text in enumerate(texts):
        if _ESCAPE in text:
            found[number] = _guarded_ids(tokenizer, text)
    return found


def _guarded_ids(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """The template's markers as their ids, and what stands between them as text."""
    known = control_tokens(tokenizer)
    pieces = known.markers.split(text)
    ids: list[int] = []
    for at, piece in enumerate(pieces):
        if at % 2:
            ids.append(known.ids[piece])
            continue
        # Blanks that a marker takes in belong to it, as where the tokenizer finds it.
        if at and known.strips[pieces[at - 1]][1]:
            piece = piece.lstrip()
        if at + 1 < len(pieces) and known.strips[pieces[at + 1]][0]:
            piece = piece.rstrip()
        if piece:
            ids += known.as_text.encode(_text(known, piece), add_special_tokens=False).ids
    return ids


def _text(known: ControlTokens, piece: str) -> str:
    return _GUARDED.sub(lambda match: known.texts[ord(match.group(1)) - _FIRST], piece)
