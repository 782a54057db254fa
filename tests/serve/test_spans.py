"""OpenTelemetry spans of requests, as a collector receives them over HTTP."""

from __future__ import annotations

import contextlib
import gzip
import signal
import socket
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from scripted_server import scripted
from served_model import KEY, NAME, QUESTION, eventually, running
from test_serve_chat import ask, chunks
from test_urls import SETTINGS

import warm
from h1r.errors import UserError
from h1r.serve.limits import Limits
from h1r.serve.local import Local
from h1r.serve.model import Model
from h1r.serve.spans import spans_to
from h1r.serve.urls import open_urls
from loopback import http_server
from machine import bound

proto = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2", reason="no extra otel here")
pytest.importorskip("opentelemetry.sdk", reason="no extra otel here")


class Collected:
    """What a collector was sent."""

    def __init__(self) -> None:
        self.raw = b""
        self.spans: list[Any] = []
        self.services: set[str] = set()

    def take(self, data: bytes) -> None:
        self.raw += data
        request = proto.ExportTraceServiceRequest.FromString(data)
        for of_resource in request.resource_spans:
            self.services |= {a.value.string_value for a in of_resource.resource.attributes if a.key == "service.name"}
            self.spans += [span for scope in of_resource.scope_spans for span in scope.spans]

    def named(self, name: str) -> list[Any]:
        return [span for span in self.spans if span.name == name]

    def below(self, span: Any) -> list[Any]:
        return [one for one in self.spans if one.parent_span_id == span.span_id]


def attributes(span: Any) -> dict[str, Any]:
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in span.attributes}


@contextlib.contextmanager
def collector() -> Iterator[tuple[str, Collected]]:
    found = Collected()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path == "/v1/traces":
                found.take(gzip.decompress(data) if self.headers.get("Content-Encoding") == "gzip" else data)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http_server(Handler) as address:
        yield address, found


def test_a_request_its_engine_and_its_traces_are_spans_and_hold_no_text(model: Model) -> None:
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    limits = Limits()
    with collector() as (address, found):
        spans = spans_to(address)
        with running(Local(model, limits), limits, spans=spans) as server:
            server.client.headers["traceparent"] = parent
            plain = ask(server, n=3, max_tokens=8, seed=1)
            chunks(server, max_tokens=24, seed=5, deepconf={"verifier": "first-character"})
            refused = server.client.post("/v1/chat/completions", json={"model": "gpt-5", "messages": []})
            assert refused.status_code == 400
            assert eventually(lambda: server.service.admission.requests == 0)
        spans.close()
    requests = found.named("POST /v1/chat/completions")
    assert len(requests) == 3
    first, many, wrong = sorted(requests, key=lambda span: span.start_time_unix_nano)
    assert {span.trace_id.hex() for span in found.spans} == {parent.split("-")[1]}
    assert first.parent_span_id.hex() == parent.split("-")[2]
    said = attributes(first)
    assert said["gen_ai.request.model"] == NAME
    assert said["gen_ai.usage.output_tokens"] == plain["usage"]["completion_tokens"]
    assert attributes(wrong)["http.response.status_code"] == 400
    (engine,) = found.below(first)
    traces = found.below(engine)
    assert [attributes(one)["h1r.trace"] for one in traces] == [0, 1, 2]
    assert sum(attributes(one)["gen_ai.usage.output_tokens"] for one in traces) == said["gen_ai.usage.output_tokens"]
    for one in (*traces, engine):
        assert first.start_time_unix_nano <= one.start_time_unix_nano <= one.end_time_unix_nano
        assert one.end_time_unix_nano <= time.time_ns()
    of_run = attributes(many)
    assert (of_run["h1r.method"], of_run["h1r.deepconf.traces"]) == ("deepconf", 12)
    under = [trace for part in found.below(many) for trace in found.below(part)]
    assert sum(attributes(one)["gen_ai.usage.output_tokens"] for one in under) == of_run["gen_ai.usage.output_tokens"]
    assert {attributes(one)["h1r.finish_reason"] for one in under} >= {"confidence"}
    assert found.services == {"h1r"}
    for text in (QUESTION, KEY, plain["choices"][0]["message"]["content"][:40]):
        assert text.encode() not in found.raw


def test_a_collector_that_never_answers_holds_nobody_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        spans = spans_to(f"http://127.0.0.1:{mute.getsockname()[1]}")
        for _ in range(600):  # more than one batch, each of which may take as long
            spans.request("POST", "/v1/chat/completions", {}).end(200)
        monkeypatch.setattr("h1r.serve.spans._SEND_S", 0.1)
        begun = time.monotonic()
        spans.close()
    assert time.monotonic() - begun < bound(2.0)


def test_a_server_behind_is_a_span_whose_own_spans_join() -> None:
    body = {"model": "scripted", "messages": [{"role": "user", "content": QUESTION}], "seed": 3, "stream": True}
    with collector() as (address, found), scripted(dies_after=2) as dying, scripted() as other:
        spans = spans_to(address)
        with (
            open_urls([dying.url, other.url], SETTINGS, Limits()) as served,
            running(served, spans=spans) as server,
        ):
            for _ in range(2):  # one of them begins with the server that dies
                assert "[DONE]" in server.client.post("/v1/chat/completions", json=body).text
        spans.close()
    attempts = sorted(found.named("server"), key=lambda span: span.start_time_unix_nano)
    assert [attributes(one)["h1r.failed"] for one in attempts].count(True) == 1
    assert len(attempts) == 3
    passed_on = {one.get("traceparent", "") for one in (*dying.headers, *other.headers)}
    assert {one.split("-")[2] for one in passed_on if one} == {span.span_id.hex() for span in attempts}


def test_the_command_sends_them_and_refuses_what_is_no_address(run: Path) -> None:
    import httpx2
    from test_command import ASKED, started

    with collector() as (address, found):
        process, url = started(run, "--otel", address)
        try:
            assert httpx2.post(f"{url}/v1/chat/completions", json={**ASKED, "max_tokens": 4}, timeout=60).is_success
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0, process.stderr.read_text()
        finally:
            process.kill()
    assert len(found.named("POST /v1/chat/completions")) == 1
    with pytest.raises(UserError, match="no address of a collector"):
        spans_to("localhost:4318")
    done = warm.run("serve", run, "--otel", "localhost")
    assert done.returncode == 2
