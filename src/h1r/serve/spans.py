"""OpenTelemetry spans of requests, for a collector that the operator names (`h1r serve --otel URL`; extra `otel`).

    POST /v1/chat/completions        a request, from its first byte to its last; part of the client's own trace, where
    |                                 the request has a `traceparent` header
    +-- engine                        one prompt in the engine's thread; `h1r.waited_s`: until a slot was free
    |   +-- trace                     one trace of it, from when the engine had it to its end
    +-- server                        or: one attempt of a server that the request is passed on to

No prompt, no answer and no key is in any attribute. Names are those of OpenTelemetry's conventions for generative AI
where it has some (`gen_ai.`), else `h1r.`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from h1r.engine.protocol import SamplingParams
from h1r.errors import UserError
from h1r.records import Trace

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, Tracer

_NANO = 1e9
_SEND_S = 5.0
"""How long a collector may take, at the end too."""


class Prompted(Protocol):
    """A prompt in the engine's thread; `left`: traces that have not ended."""

    params: SamplingParams
    left: int


class Spans:
    """Begins the spans of requests. Everything it ends is sent by a thread of the provider's."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("h1r.serve")

    def request(self, method: str, route: str, headers: Mapping[str, str]) -> RequestSpan:
        """That of a request, with its children to come."""
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        parent = TraceContextTextMapPropagator().extract(headers)
        attributes = {"http.request.method": method, "http.route": route}
        span = self._tracer.start_span(f"{method} {route}", parent, SpanKind.SERVER, attributes)
        return RequestSpan(self._tracer, span)

    def close(self) -> None:
        """Sends what is left, as far as the collector takes it within `_SEND_S`: the provider gives each batch that
        long, and there may be several."""
        sending = threading.Thread(target=self._provider.shutdown, daemon=True)
        sending.start()
        sending.join(_SEND_S)


class RequestSpan:
    """The span of one request. Its children may end after it."""

    def __init__(self, tracer: Tracer, span: Span) -> None:
        from opentelemetry.trace import set_span_in_context

        self._tracer, self._span = tracer, span
        self._inside = set_span_in_context(span)

    def end(self, status: int, **attributes: Any) -> None:
        """It has been answered. What is None is left out."""
        from opentelemetry.trace import StatusCode

        given = {"http.response.status_code": status, **attributes}
        self._span.set_attributes({name.replace("__", "."): one for name, one in given.items() if one is not None})
        if status >= 500:
            self._span.set_status(StatusCode.ERROR)
        self._span.end()

    def ticket(self, ticket: Prompted) -> TicketSpans:
        """Those of a prompt in the engine's thread."""
        return TicketSpans(self._tracer, self._tracer.start_span("engine", self._inside), ticket)

    def attempt(self, url: str, headers: MutableMapping[str, str]) -> Span:
        """That of a server which the request is passed on to; its own spans join by the headers."""
        from opentelemetry.trace import SpanKind, set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        span = self._tracer.start_span("server", self._inside, SpanKind.CLIENT, {"url.full": url})
        TraceContextTextMapPropagator().inject(headers, set_span_in_context(span))
        return span


class TicketSpans:
    """Belongs to the engine's thread, but for its making."""

    def __init__(self, tracer: Tracer, span: Span, ticket: Prompted) -> None:
        from opentelemetry.trace import set_span_in_context

        self._tracer, self._span, self._ticket = tracer, span, ticket
        self._inside = set_span_in_context(span)
        self._begun = time.time_ns()
        self._handed: list[tuple[int, int]] = []
        """First sample of each part that the engine was given, and when (ns)."""

    def handed(self, first: int) -> None:
        """The engine has the samples from this one on."""
        self._handed.append((first, time.time_ns()))

    def told(self, traces: Sequence[Trace]) -> None:
        """Traces that have ended, or nothing; the span of the whole ends when none is left."""
        now = time.time_ns()
        for trace in traces:
            begun = max((at for first, at in self._handed if first <= trace.sample_index), default=now)
            attributes: dict[str, Any] = {
                "h1r.trace": trace.sample_index, "h1r.seed": str(trace.seed), "h1r.finish_reason": trace.finish_reason,
                "gen_ai.usage.output_tokens": trace.num_tokens,
            }  # fmt: skip
            self._tracer.start_span("trace", self._inside, attributes=attributes, start_time=begun).end(now)
        if not self._ticket.left and self._span.is_recording():
            waited = (self._handed[0][1] if self._handed else now) - self._begun
            self._span.set_attributes({"h1r.traces": self._ticket.params.n, "h1r.waited_s": waited / _NANO})
            self._span.end(now)


def spans_to(url: str) -> Spans:
    """Sends to the collector at this address (OTLP over HTTP, as `http://127.0.0.1:4318`). The service's name and
    headers are taken from OpenTelemetry's own variables (`OTEL_SERVICE_NAME`, else "h1r"). `UserError` where the extra
    is missing, or the address is none."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise UserError("--otel needs more packages; run `pip install 'open-h1r[serve,otel]'`") from None
    if not url.startswith(("http://", "https://")):
        raise UserError(f"--otel {url} is no address of a collector; give one as http://127.0.0.1:4318")
    resource = Resource.create({"service.name": "h1r"}).merge(OTELResourceDetector().detect())
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{url.rstrip('/')}/v1/traces", timeout=_SEND_S)))
    return Spans(provider)
