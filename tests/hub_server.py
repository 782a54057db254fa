"""As much of the hub on loopback as an upload asks for."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

from loopback import http_server


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's API as an upload asks for; what it got is in `files`."""

    files: dict[str, bytes]
    created: list[dict[str, Any]]
    refuses = False

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.refuses:
            self.answer({"error": "Unauthorized"}, 401)
        elif self.path.endswith("/repos/create"):
            self.created.append(json.loads(body))
            self.answer({"url": f"http://{self.headers['Host']}/me/model", "name": "me/model"})
        elif self.path.endswith("/validate-yaml"):
            self.answer({"warnings": [], "errors": []})
        elif "/preupload/" in self.path:
            named = [one["path"] for one in json.loads(body)["files"]]
            self.answer({"files": [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in named]})
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self.answer(
                {
                    "commitUrl": f"http://{self.headers['Host']}/me/model/commit/1",
                    "commitOid": "1",
                    "pullRequestUrl": None,
                }
            )
        else:
            self.answer({"error": self.path}, 404)

    def do_GET(self) -> None:
        self.answer({"id": "me/model", "sha": "1", "siblings": []})

    def answer(self, value: Any, status: int = 200) -> None:
        text = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        """A test is quiet."""


@contextlib.contextmanager
def hub_server() -> Iterator[tuple[str, type[Hub]]]:
    """Its address, and what it is asked."""
    handler = type("Handler", (Hub,), {"files": {}, "created": []})
    with http_server(handler) as address:
        yield address, handler
