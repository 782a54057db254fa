"""The long lists of rollouts as arrays, end to end in the order of the rollouts: beside a checkpoint's JSON, and on the
way between processes.

    token_ids [tokens] int32, sampling_logprobs [tokens] float64, mask [tokens] int8
    lengths [rollouts, 3] int64: of the three; -1 for a mask that is None

A cache of 64 groups of the paper's length has 20 million tokens: 0.9 GB as JSON, 0.25 GB here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from h1r.records import Trace

_KINDS = {"token_ids": np.int32, "sampling_logprobs": np.float64, "mask": np.int8}


def to_arrays(traces: Iterable[Trace]) -> dict[str, np.ndarray]:
    """The lists of `_KINDS` of all traces; none where there is no trace."""
    lists = [[getattr(trace, name) for name in _KINDS] for trace in traces]
    if not lists:
        return {}
    flat = {
        name: np.array([value for row in lists for value in row[at] or ()], kind)
        for at, (name, kind) in enumerate(_KINDS.items())
    }
    return {**flat, "lengths": np.array([[-1 if one is None else len(one) for one in row] for row in lists])}


def fill(traces: Iterable[Trace], arrays: Mapping[str, np.ndarray]) -> None:
    """Gives traces, in the order in which they were taken apart, their lists again."""
    starts = dict.fromkeys(_KINDS, 0)
    for trace, lengths in zip(traces, arrays["lengths"], strict=True):
        for (name, _), length in zip(_KINDS.items(), lengths.tolist(), strict=True):
            part = arrays[name][starts[name] : starts[name] + max(0, length)]
            setattr(trace, name, None if length < 0 else part.tolist())
            starts[name] += max(0, length)


def without_lists(trace: dict[str, Any]) -> dict[str, Any]:
    """A trace's fields as JSON, without what `to_arrays` takes."""
    return {**trace, "token_ids": [], "sampling_logprobs": [], "mask": None}


Packed = tuple[list[dict[str, Any]], dict[str, np.ndarray]]
"""Traces on their way: what is short of each, and their long lists."""


def packed(traces: Sequence[Trace]) -> Packed:
    """The inverse of `unpacked`."""
    rows = [without_lists({one.name: getattr(trace, one.name) for one in fields(trace)}) for trace in traces]
    return rows, to_arrays(traces)


def unpacked(found: Packed) -> list[Trace]:
    """The traces, bit for bit; without arrays from the JSON alone."""
    rows, arrays = found
    traces = [Trace(**row) for row in rows]
    if arrays:
        fill(traces, arrays)
    return traces
