"""A chat server on loopback that misbehaves to order."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler
from typing import Any

from loopback import http_server

PATIENCE_S = 60.0
"""A limit for replies that come, which no busy machine reaches: only a test of limits may have a short one."""

Answer = Callable[[BaseHTTPRequestHandler, dict[str, Any]], None]


def says(text: str, finish_reason: str = "stop") -> Answer:
    """A proper chat completion."""

    def answer(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        message = {"role": "assistant", "content": text}
        send(handler, 200, json.dumps({"choices": [{"message": message, "finish_reason": finish_reason}]}).encode())

    return answer


def fails(status: int, content: bytes = b"no", headers: dict[str, str] | None = None) -> Answer:
    """That status, with that content."""
    return lambda handler, body: send(handler, status, content, headers)


def breaks(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
    """Announces a reply and hangs up."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{")
    handler.close_connection = True


def drips(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
    """A byte now and then, for ever."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    with contextlib.suppress(OSError):
        for _ in range(200):
            handler.wfile.write(b" ")
            time.sleep(0.05)


def send(handler: BaseHTTPRequestHandler, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
    handler.send_response(status)
    for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(content)


@dataclass
class ChatServer:
    """`answers` are used up in order, then `usual` answers. `requests` are the bodies that came. lists: whether they
    answer for `/models` too, which there is none of otherwise."""

    usual: Answer
    answers: list[Answer] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[Message] = field(default_factory=list)
    most_at_once: int = 0
    url: str = ""
    lists: bool = False
    _at_once: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers.get("Content-Length") or 0)) or b"{}")
        with self._lock:
            self.requests.append(body)
            self.headers.append(handler.headers)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            answer = self.answers.pop(0) if self.answers else self.usual
        try:
            answer(handler, body)
        finally:
            with self._lock:
                self._at_once -= 1


@contextlib.contextmanager
def chat_server(usual: Answer, *answers: Answer) -> Iterator[ChatServer]:
    """A server on a free port of loopback, and what it is asked."""
    server = ChatServer(usual, list(answers))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            with contextlib.suppress(OSError):
                server.handle(self)

        def do_GET(self) -> None:
            if server.lists:
                self.do_POST()
            else:
                send(self, 404, b"")

        def log_message(self, *_: object) -> None:
            pass

    with http_server(Handler) as address:
        server.url = f"{address}/v1"
        yield server
