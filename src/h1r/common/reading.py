r"""Text files as they come: compressed or not, in any Unicode encoding that says which, with any line ends.

    bytes -> decompressed (gzip, Zstandard) -> UTF-8 without a byte order mark -> lines that end with \n

What a file is, its first bytes tell, never its name: an archive without `.gz` is read, and plain text called `.gz`. A
file that ends before its time (`DamagedError`) gives its whole lines first. Time and memory are linear in what is read;
nothing is held but a block and a line.
"""

from __future__ import annotations

import codecs
import io
import json
import re
import sys
import unicodedata
import zlib
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from h1r.errors import UserError

BLOCK_BYTES = 1 << 20
MAX_NESTING = 100
"""Lists and objects in each other; the deepest of known data sets have about ten."""
NESTED = "nested too deep"
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF32_LE, "utf-32-le"), (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"),
)  # fmt: skip
"""Byte order marks; that of UTF-32 begins with that of UTF-16."""
_HALF_PAIR = re.compile(rb"\\u[dD][89a-fA-F]")
_INVISIBLE = re.compile("[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f\u200b\u2060\ufeff]")


class DamagedError(Exception):
    """A file cannot be read to its end; the text says why."""


def clean(text: str) -> str:
    """A text in composed Unicode with plain line ends, without blanks around and characters that nobody sees."""
    return clean_inside(text).strip()


def clean_inside(text: str) -> str:
    """The same with the blanks around."""
    return unicodedata.normalize("NFC", _INVISIBLE.sub("", text.replace("\r\n", "\n").replace("\r", "\n")))


def blocks(read: Callable[[int], bytes | None]) -> Iterator[bytes]:
    r"""The text behind `read(size)` as UTF-8, a block for each that is read; line ends are \n. `DamagedError`."""
    return _newlines(_utf8(_decompressed(iter(lambda: read(BLOCK_BYTES) or b"", b""))))


def lines(path: str | Path) -> Iterator[tuple[int, bytes]]:
    """(number from 1, bytes in UTF-8) of every line of a file. `UserError` for one that cannot be opened,
    `DamagedError` behind the last whole line of one that ends before its time."""
    number, parts = 1, list[bytes]()
    for block in file_blocks(path):
        *ends, rest = block.split(b"\n")
        for end in ends:
            yield number, b"".join((*parts, end))
            number, parts = number + 1, []
        if rest:
            parts.append(rest)
    if parts:
        yield number, b"".join(parts)


def whole(path: str | Path) -> str:
    """A file's text. `UserError` for one that cannot be read to its end, or is not UTF-8."""
    try:
        return decoded(b"".join(file_blocks(path)))
    except (DamagedError, ValueError) as error:
        raise UserError(f"{path}: {error}; give the whole file") from None


def file_blocks(path: str | Path) -> Iterator[bytes]:
    """`blocks` of a file. `UserError` for one that cannot be read."""
    try:
        with open(path, "rb", buffering=0) as handle:
            yield from blocks(handle.read)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}; check the path") from None


def decoded(line: bytes) -> str:
    """A line as text. `ValueError` names the first byte that is not UTF-8."""
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 (byte 0x{line[error.start]:02x} at {error.start})") from None


def json_value(line: bytes) -> Any:
    """The JSON value of a line. `ValueError` says in a phrase why there is none; half a surrogate pair is no text, and
    what is nested deeper than MAX_NESTING no data."""
    try:
        value = json.loads(decoded(line.removeprefix(codecs.BOM_UTF8)))
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error})" if line.strip() else "empty") from None
    except RecursionError:
        raise ValueError(f"not JSON ({NESTED})") from None
    except ValueError as error:
        if "digits" not in str(error):
            raise
        raise ValueError(f"a whole number of more than {sys.get_int_max_str_digits():,} digits") from None
    if line.count(b"[") + line.count(b"{") > MAX_NESTING and is_deep(value):
        raise ValueError(NESTED)
    if _HALF_PAIR.search(line):
        refuse_half_pairs(json.dumps(value, ensure_ascii=False))
    return value


