"""The page of a run in progress, for a browser on this machine: its files, and an address that says how far the run
is.

It answers on loopback alone, and only where it is asked for by a name of loopback, so that no page of another site can
read it through a name that points here. It changes nothing: whatever is asked but GET is refused.
"""

from __future__ import annotations

import json
from contextlib import suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from h1r.common.packaged import packaged
from h1r.common.style import CSS
from h1r.common.web_policy import PAGE_HEADERS
from h1r.errors import UserError
from h1r.report.collect import strict
from h1r.report.live import live_state

_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/live.js": ("live.js", "text/javascript; charset=utf-8"),
}


class _Handler(BaseHTTPRequestHandler):
    """Answers for one run."""

    def __init__(self, run: Path, *more: object) -> None:
        self.run = run
        super().__init__(*more)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        assert isinstance(self.server, ThreadingHTTPServer)
        port = self.server.server_port
        if self.headers.get("Host") not in (f"127.0.0.1:{port}", f"localhost:{port}"):
            self._reply(403, b"this page is asked for as 127.0.0.1 or localhost\n", "text/plain")
        elif self.path == "/state":
            self._state()
        elif self.path == "/style.css":
            self._reply(200, CSS.encode(), "text/css; charset=utf-8")
        elif self.path == "/favicon.ico":  # which browsers ask for unasked
            self._reply(204, b"", "image/x-icon")
        elif self.path in _FILES:
            name, kind = _FILES[self.path]
            self._reply(200, packaged("report", "static", name).read_bytes(), kind)
        else:
            self._reply(404, b"nothing here\n", "text/plain")

    def _state(self) -> None:
        try:
            found = json.dumps(strict(live_state(self.run)), allow_nan=False)
        except UserError as error:
            self._reply(500, json.dumps({"error": str(error)}).encode(), "application/json")
        else:
            self._reply(200, found.encode(), "application/json")

    def _reply(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        for name, value in {**PAGE_HEADERS, "Content-Type": kind, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        with suppress(ConnectionError):  # a tab that was closed, or loads anew, waits for no answer
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing of each request."""


def live_server(run: Path, port: int) -> ThreadingHTTPServer:
    """A server that listens; `port` 0 is any free one. `UserError` for a port that is taken, and for what is no run."""
    live_state(run)
    try:
        return ThreadingHTTPServer(("127.0.0.1", port), partial(_Handler, run))
    except OSError as error:
        raise UserError(f"cannot listen on port {port}: {error.strerror or error}; give another --port") from None
