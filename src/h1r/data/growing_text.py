"""The text of tokens as they come, for whoever shows an answer while it is written.

Nothing that was told changes later: the bytes of a character that is not whole are held back.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Any, Protocol

from tokenizers.decoders import ByteLevel

_BROKEN = "\ufffd"
_PRINTABLE = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
_BYTES = {chr(byte): byte for byte in sorted(_PRINTABLE)}
_BYTES |= {chr(0x100 + number): byte for number, byte in enumerate(sorted({*range(0x100)} - _PRINTABLE))}
"""The byte that each character of a byte-level token stands for, as in GPT-2."""


class Growing(Protocol):
    """The text of one trace."""

    def push(self, token_ids: Sequence[int]) -> str:
        """What further tokens add, as far as it is whole."""
        ...


def growing(tokenizer: Any, table: TokenBytes | None = None) -> Growing:
    """For the tokens of one trace. table: `token_bytes` of the tokenizer, None for one that has none."""
    return _Decoded(tokenizer) if table is None else _Joined(table)


def token_bytes(tokenizer: Any) -> TokenBytes | None:
    """The bytes of each token of a byte-level tokenizer, which joined make the text; None of any other."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    joined = backend is not None and isinstance(backend.decoder, ByteLevel)
    return TokenBytes(backend) if joined and not tokenizer.clean_up_tokenization_spaces else None


class TokenBytes(dict[int, bytes]):
    """As the decoder of `tokenizers` reads them: a token with a character that stands for no byte is its own text.
    Looked up once each."""

    def __init__(self, backend: Any) -> None:
        super().__init__()
        self._backend = backend

    def __missing__(self, token_id: int) -> bytes:
        token = self._backend.id_to_token(token_id) or ""
        found = bytes(_BYTES[one] for one in token) if _BYTES.keys() >= {*token} else token.encode()
        self[token_id] = found
        return found


class _Joined:
    """Of a byte-level tokenizer: the text of its tokens' bytes, one after the other."""

    def __init__(self, table: TokenBytes) -> None:
        self._table, self._utf8 = table, codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_ids: Sequence[int]) -> str:
        return self._utf8.decode(b"".join([self._table[one] for one in token_ids]))


class _Decoded:
    """Of any other."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._read = self._told = 0
        """Tokens before which all is decoded, and those whose text was told: what lies between is decoded again, since
        a token's text depends on the one before."""

    def push(self, token_ids: Sequence[int]) -> str:
        self._ids += token_ids
        before = self._tokenizer.decode(self._ids[self._read : self._told])
        now = self._tokenizer.decode(self._ids[self._read :])
        if len(now) <= len(before) or now.endswith(_BROKEN):
            return ""
        self._read, self._told = self._told, len(self._ids)
        return str(now[len(before) :])
