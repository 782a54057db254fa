"""Connections that take long on purpose: a request line that never ends, a reply that is never read.

uvicorn bounds how long a connection may be idle after a reply, and nothing else. Here a request has `HEAD_S` from the
moment at which the connection waits for one to the end of its headers (its body has `gate.BODY_SECONDS`), and a client
that reads nothing of a reply for `UNREAD_S`, while the buffers between it and the server are full, is cut off, so that
its traces are freed. As many connections as the system lets this process have are open at once; one more is a 503.
"""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_S = 20.0
UNREAD_S = 60.0
MOST_CONNECTIONS = 4096
_SPARE = 256
"""Files that are no connections."""


class BoundedProtocol(H11Protocol):
    """HTTP/1.1 as uvicorn speaks it, with these limits."""

    _head: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Waits for the first request."""
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        """A part of a request, or several."""
        super().data_received(data)
        if self.conn.their_state is h11.IDLE:
            self._await_head()
        else:
            self._head = _cancel(self._head)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        self._head, self._unread = _cancel(self._head), _cancel(self._unread)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The client reads more slowly than the reply is written."""
        super().pause_writing()
        if self._unread is None:
            self._unread = self.loop.call_later(UNREAD_S, self.transport.abort)

    def resume_writing(self) -> None:
        """It has read."""
        self._unread = _cancel(self._unread)
        super().resume_writing()

    def _await_head(self) -> None:
        if self._head is None:
            self._head = self.loop.call_later(HEAD_S, self._head_is_late)

    def _head_is_late(self) -> None:
        self._head = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.abort()


def _cancel(timer: asyncio.TimerHandle | None) -> asyncio.TimerHandle | None:
    """No timer, after this one has been cancelled."""
    if timer is not None:
        timer.cancel()
    return None


def connections_possible() -> int:
    """How many this process may have open; its limit of files is raised as far as the system lets it."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_CONNECTIONS + _SPARE
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        soft = most
    return MOST_CONNECTIONS if soft == resource.RLIM_INFINITY else max(1, min(MOST_CONNECTIONS, soft - _SPARE))


def bounds() -> dict[str, Any]:
    """What uvicorn is told of this."""
    return {"http": BoundedProtocol, "limit_concurrency": connections_possible()}
