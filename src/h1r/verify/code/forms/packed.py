"""Tests that are a text: JSON, test code, or LiveCodeBench's packed form, base64 of zlib of a pickled JSON text."""

from __future__ import annotations

import base64
import io
import json
import pickle
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
        packed = unpacker.decompress(base64.b64decode(text), MAX_UNPACKED_BYTES)
        return json.loads(_NothingButText(io.BytesIO(packed)).load())
    except (ValueError, TypeError, zlib.error, pickle.UnpicklingError, EOFError) as error:
        raise TestsError(f"packed tests that cannot be read ({type(error).__name__})") from None


class _NothingButText(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"{module}.{name} in packed tests")
