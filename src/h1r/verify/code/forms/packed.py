"""Tests that are a text: JSON, test code, or LiveCodeBench's packed form, base64 of zlib of a pickled JSON text."""

from __future__ import annotations

import base64
import json
import pickletools
import re
import zlib
from typing import Any

from h1r.verify.code.kinds import TestsError

MAX_UNPACKED_BYTES = 512 << 20


def unpacked(text: str) -> Any:
    """What the text holds; `TestsError` for packed tests that cannot be read."""
    try:
        return json.loads(text)
    except ValueError:
        pass
    if not re.fullmatch(r"[A-Za-z0-9+/=\s]+", text):
        return [text]
    try:
        unpacker = zlib.decompressobj()
        return json.loads(_pickled_text(unpacker.decompress(base64.b64decode(text), MAX_UNPACKED_BYTES)))
    except (ValueError, TypeError, zlib.error) as error:
        raise TestsError(f"packed tests that cannot be read ({type(error).__name__})") from None


_TEXT_CODES = {"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE"}
_OTHER_CODES = {"PROTO", "FRAME", "MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT"}
"""What else a pickled text is made of. Nothing is built: a pickle of a few characters can make an unpickler claim
gigabytes (a length that is only said, a place of the memo far away)."""


def _pickled_text(packed: bytes) -> str:
    """The text that a pickle of one text holds; `ValueError` for any other pickle."""
    found: str | None = None
    for code, argument, _ in pickletools.genops(packed):
        if code.name in _TEXT_CODES and found is None:
            found = argument
        elif code.name == "STOP" and found is not None:
            return found
        elif code.name not in _OTHER_CODES:
            raise ValueError(f"{code.name} in packed tests")
    raise ValueError("no text in packed tests")
