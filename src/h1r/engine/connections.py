"""Traces that another server generates, each over a connection of its own."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock
from typing import Any, Protocol


class Connected(Protocol):
    """`request`: the one in flight, whose `close` ends it from another thread; None where there is none."""

    cancelled: bool
    request: Any


def hang_up(traces: Sequence[Connected], lock: Lock) -> None:
    """Ends the connections of traces, at which their server ends its requests, and lets none begin another. lock: what
    whoever begins one holds."""
    with lock:
        for trace in traces:
            trace.cancelled = True
            if trace.request is not None:
                trace.request.close()
