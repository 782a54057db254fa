"""`/metrics`, for Prometheus. A registry of its own, so that two servers in one process do not meet."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from h1r.serve.engine_thread import EngineThread
from h1r.serve.limits import Admission

_SECONDS = (0.005, 0.015, 0.05, 0.15, 0.5, 1.5, 5, 15, 50, 150, 500, 1500)


class Metrics:
    """What requests came to. What is in progress is asked for when somebody looks."""

    def __init__(self, admission: Admission, owners: list[EngineThread]) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "h1r_requests", "Requests that ended, by route, method and status", ("route", "method", "status"),
            registry=self.registry,
        )  # fmt: skip
        self.tokens = Counter(
            "h1r_tokens", "Tokens of requests that ended, every trace counted", ("kind",), registry=self.registry
        )
        self.traces = Counter(
            "h1r_traces", "Traces of DeepConf that ended, by what became of them", ("state",), registry=self.registry
        )
        self.saved = Counter("h1r_saved_tokens", "Estimate of the tokens that stopping saved", registry=self.registry)
        self.abandoned = Counter(
            "h1r_abandoned_requests", "Requests whose client hung up before the end", registry=self.registry
        )
        self.seconds = Histogram(
            "h1r_request_seconds", "From a request to its end", ("method",), buckets=_SECONDS, registry=self.registry
        )
        self.first = Histogram(
            "h1r_first_token_seconds", "From a streamed request to its first text", buckets=_SECONDS,
            registry=self.registry,
        )  # fmt: skip
        self.registry.register(_InProgress(admission, owners))

    def page(self) -> bytes:
        """In the text format."""
        return generate_latest(self.registry)


class _InProgress(Collector):
    def __init__(self, admission: Admission, owners: list[EngineThread]) -> None:
        self._admission, self._owners = admission, owners

    def collect(self) -> Iterator[Metric]:
        loads = [owner.load for owner in self._owners]
        values = {
            "h1r_requests_in_progress": ("Requests in progress", self._admission.requests),
            "h1r_traces_admitted": ("Traces that requests in progress may have", self._admission.traces),
            "h1r_traces_running": ("Traces that the engine has", sum(running for running, _ in loads)),
            "h1r_traces_waiting": ("Traces that wait for the engine", sum(waiting for _, waiting in loads)),
            "h1r_engine_seconds": ("Time in steps of the engine", sum(owner.step_seconds for owner in self._owners)),
            "h1r_engine_tokens": ("Tokens that the engine drew", sum(owner.tokens for owner in self._owners)),
        }
        for name, (text, value) in values.items():
            yield GaugeMetricFamily(name, text, value=value)
