"""Servers that answer with what nobody expects: one sentence at every door that asks them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler

import pytest

from h1r.engine.server import events
from h1r.engine.server.engine import VLLMServer
from h1r.errors import UserError
from h1r.serve.limits import Limits
from h1r.serve.talk import OverHttp
from h1r.serve.urls import open_urls
from loopback import http_server

DEEP = b'{"data": ' + b"[" * 200_000
HOSTILE = {
    "no JSON": b"<html>",
    "nothing": b"",
    "another encoding": '{"data": []}'.encode("utf-16"),
    "too deep": DEEP,
    "a list": b"[]",
    "a number": b"7",
    "no models": b'{"data": 5}',
    "models of another shape": b'{"data": [5, null]}',
    "a model without a name": b'{"data": [{}]}',
    "endless positions": b'{"data": [{"id": "m", "max_model_len": Infinity}]}',
    "huge positions": b'{"data": [{"id": "m", "max_model_len": 1e999}]}',
}


@contextmanager
def answering(content: bytes, status: int = 200, kind: str = "application/json") -> Iterator[str]:
    """A server whose every answer is this."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            pass

    with http_server(Handler) as url:
        yield url


def front(url: str) -> None:
    front_of(f"{url}/v1")


def front_of(address: str) -> None:
    with open_urls([address], {}, Limits()):
        pass


def chat(url: str) -> None:
    for _ in OverHttp(f"{url}/v1", "m", None).chunks({"messages": []}):
        pass


DOORS = {"front": front, "chat": chat, "engine": lambda url: VLLMServer(url)}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("status", [200, 400])
@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_a_server_that_answers_so_is_one_sentence(door: str, content: bytes, status: int) -> None:
    with answering(content, status) as url, pytest.raises(UserError) as told:
        DOORS[door](url)
    assert url in str(told.value)
    assert len(str(told.value)) < 1000


PAGE = b"""<!DOCTYPE html>
<html><head><style>p { color: red }</style><title>Error</title></head>
<body><p>Message: File not found.</p><script>alert(1)</script></body></html>"""


@pytest.mark.parametrize("door", DOORS)
def test_a_page_that_says_no_is_told_in_one_line_without_its_tags(door: str) -> None:
    with answering(PAGE, 404, "text/html") as url, pytest.raises(UserError) as told:
        DOORS[door](url)
    assert "Message: File not found." in str(told.value)
    assert not re.search(r"[<>{}\n]", str(told.value))


def test_an_address_without_the_path_of_the_interface_is_told_to_have_it() -> None:
    with answering(PAGE, 404) as url, pytest.raises(UserError, match="give its address with /v1"):
        front_of(url)
    with answering(PAGE, 404) as url, pytest.raises(UserError, match="start it, or mend its address"):
        front(url)


LINES = {
    "too deep": DEEP,
    "a number": b"7",
    "text": b'"error"',
    "a list": b"[5]",
    "log-probabilities of another shape": b'{"choices": [{"delta": {"content": "x"}, "logprobs": {"content": 5}}]}',
    "no UTF-8": b"\xff{",
}


@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
def test_an_event_of_that_kind_raises_what_every_reader_expects(line: bytes) -> None:
    with answering(b"data: " + line + b"\n\n", kind="text/event-stream") as url:
        found = events.ServerRequest(f"{url}/v1/chat/completions").events({})
        with pytest.raises((OSError, events.Refused, *events.UNREADABLE)):
            next(found)["choices"][0]["logprobs"]["content"][0]


def test_a_line_or_an_answer_without_an_end_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "MAX_LINE_BYTES", 1000)
    monkeypatch.setattr(events, "MAX_ANSWER_BYTES", 1000)
    long = json.dumps({"choices": "x" * 2000}).encode()
    with answering(b"data: " + long + b"\n\n") as url:
        with pytest.raises(OSError, match="a line of more than 1000 bytes"):
            next(events.ServerRequest(url).events({}))
        with pytest.raises(OSError, match="an answer of more than 1000 bytes"):
            events.get_json(url)
