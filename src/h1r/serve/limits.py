"""What a server takes, and how much of it at once."""

from __future__ import annotations

from dataclasses import dataclass

from h1r.common.prose import counted
from h1r.serve.errors import ApiError
from h1r.serve.window import INTERVAL_S


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one request: `body_bytes`, `messages`, `budget` (traces), `choices` (`n`), `stops`. Of all together:
    `requests`, and `traces` that have not ended. drain_s: how long running requests may go on once the server is told
    to stop. stream_interval_s: how long tokens of a stream wait to be written together, at most. All are our choice."""

    body_bytes: int = 4 << 20
    messages: int = 2048
    budget: int = 512
    choices: int = 128
    stops: int = 16
    requests: int = 512
    traces: int = 8192
    drain_s: float = 20.0
    stream_interval_s: float = INTERVAL_S


class Admission:
    """Counts what is in the server. Belongs to the event loop."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.requests = self.traces = 0
        self.closing = False
        self.seconds_each = 1.0
        """A moving mean of how long requests took, which a client that is sent away is told to wait."""

    def enter(self, traces: int) -> None:
        """Lets a request of so many traces in; `ApiError` where it is to come again later."""
        if self.closing:
            raise ApiError(503, "the server is shutting down", code="shutting_down", retry_after_s=10)
        most = self.limits
        if traces > max(most.traces, most.budget):
            raise ApiError(
                400, f"the request asks for {counted(traces, 'trace')}, and this server allows {most.traces}"
            )
        if self.requests >= most.requests or (self.requests and self.traces + traces > most.traces):
            under_way = f"{counted(self.requests, 'request')} with {counted(self.traces, 'trace')}"
            busy = f"{under_way} in progress; ask again in a while"
            raise ApiError(429, busy, code="rate_limit_exceeded", retry_after_s=min(60.0, self.seconds_each))
        self.requests += 1
        self.traces += traces

    def leave(self, traces: int, seconds: float) -> None:
        """A request that was let in has ended, however it did."""
        self.requests -= 1
        self.traces -= traces
        self.seconds_each += 0.1 * (seconds - self.seconds_each)
