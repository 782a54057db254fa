"""An OpenAI-compatible server that writes what the seed says, token by token, and dies to order.

A trace is a function of its seed: some words of thinking, then `\\boxed{answer}`. Doubtful ones (every third) have flat
likeliest tokens and a wrong answer.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from loopback import http_server


def doubtful(seed: int) -> bool:
    return seed % 3 == 0


def tokens_of(seed: int) -> list[tuple[str, float]]:
    """The trace of a seed: its pieces of text, and how far the likeliest token is ahead of the others (nats)."""
    ahead = 0.5 if doubtful(seed) else 4.0
    words = [f" step{number}" for number in range(12 + seed % 7)]
    answer = "7" if doubtful(seed) else "42"
    return [(word, ahead) for word in ["<think>", *words, "</think>", "\\boxed{", answer, "}"]]


@dataclass
class Scripted:
    """dies_after: chunks that each of its streams sends before the connection breaks. ranks: likeliest tokens told.
    says: the pieces of every reply, in place of those of its seed."""

    url: str = ""
    ranks: int = 5
    dies_after: int | None = None
    stops_after: int | None = None
    """Chunks that each of its streams sends before it ends as of a server of ours that stops."""
    pause_s: float = 0.0
    says: tuple[str, ...] = ()
    writes: Callable[[int], list[tuple[str, float]]] = tokens_of
    """The trace of a seed."""
    forbids: bool = False
    """Requests with `vllm_xargs` are refused, with all that they hold."""
    knows_thresholds: bool = False
    """Whether it refuses one that is no number, as our plugin of vLLM does."""
    busy: bool = False
    """Whether every request is a 429."""
    garbles: Any = None
    """What is sent in place of the third chunk of each stream."""
    listed: dict[str, Any] = field(default_factory=dict)
    """What it says of its model beside the name."""
    events: tuple[dict[str, Any], ...] = ()
    """All that each of its streams sends, as of `/v1/responses`: its end is the last one."""
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    """In small letters, of each request."""
    sent: int = 0
    broken: int = 0
    """Streams that the client closed before their end."""
    open_streams: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        with self.lock:
            self.requests.append(body)
            self.headers.append({name.lower(): value for name, value in handler.headers.items()})
            self.open_streams += 1
        try:
            if self.busy:
                self._send(handler, b"{}", 429, {"Retry-After": "7"})
                return
            if self.forbids and "vllm_xargs" in body:
                said = {"detail": [{"type": "extra_forbidden", "loc": ["vllm_xargs"], "input": body["vllm_xargs"]}]}
                self._send(handler, json.dumps(said).encode(), 400)
                return
            threshold = (body.get("vllm_xargs") or {}).get("deepconf_threshold")
            if self.knows_thresholds and isinstance(threshold, str):
                said = {"error": {"message": f"deepconf_threshold = {threshold!r}; it must be a number of nats"}}
                self._send(handler, json.dumps(said).encode(), 400)
                return
            if not body.get("stream"):
                text = "".join(self.says) or "".join(piece for piece, _ in self.writes(body["seed"]))
                message = {"role": "assistant", "content": text}
                choice = {"index": 0, "message": message, "finish_reason": "stop"}
                usage = {"prompt_tokens": 9, "completion_tokens": len(self.writes(body["seed"])), "total_tokens": 99}
                self._send(handler, json.dumps({"id": "x", "choices": [choice], "usage": usage}).encode())
                return
            handler.send_response(200)
            handler.send_header("Content-Type", "text/event-stream")
            handler.send_header("Connection", "close")
            handler.end_headers()
            self._stream(handler, body)
        finally:
            with self.lock:
                self.open_streams -= 1

    def _stream(self, handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        if self.events and handler.path.endswith("/responses"):
            for event in self.events[: self.dies_after]:
                self._event(handler, event)
            return
        pieces = [(piece, 4.0) for piece in self.says] or self.writes(body["seed"])
        for number, (piece, ahead) in enumerate(pieces):
            if number == self.dies_after:
                handler.close_connection = True
                handler.connection.close()
                return
            if number == self.stops_after:
                break
            if number == 2 and self.garbles is not None:
                self._event(handler, self.garbles)
                continue
            choice: dict[str, Any] = {"index": 0, "delta": {"content": piece}, "finish_reason": None}
            if body.get("logprobs") and self.ranks:
                best = [-0.01 - ahead * (rank > 0) for rank in range(min(self.ranks, body["top_logprobs"]))]
                top = [{"token": str(rank), "logprob": one} for rank, one in enumerate(best)]
                choice["logprobs"] = {"content": [{"token": piece, "logprob": best[0], "top_logprobs": top}]}
            if not self._event(handler, {"choices": [choice]}):
                return
            time.sleep(self.pause_s)
        usage = {"prompt_tokens": 9, "completion_tokens": len(pieces), "total_tokens": 9 + len(pieces)}
        end = {"finish_reason": "stop"}
        if self.stops_after is not None:
            end = {"finish_reason": "length", "stop_reason": "cancelled"}
        self._event(handler, {"choices": [{"index": 0, "delta": {}, **end}]})
        self._event(handler, {"choices": [], "usage": usage})
        handler.wfile.write(b"data: [DONE]\n\n")

    def _event(self, handler: BaseHTTPRequestHandler, data: dict[str, Any] | bytes) -> bool:
        written = data if isinstance(data, bytes) else json.dumps(data).replace(r"\u2028", "\u2028").encode()
        try:
            handler.wfile.write(b"data: " + written + b"\n\n")
            handler.wfile.flush()
        except OSError:
            with self.lock:
                self.broken += 1
            return False
        with self.lock:
            self.sent += 1
        return True

    @staticmethod
    def _send(
        handler: BaseHTTPRequestHandler, content: bytes, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> None:
        handler.send_response(status)
        for name, value in (headers or {}).items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)


@contextlib.contextmanager
def scripted(**settings: Any) -> Iterator[Scripted]:
    """A server on a free port of loopback."""
    server = Scripted(**settings)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            server._send(self, json.dumps({"data": [{"id": "scripted", **server.listed}]}).encode())

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with contextlib.suppress(OSError, ValueError):
                server.answer(self, body)

        def log_message(self, *_: object) -> None:
            pass

    with http_server(Handler) as address:
        server.url = f"{address}/v1"
        yield server
