"""The arrays of a trace as text in a JSON line: base64 of the 32 bits that engines compute in, which loses nothing."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from h1r.records import Trace

KINDS = {"token_ids": "<i4", "logprobs": "<f4", "sampling_logprobs": "<f4", "confidences": "<f4"}
"""Field of `Trace` -> numpy type."""


def encoded(trace: Trace, names: Iterable[str] = KINDS) -> dict[str, str]:
    """Those arrays, by their names."""
    return {
        name: base64.b64encode(np.asarray(getattr(trace, name), dtype=KINDS[name]).tobytes()).decode() for name in names
    }


def decoded(row: Mapping[str, Any], names: Iterable[str] = KINDS) -> dict[str, list[Any]]:
    """The lists of those arrays in an object of `encoded`."""
    return {name: np.frombuffer(base64.b64decode(row[name]), dtype=KINDS[name]).tolist() for name in names}