def is_deep(value: Any) -> bool:
    """Whether lists and objects stand in each other beyond MAX_NESTING: code that walks them would end in the middle of
    a run, with a traceback."""
    level = [value]
    for _ in range(MAX_NESTING + 1):
        level = [
            inner
            for one in level
            if isinstance(one, list | dict)
            for inner in (one.values() if isinstance(one, dict) else one)
            if isinstance(inner, list | dict)
        ]
        if not level:
            return False
    return True


def refuse_half_pairs(text: str) -> None:
    """`ValueError` for a text that holds half a surrogate pair, which no file can."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"half a surrogate pair (\\u{ord(text[error.start]):04x}), which is no text") from None


def _decompressed(raw: Iterator[bytes]) -> Iterator[bytes]:
    head, raw = _peeked(raw, len(_ZSTD))
    if head.startswith(_GZIP):
        return _gunzipped(raw)
    return _unzstd(raw) if head.startswith(_ZSTD) else raw


def _gunzipped(raw: Iterator[bytes]) -> Iterator[bytes]:
    member, rest = zlib.decompressobj(wbits=31), b""
    begun = False
    for block in raw:
        rest = block
        while rest:
            if member.eof:  # another archive may follow, or zeros that fill a tape
                rest = rest.lstrip(b"\0")
                if not rest:
                    break
                member, begun = zlib.decompressobj(wbits=31), False
            try:
                text = member.decompress(rest, BLOCK_BYTES)
            except zlib.error as error:
                raise DamagedError(f"its gzip stream is damaged ({error})") from None
            begun = True
            rest = member.unconsumed_tail or member.unused_data
            if text:
                yield text
    while begun and not member.eof:
        if not (text := member.decompress(b"", BLOCK_BYTES)):
            raise DamagedError("its gzip stream is cut off")
        yield text


def _unzstd(raw: Iterator[bytes]) -> Iterator[bytes]:
    import pyarrow as pa  # takes a while, and few files need it

    try:
        with pa.CompressedInputStream(pa.PythonFile(io.BufferedReader(_Blocks(raw)), mode="r"), "zstd") as stream:
            while block := stream.read(BLOCK_BYTES):
                yield block
    except (OSError, pa.ArrowException) as error:
        raise DamagedError(f"its zstd stream is damaged or cut off ({error})") from None


class _Blocks(io.RawIOBase):
    """Blocks as a file."""

    def __init__(self, raw: Iterator[bytes]) -> None:
        self._raw, self._held = raw, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        held = self._held or next(self._raw, b"")
        size = min(len(held), len(buffer))
        buffer[:size] = held[:size]
        self._held = held[size:]
        return size


def _utf8(raw: Iterator[bytes]) -> Iterator[bytes]:
    head, raw = _peeked(raw, 4)
    mark, name = next(((mark, name) for mark, name in _MARKS if head.startswith(mark)), (b"", "utf-8"))
    if mark:
        raw = chain([next(raw)[len(mark) :]], raw)
    return raw if name == "utf-8" else _transcoded(raw, name)


def _transcoded(raw: Iterator[bytes], name: str) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder(name)()
    try:
        for block in raw:
            yield decoder.decode(block).encode()
        yield decoder.decode(b"", final=True).encode()
    except UnicodeDecodeError as error:
        raise DamagedError(f"it begins with the mark of {name.upper()} and is not ({error.reason})") from None


def _newlines(raw: Iterator[bytes]) -> Iterator[bytes]:
    held = b""
    for block in raw:
        block, held = held + block, b""
        if block.endswith(b"\r"):
            block, held = block[:-1], b"\r"
        if b"\r" in block:
            block = block.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if block:
            yield block
    if held:
        yield b"\n"


def _peeked(raw: Iterator[bytes], size: int) -> tuple[bytes, Iterator[bytes]]:
    """The first bytes, `size` of them or all there are, and the blocks with them in front."""
    head = b""
    for block in raw:
        head += block
        if len(head) >= size:
            break
    return head, chain([head], raw)
