"""The server before its model is there: it listens, says so, and nobody has to ask twice."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
from served_model import eventually
from starlette.responses import PlainTextResponse

from h1r.common.servers import Servers, failure_of
from h1r.errors import UserError
from h1r.serve.limits import Limits
from h1r.serve.loading import Loading
from h1r.serve.run import Listening, serve

ASKED = {"model": "late", "messages": [{"role": "user", "content": "Are you there?"}]}


class Late:
    """What is served, once `loads` is set, or an error then; or `broken`, once it is there."""

    def __init__(self, error: Exception | None = None, broken: Exception | None = None) -> None:
        self.loads, self.error, self.broken = threading.Event(), error, broken
        self.closed = self.stopped = False
        self.served = SimpleNamespace(models=lambda: [{"id": "late"}])

    def app(self) -> Any:
        if self.broken is not None:
            raise self.broken
        return PlainTextResponse("here")

    def drain(self) -> None: ...

    def finish(self) -> None: ...

    @contextlib.contextmanager
    def opened(self) -> Iterator[Any]:
        assert self.loads.wait(30)
        if self.error is not None:
            raise self.error
        try:
            yield self
        finally:
            self.closed = True


def while_serving(late: Late, visit: Callable[[httpx2.Client], None], limits: Limits) -> BaseException | None:
    """Serves in this thread, visits from another, then sends a signal; what the visitor raised."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    raised: list[BaseException] = []

    def go() -> None:
        try:
            with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
                assert eventually(lambda: reached(client))
                visit(client)
        except BaseException as error:
            raised.append(error)
        finally:
            late.loads.set()
            if not late.stopped:  # a second signal would not wait for anything
                os.kill(os.getpid(), signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, lambda *_: None)  # should the server have ended by itself
    visitor = threading.Thread(target=go)
    visitor.start()
    try:
        serve(late.opened, Listening(port=port), limits)  # type: ignore[arg-type]
    finally:
        visitor.join()
        signal.signal(signal.SIGTERM, before)
    return raised[0] if raised else None


def reached(client: httpx2.Client) -> bool:
    try:
        return bool(client.get("/health").status_code)
    except httpx2.HTTPError:
        return False


def asked(client: httpx2.Client, replies: list[httpx2.Response]) -> threading.Thread:
    def ask() -> None:
        replies.append(client.post("/v1/chat/completions", json=ASKED))

    thread = threading.Thread(target=ask)
    thread.start()
    return thread


def test_the_page_is_there_before_the_model_and_requests_wait_for_it() -> None:
    late, replies = Late(), list[httpx2.Response]()

    def visit(client: httpx2.Client) -> None:
        assert client.get("/health").json() == {"status": "loading"}
        assert client.get("/health").status_code == 503
        assert client.get("/").text.startswith("<!doctype html>")
        assert client.post("/health").json()["error"]["message"] == "this path takes another method"
        hurried = client.post("/v1/chat/completions", json=ASKED, headers=Servers(["http://a", "http://b"]).headers)
        assert (hurried.status_code, hurried.json()["error"]["code"]) == (503, "loading")
        assert failure_of(hurried.status_code) == "passing"
        threads = [asked(client, replies) for _ in range(3)]
        assert eventually(lambda: len(replies) == 1)  # one more than may wait
        late.loads.set()
        for thread in threads:
            thread.join()
        assert client.get("/health").text == "here"

    assert while_serving(late, visit, Limits(requests=2, drain_s=0)) is None
    assert [reply.status_code for reply in replies] == [429, 200, 200]
    assert int(replies[0].headers["Retry-After"]) > 0
    assert replies[0].json()["error"]["code"] == "rate_limit_exceeded"
    assert late.closed


@pytest.mark.parametrize("error", [UserError("no such model; name another"), None], ids=["fails", "stops"])
def test_who_waits_for_a_model_that_does_not_come_is_told(error: UserError | None) -> None:
    late, replies = Late(error), list[httpx2.Response]()

    def visit(client: httpx2.Client) -> None:
        thread = asked(client, replies)
        if error is not None:
            late.loads.set()
        else:
            late.stopped = True
            os.kill(os.getpid(), signal.SIGTERM)
        thread.join()

    if error is None:
        assert while_serving(late, visit, Limits(drain_s=0)) is None
        assert late.closed
    else:
        with pytest.raises(UserError, match="no such model"):
            while_serving(late, visit, Limits(drain_s=0))
    (reply,) = replies
    assert reply.status_code == 503
    assert reply.json()["error"]["code"] == ("loading_failed" if error else "shutting_down")


async def while_waiting(loading: Loading, *messages: dict[str, Any]) -> list[Any]:
    """What is sent to a client whose messages come while it waits."""
    came, sent = asyncio.Queue[Any](), list[Any]()

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/models", "headers": []}
    task = asyncio.create_task(loading(scope, came.get, send))
    while loading.waiting == 0:
        await asyncio.sleep(0)
    for message in messages:
        came.put_nowait(message)
        await asyncio.sleep(0)
    if messages[-1]["type"] != "http.disconnect":
        loading.begin(repeating)
    await task
    return sent


async def repeating(scope: Any, receive: Any, send: Any) -> None:
    await send((await receive())["body"])


def test_who_has_hung_up_waits_for_no_model_and_who_waits_loses_nothing() -> None:
    body, gone = {"type": "http.request", "body": b"{}", "more_body": False}, {"type": "http.disconnect"}
    for messages, sent in (((body, gone), []), ((gone,), []), ((body,), [b"{}"])):
        loading = Loading(Limits(requests=1))
        assert asyncio.run(while_waiting(loading, *messages)) == sent
        assert loading.waiting == 0


def test_what_breaks_once_it_is_loaded_ends_the_server() -> None:
    late = Late(broken=RuntimeError("no routes"))

    def visit(client: httpx2.Client) -> None:
        late.stopped = True
        late.loads.set()

    with pytest.raises(RuntimeError, match="no routes"):
        while_serving(late, visit, Limits(drain_s=0))
    assert late.closed
