"""The routes of `h1r serve`: a body is checked, becomes a job of a model, and the job's events become a reply."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from h1r.errors import UserError
from h1r.rollout.retry import UnanswerableError
from h1r.serve.engine_thread import EngineThread
from h1r.serve.errors import ApiError, ClientGoneError
from h1r.serve.event_stream import EventStream
from h1r.serve.gate import STRANGER, error_response, http_error, read_bytes, until_gone
from h1r.serve.jobs import Delta, Event, Job, Raw, Result
from h1r.serve.limits import Admission, Limits
from h1r.serve.logs import RequestLog
from h1r.serve.metrics import Metrics
from h1r.serve.page import page_routes
from h1r.serve.replies import ChatShape, CompletionShape
from h1r.serve.responses import ResponsesShape, messages_from
from h1r.serve.spans import RequestSpan, Spans
from h1r.serve.wanted import Body, Kind, parse_json, read_body
from h1r.serve.writing import Chunks, Writing, sse

PEEK_S = 0.5
"""For so long a stream waits for its first piece before it says 200: what fails at once has a status of its own."""
_TOLD_OF_DEEPCONF = ("budget", "traces", "stopped", "saved_tokens", "stop_reason", "threshold", "selected_by")
"""What a span says of `usage.deepconf`: nothing that a model wrote."""
_DONE = b"data: [DONE]\n\n"


class Served(Protocol):
    """What is behind the server: a model of ours (`local.py`), or other servers (`urls.py`)."""

    def models(self) -> list[dict[str, Any]]:
        """As `/v1/models` lists them; the first has `methods` and `numbers`, see `options.methods_for` and
        `numbers_for`."""
        ...

    def owners(self) -> list[EngineThread]:
        """The threads that own engines, for metrics."""
        ...

    def health(self) -> dict[str, Any]:
        """What `/health` says; `status` is "ok" where requests can be answered."""
        ...

    async def job(self, body: Body, found: dict[str, Any], kind: Kind) -> Job:
        """A request at work. `ApiError` for one that cannot be met."""
        ...


class Shape(Chunks, Protocol):
    """How an interface writes events."""

    def whole(self, result: Result | Raw) -> dict[str, Any]: ...


@dataclass(slots=True)
class _Watch:
    """What is measured of one request."""

    route: str
    begun: float
    id: str
    method: str = "none"
    model: str | None = None
    first: float | None = None
    result: Result | None = None
    tokens: tuple[int, int] | None = None
    """Of prompt and completion."""
    prompt: Any = None
    span: RequestSpan | None = None

    def saw(self, event: Event) -> None:
        """Takes over what counts of an event."""
        if isinstance(event, Result):
            self.result, self.tokens = event, (event.prompt_tokens, event.completion_tokens)
        elif isinstance(event, Raw):
            self.tokens = event.tokens or self.tokens


class _RefusedError(Exception):
    """A stream that fails before its first piece."""

    def __init__(self, why: ApiError) -> None:
        super().__init__(str(why))
        self.why = why


async def _after(first: asyncio.Future[bytes], pieces: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    """The pieces of a stream whose first one is awaited already."""
    try:
        if piece := await first:
            yield piece
        async for piece in pieces:
            yield piece
    except _RefusedError as error:  # too late for a status
        yield sse(error.why.body()).encode()
    finally:
        if not first.done():
            first.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await first
        await pieces.aclose()


class Service:
    """The application's state. Belongs to the event loop."""

    def __init__(self, served: Served, limits: Limits, log: RequestLog, spans: Spans | None = None) -> None:
        self.served, self.limits, self.log, self.spans = served, limits, log, spans
        self.admission = Admission(limits)
        self.metrics = Metrics(self.admission, served.owners())
        self.jobs: set[Job] = set()

    def app(self) -> Starlette:
        """Its routes."""
        answers: dict[str, tuple[Kind, Callable[[Body], Shape]]] = {
            "/v1/chat/completions": ("chat", lambda body: ChatShape(body.model, body.include_usage)),
            "/v1/completions": ("completion", lambda body: CompletionShape(body.model, body.include_usage)),
            "/v1/responses": ("response", ResponsesShape),
        }
        routes = [  # looked through one after the other
            *(Route(path, self._answering(*how), methods=["POST"]) for path, how in answers.items()),
            Route("/health", self._health),
            Route("/metrics", self._metrics),
            Route("/v1/models", self._models),
            Route("/v1/models/{name:path}", self._one_model),
            *page_routes(),
        ]
        return Starlette(
            routes=routes,
            exception_handlers={HTTPException: http_error, ApiError: _api_error, Exception: _any_error},
        )

    def drain(self) -> None:
        """No more requests are let in."""
        self.admission.closing = True

    def finish(self) -> None:
        """Requests in progress are answered with what there is."""
        for job in list(self.jobs):
            job.finish()

    async def _health(self, request: Request) -> Response:
        found = self.served.health()
        if request.scope.get(STRANGER):
            found.pop("servers", None)  # where they are is for those who have the key
        return JSONResponse(found, 200 if found["status"] == "ok" else 503)

    async def _metrics(self, request: Request) -> Response:
        return Response(self.metrics.page(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def _models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": self.served.models()})

    async def _one_model(self, request: Request) -> Response:
        name = request.path_params["name"]
        for one in self.served.models():
            if one["id"] == name:
                return JSONResponse(one)
        raise ApiError(404, "there is no model of this name; /v1/models lists what there is", code="model_not_found")

    def _answering(self, kind: Kind, shape_of: Callable[[Body], Shape]) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            watch = _Watch(request.url.path, time.monotonic(), secrets.token_hex(8))
            if self.spans is not None:
                watch.span = self.spans.request(request.method, watch.route, request.headers)
            try:
                response = await self._answer(request, kind, shape_of, watch)
            except ApiError as error:
                self._ended(watch, error.status)
                raise
            except ClientGoneError:
                self._ended(watch, 499)
                return Response(status_code=499)
            except Exception as error:
                self._ended(watch, failure(error).status)
                raise
            response.headers["X-Request-Id"] = watch.id
            return response

        return answer

    async def _answer(self, request: Request, kind: Kind, shape_of: Callable[[Body], Shape], watch: _Watch) -> Response:
        data = await read_bytes(request, self.limits)
        for owner in self.served.owners():
            owner.arrivals.begin(asyncio.get_running_loop())
        found = parse_json(data)
        asked = {**found, "messages": messages_from(found)} if kind == "response" else found
        body = read_body(asked, kind, self.limits)
        watch.prompt = found if self.log.prompts else None
        job = await self.served.job(body, found, kind)
        watch.method, watch.model = job.method, body.model  # a name that is known now, and no text of anybody's
        self.admission.enter(job.num_traces)
        job.span = watch.span
        self.jobs.add(job)
        shape = shape_of(body)
        if body.stream:
            return await self._begun(self._stream(job, shape, watch))
        try:
            return JSONResponse(shape.whole(await self._whole(request, job, watch)))
        finally:
            self._left(job, watch)

    async def _begun(self, pieces: AsyncGenerator[bytes]) -> Response:
        """The stream, or an error with its status where one comes at once, as from a server behind this one."""
        first = asyncio.ensure_future(anext(pieces, b""))
        await asyncio.wait((first,), timeout=PEEK_S)
        if first.done() and not first.cancelled() and isinstance(error := first.exception(), _RefusedError):
            return error_response(error.why)
        return EventStream(_after(first, pieces))

    async def _whole(self, request: Request, job: Job, watch: _Watch) -> Result | Raw:
        """The result of a job, unless the client hangs up before."""
        working = asyncio.ensure_future(_result(job))
        gone = asyncio.ensure_future(until_gone(request))
        try:
            await asyncio.wait((working, gone), return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                raise ClientGoneError
            found = working.result()
            watch.saw(found)
            self._ended(watch, 200)
            return found
        except (ApiError, ClientGoneError):
            raise
        except Exception as error:
            raise failure(error) from error
        finally:
            job.give_up()
            for task in (working, gone):
                task.cancel()
                with suppress(asyncio.CancelledError, Exception):
                    await task

    async def _stream(self, job: Job, shape: Shape, watch: _Watch) -> AsyncGenerator[bytes]:
        """The events of a stream, those that come together in one write. An error that comes in the middle is an event
        of its own, and the last."""
        status, writing, begun = 499, Writing(shape), time.monotonic()
        sent = b""
        try:
            async for events in job:
                for event in events:
                    watch.saw(event)
                    if watch.first is None and isinstance(event, Delta | Raw):
                        watch.first = time.monotonic() - watch.begun
                        self.metrics.first.observe(watch.first)
                last = isinstance(events[-1], Result)  # of another server's nobody knows
                if sent := writing.write(events) + (_DONE if last else b""):
                    yield sent
                status = 200 if last else status
            if status != 200:
                status = 200
                yield _DONE
        except (asyncio.CancelledError, GeneratorExit):
            raise
        except Exception as error:
            found = error if isinstance(error, ApiError) else failure(error)
            status = found.status
            if not sent and time.monotonic() - begun < PEEK_S / 2:
                raise _RefusedError(found) from None  # its status can still be told
            yield sse(found.body()).encode()
        finally:
            job.give_up()
            self._left(job, watch)
            self._ended(watch, status)

    def _left(self, job: Job, watch: _Watch) -> None:
        self.jobs.discard(job)
        self.admission.leave(job.num_traces, time.monotonic() - watch.begun)

    def _ended(self, watch: _Watch, status: int) -> None:
        """A request has been answered: counted and logged."""
        seconds, result, metrics = time.monotonic() - watch.begun, watch.result, self.metrics
        metrics.requests.labels(watch.route, watch.method, status).inc()
        metrics.seconds.labels(watch.method).observe(seconds)
        if status == 499:
            metrics.abandoned.inc()
        summary = None if result is None else result.deepconf
        for kind, count in zip(("prompt", "completion"), watch.tokens or (), strict=False):
            metrics.tokens.labels(kind).inc(count)
        if summary is not None:
            for state, count in summary["states"].items():
                metrics.traces.labels(state).inc(count)
            metrics.saved.inc(summary["saved_tokens"] or 0)
        if watch.span is not None:
            watch.span.end(
                status, h1r__request_id=watch.id, gen_ai__request__model=watch.model, h1r__method=watch.method,
                h1r__first_token_s=watch.first,
                gen_ai__usage__input_tokens=None if watch.tokens is None else watch.tokens[0],
                gen_ai__usage__output_tokens=None if watch.tokens is None else watch.tokens[1],
                **{f"h1r.deepconf.{name}": (summary or {}).get(name) for name in _TOLD_OF_DEEPCONF},
            )  # fmt: skip
        self.log.write(
            id=watch.id, route=watch.route, model=watch.model, method=watch.method, status=status,
            seconds=round(seconds, 4), first_token_s=None if watch.first is None else round(watch.first, 4),
            prompt_tokens=None if watch.tokens is None else watch.tokens[0],
            completion_tokens=None if watch.tokens is None else watch.tokens[1],
            traces=None if summary is None else summary["traces"],
            stop_reason=None if summary is None else summary["stop_reason"], request=watch.prompt,
        )  # fmt: skip


def failure(error: BaseException) -> ApiError:
    """What a client is told of an error that it did not make. A `UserError` says what went wrong with the engine; of
    others, only that there was one."""
    if isinstance(error, UnanswerableError):
        return ApiError(400, f"no engine can answer this: {error.traces[0].error}", code="context_length_exceeded")
    if isinstance(error, UserError):
        return ApiError(502, str(error), code="engine_failed")
    return ApiError(500, f"the server failed at this request ({type(error).__name__})", code="internal_error")


async def _result(job: Job) -> Result | Raw:
    async for events in job:
        for event in events:
            if isinstance(event, Result | Raw):
                return event
    raise RuntimeError("the job ended without a result")


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error_response(error)


async def _any_error(request: Request, error: Exception) -> Response:
    return error_response(failure(error))
