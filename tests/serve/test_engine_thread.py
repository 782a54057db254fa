"""How requests share one engine: fairly, without changing one another's traces, on engines here and elsewhere."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from served_model import KEY, NAME, QUESTION, Running, eventually, running

from h1r.engine.native.batch import Drawn
from h1r.engine.protocol import Running as RunningTrace
from h1r.engine.protocol import SamplingParams
from h1r.engine.streaming import StreamingEngine
from h1r.evals.answers import generate
from h1r.records import Message, Trace
from h1r.serve import engine_thread
from h1r.serve.engine_thread import ARRIVAL_PASSES, SLICE, EngineThread, Ticket
from h1r.serve.limits import Limits
from h1r.serve.local import Local
from h1r.serve.mailbox import Mailbox
from h1r.serve.model import Model
from h1r.serve.session import Session


class Collected:
    """A sink that keeps everything."""

    settled = True

    def __init__(self) -> None:
        self.traces: list[Trace] = []
        self.errors: list[BaseException] = []
        self.first = threading.Event()

    def take(self, drawn: Sequence[Drawn], traces: Sequence[Trace]) -> None:
        self.traces += traces
        if traces:
            self.first.set()

    def fail(self, error: BaseException) -> None:
        self.errors.append(error)


def test_many_traces_do_not_keep_one_waiting_and_are_the_same_as_alone(server: Running, run: Path) -> None:
    owner, model = server.service.served.owners()[0], server.service.served._model  # type: ignore[attr-defined]
    prompt = model.chat_prompt([Message("user", QUESTION)], None)
    params = SamplingParams(n=120, max_tokens=40, seed=2, temperature=1.5, confidence_top_k=model.recipe.scaling.top_k)
    many, one = Collected(), Collected()
    little = SamplingParams(max_tokens=3, seed=9, confidence_top_k=params.confidence_top_k)
    long, short = Ticket(prompt, params, many), Ticket(prompt, little, one)
    ended_before: list[int] = []

    def both() -> None:  # in one step, so that the many are first in any case
        owner._submit(long)
        owner._grant()
        owner._submit(short)

    one_take = one.take

    def take(drawn: Sequence[Drawn], traces: Sequence[Trace]) -> None:
        ended_before.append(len(many.traces))
        one_take(drawn, traces)

    one.take = take  # type: ignore[method-assign]
    owner.post(both)
    assert eventually(lambda: len(many.traces) == 120 and len(one.traces) == 1)
    assert ended_before[-1] < 120 - owner.slots
    alone = generate(str(run), [QUESTION], params)
    texts = {trace.sample_index: trace.token_ids for trace in many.traces}
    assert [texts[index] for index in range(120)] == [trace.token_ids for trace in alone]
    assert owner.load == (0, 0)


def test_a_step_waits_for_requests_that_have_been_read_where_they_are_more_than_what_runs(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, model = server.service.served.owners()[0], server.service.served._model  # type: ignore[attr-defined]
    monkeypatch.setattr(engine_thread, "GATHER_S", 20.0)
    loop, first, others, step = asyncio.new_event_loop(), Collected(), Collected(), owner.engine.step
    rows: list[int] = []

    def counted() -> list[Trace]:
        rows.append(owner.load[0])
        return step()

    monkeypatch.setattr(owner.engine, "step", counted)
    params = SamplingParams(max_tokens=4, seed=1, confidence_top_k=model.recipe.scaling.top_k)
    prompt = model.chat_prompt([Message("user", QUESTION)], None)
    for _ in range(6):
        owner.arrivals.begin(loop)
    for sink in (first, *[others] * 5):  # the thread has the first at once, and waits for the others
        owner.submit(Ticket(prompt, params, sink))
        assert not rows
    for _ in range(ARRIVAL_PASSES + 1):
        loop.run_until_complete(asyncio.sleep(0))
    assert eventually(lambda: len(first.traces) == 1 and len(others.traces) == 5)
    assert rows[0] == 6
    alone = Collected()
    owner.arrivals.begin(loop)  # a lone one waits for nothing
    owner.submit(Ticket(prompt, params, alone))
    assert eventually(lambda: len(alone.traces) == 1)
    for _ in range(2):  # from a loop that is closed before they are tickets: nobody waits for them for long
        owner.arrivals.begin(loop)
    loop.close()
    monkeypatch.setattr(engine_thread, "STALE_S", 0.0)
    owner.submit(Ticket(prompt, params, others))
    assert eventually(lambda: len(others.traces) == 6)


def test_another_server_of_the_same_model_that_ends_leaves_this_one_answering(server: Running, model: Model) -> None:
    """Each request has the event loop that it came in by; one that is closed stops nobody."""
    body = {"model": NAME, "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 4}
    asyncio.run(_begin_and_leave(model))
    with running(Local(model, Limits())) as other:
        assert other.client.post("/v1/chat/completions", json=body).status_code == 200
    assert server.client.post("/v1/chat/completions", json=body, timeout=30).status_code == 200
    assert server.service.served.owners()[0].alive


async def _begin_and_leave(model: Model) -> None:
    """A request whose loop is closed while its traces run."""
    prompt = model.chat_prompt([Message("user", QUESTION)], None)
    Mailbox(
        model.owner,
        [prompt],
        [SamplingParams(n=8, max_tokens=500, temperature=5.0, confidence_top_k=model.recipe.scaling.top_k)],
        listen=True,
    )


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("changes", [{"n": 16}, {"deepconf": {"budget": 64, "method": "majority"}}])
def test_a_client_that_hangs_up_costs_one_step_at_most(
    server: Running, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], stream: bool
) -> None:
    """A step that begins after the client has gone lasts until the server has noticed: however slow the machine is, and
    without a token to write, it does; and no step comes after that one."""
    owner = server.service.served.owners()[0]
    step = owner.engine.step
    gone, noticed = threading.Event(), threading.Event()
    steps: list[bool] = []

    def counted() -> list[Trace]:
        if gone.is_set():
            steps.append(noticed.wait(20))
        return step()

    def noticing(method: Callable[..., None]) -> Callable[..., None]:
        def call(*arguments: Any, **options: Any) -> None:
            method(*arguments, **options)
            noticed.set()

        return call

    assert eventually(lambda: owner.load == (0, 0) and not owner.engine.busy)  # what another test left has ended
    monkeypatch.setattr(owner.engine, "step", counted)
    monkeypatch.setattr(owner.engine._scheduler, "eos_token_ids", ())  # no trace ends by itself
    asked = {"model": NAME, "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 4000, "temperature": 5}
    body = json.dumps({**asked, **changes, "stream": stream})
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {KEY}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as client:
        client.sendall((head + body).encode())
        assert eventually(lambda: owner.load[0] > 0)
        monkeypatch.setattr(EngineThread, "drop", noticing(EngineThread.drop))
        monkeypatch.setattr(Session, "end", noticing(Session.end))
        gone.set()
    assert eventually(lambda: owner.load == (0, 0) and not owner.engine.busy)
    assert all(steps), "the server did not notice"
    assert len(steps) <= 1


class Elsewhere(StreamingEngine):
    """An engine whose traces end at the third step after they were submitted."""

    def __init__(self) -> None:
        super().__init__(None, [1], 100, 1000)
        self.submitted: list[int] = []

    def load_weights(self, weights: object) -> None:
        raise AssertionError

    def _open(self) -> Stream:
        return Stream(self.submitted)


class Stream:
    def __init__(self, submitted: list[int]) -> None:
        self.live: list[tuple[int, Trace]] = []
        self.submitted = submitted

    @property
    def busy(self) -> bool:
        return bool(self.live)

    def submit(self, index: int, prompt: list[int], params: SamplingParams, ends: list[int]) -> None:
        self.submitted.append(params.n)
        for sample in range(params.n):
            ids = [7, params.seed + sample]
            self.live.append((3, Trace(index, sample, ids, "", [0.0] * 2, [0.0] * 2, [1.0] * 2, "stop")))

    def step(self, wait: float | None) -> list[Trace]:
        self.live = [(left - 1, trace) for left, trace in self.live]
        ended = [trace for left, trace in self.live if not left]
        self.live = [one for one in self.live if one[0]]
        return ended

    def cancel(self, prompt_index: int) -> list[Trace]:
        gone = [trace for _, trace in self.live if trace.prompt_index == prompt_index]
        self.live = [one for one in self.live if one[1].prompt_index != prompt_index]
        return gone

    def progress(self) -> list[RunningTrace]:
        return [RunningTrace(trace.prompt_index, trace.sample_index, 1, 1.0) for _, trace in self.live]

    def close(self) -> None:
        self.live = []


def test_an_engine_elsewhere_has_no_more_than_its_slots_and_every_trace_its_seed() -> None:
    engine = Elsewhere()
    engine.begin()
    owner = EngineThread(engine, slots=10)
    try:
        session = Session(owner)
        traces = session.generate([[5], [6]], [SamplingParams(n=25, seed=40), SamplingParams(n=2, seed=80)])
        assert [trace.token_ids[1] for trace in traces] == [*range(40, 65), 80, 81]
        assert [trace.sample_index for trace in traces] == [*range(25), 0, 1]
        assert max(engine.submitted) <= max(SLICE, 10)
        (refused,) = session.generate([[500]], SamplingParams())
        assert "outside the vocabulary" in str(refused.error)
        assert owner.load == (0, 0)
    finally:
        owner.close()
        engine.end()
    assert not owner.alive
