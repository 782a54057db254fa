"""A teacher behind a real HTTP server, which counts what it is asked."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from corpora import question, trace

ANSWERS = {question(n): n for n in range(2000)}


class Teacher(ThreadingHTTPServer):
    """Answers the sums of `corpora`; `refuse` times with 429 first, with `status` for good when it is set, or with that
    of the question in `statuses`. Gives at most `most` choices to a request."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: Counter[str] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.refuse = 0
        self.status = 200
        self.said = b"no such model"
        self.usage: dict[str, int] | None = None
        self.tried: Counter[str] = Counter()
        self.statuses: dict[str, int] = {}
        self.most = 99
        self.wait_s = 0.0
        self.most_at_once = self.at_once = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: Teacher

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        asked = body["messages"][-1]["content"]
        self.server.tried[asked] += 1
        status = self.server.statuses.get(asked, self.server.status)
        if self.server.refuse > 0 or status != 200:
            self.server.refuse -= 1
            self.send_response(429 if status == 200 else status)
            self.send_header("Retry-After", "0")
            self.end_headers()
            self.wfile.write(self.server.said)
            return
        self.server.at_once += 1
        self.server.most_at_once = max(self.server.most_at_once, self.server.at_once)
        time.sleep(self.server.wait_s)
        self.server.at_once -= 1
        self.server.asked[asked] += 1
        self.server.bodies.append({**body, "key": self.headers.get("Authorization"), "path": self.path})
        n = ANSWERS[asked]
        choices: list[dict[str, Any]] = [
            {"message": {"content": trace(n, thinking=f"try {j}")}, "finish_reason": "stop"}
            for j in range(body["n"] - 2)
        ]
        choices.append({"message": {"content": trace(n, said="0"), "reasoning_content": None}, "finish_reason": "stop"})
        choices.append({"message": {"content": None, "reasoning_content": "long"}, "finish_reason": "length"})
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"choices": choices[: self.server.most], "usage": self.server.usage}).encode())

    def log_message(self, *_: Any) -> None:
        pass


@contextlib.contextmanager
def running() -> Iterator[Teacher]:
    with Teacher() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()
