"""A run under way: what goes in, what comes out, and the clock.

Everything a run sends back is bytes of bounded length that the parent reads by its own clock; nothing in it can make
the parent raise, hang or believe. What it reports of itself (exit status, time, memory) comes from the fork server.
"""

from __future__ import annotations

import math
import os
import select
import selectors
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from h1r.sandbox.limits import Limits
from h1r.sandbox.meter import Clock, Meter
from h1r.sandbox.values import FrameReader, dump_frame

_PIPE_BYTES = 1 << 16
"""What a pipe holds, and the most that is read or written at once. Who fills or empties one waits for its parent."""

Ending = Literal["finished", "time", "output", "failed"]


class SandboxError(RuntimeError):
    """The sandbox itself failed: no word about the code in it."""


class StarvedError(SandboxError):
    """The run came to its limit of the wall because the machine had no processor for it (`meter.starved`)."""


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a run ended. `status` is an exit status, or minus a signal's number; `seconds` wall; `memory` peak bytes.

    `spent_s`: the time that the run itself took, of its processors and asleep (see `meter`).
    `ending`: "finished" by itself, cut off for "time" or "output", or "failed": the sandbox could not run it.
    """

    ending: Ending
    status: int
    stdout: bytes
    stderr: bytes
    seconds: float
    memory: int
    spent_s: float = 0.0


class ForkServer(Protocol):
    """What a session asks of the sandbox that started it; see `runner.Sandbox`."""

    def poll(self, limit_s: float) -> bool: ...

    def end_run(self, kill: bool) -> dict[str, Any]: ...


class Session:
    """A job under way. Every wait is bounded by the limits it was started with."""

    def __init__(
        self,
        sandbox: ForkServer,
        job: dict[str, Any],
        limits: Limits,
        streams: list[int],
        process: int | None,
        several: bool = False,
    ) -> None:
        self._sandbox = sandbox
        self._limits = limits
        self._streams = streams
        self._meter = Meter(process, several=several or limits.processes > 1)
        self._all = Clock(self._meter, limits.total_s, limits.answer_wall_s, from_start=True)
        self._began = False
        self._ended: dict[str, Any] | None = None
        self._reader = FrameReader(limits.output_bytes)
        self._to_send = bytearray(dump_frame(job))
        for descriptor in streams:
            os.set_blocking(descriptor, False)

    def close(self) -> dict[str, Any]:
        """Kills the run if it still runs, and returns the fork server's report of its end."""
        report = self._ended or self._end()
        for descriptor in self._streams:
            os.close(descriptor)
        self._streams = []
        self._meter.settle(report["cpu_s"])
        self._meter.close()
        return report

    @property
    def spent_s(self) -> float:
        """The time that the run itself has spent: all of it after `close`, before as it was last looked at."""
        return self._meter.spent_s

    @property
    def waited_s(self) -> float:
        """The time that the run has waited for a processor (see `meter`)."""
        return self._meter.waited_s

    def send(self, message: dict[str, Any]) -> None:
        """Queues a frame; it leaves with the next wait."""
        self._to_send += dump_frame(message)

    def receive(self, limit_s: float | None = None) -> tuple[dict[str, Any] | None, Ending]:
        """The next frame within `limit_s`, by default `time_s`, of this call, or None and why there is none.

        The first one has to come within that since the start. `StarvedError` where the machine is why.
        """
        channel = self._streams[0]
        wall_s = self._limits.test_wall_s if limit_s is None else max(limit_s, self._limits.test_wall_s)
        clock = Clock(self._meter, limit_s or self._limits.time_s, wall_s, from_start=not self._began)
        self._began = True
        self._meter.await_it()
        self._flush(channel)
        while True:
            try:
                if (message := self._reader.next()) is not None:
                    return message, "finished"
            except ValueError:
                return None, "output"
            wait = min(self._all.next_wait(), clock.next_wait())
            if wait <= 0:
                self._refuse_starved(self._all, clock)
                return None, "time"
            if not ready(channel, writing=bool(self._to_send), limit_s=wait):
                continue
            self._flush(channel)
            data = _read(channel)
            if data and len(data) == _PIPE_BYTES:
                self._meter.excuse()
            if data == b"":
                self._ended = self._sandbox.end_run(kill=True)
                if "lost" in self._ended:
                    raise SandboxError("the fork server died under a run")
                return None, "failed"
            self._reader.feed(data or b"")

    def ask(self, message: dict[str, Any]) -> tuple[dict[str, Any] | None, Ending]:
        """`send`, then `receive`."""
        self.send(message)
        return self.receive()

    def _flush(self, channel: int) -> None:
        if not self._to_send:
            return
        while self._to_send:
            try:
                del self._to_send[: os.write(channel, memoryview(self._to_send)[: 1 << 18].tobytes())]
            except BlockingIOError:
                return
            except OSError:  # the other side is gone; its end of file follows
                self._to_send.clear()
        self._meter.await_it()

    def communicate(self, stdin: bytes) -> RunResult:
        """Feeds `stdin`, collects both outputs, and waits for the end. `StarvedError` where the machine had no
        processor for the run."""
        channel, to_stdin, from_stdout, from_stderr = self._streams
        outputs = {from_stdout: bytearray(), from_stderr: bytearray()}
        pending = memoryview(stdin)
        ending: Ending = "finished"
        limit_s = min(self._limits.time_s, self._limits.total_s)
        clock = Clock(self._meter, limit_s, self._limits.test_wall_s, from_start=True)
        with selectors.DefaultSelector() as selector:
            selector.register(channel, selectors.EVENT_WRITE)
            selector.register(to_stdin, selectors.EVENT_WRITE)
            for descriptor in outputs:
                selector.register(descriptor, selectors.EVENT_READ)
            while any(descriptor in selector.get_map() for descriptor in outputs) and ending == "finished":
                if (wait := clock.next_wait()) <= 0:
                    self._refuse_starved(clock)
                    ending = "time"
                    break
                for key, _ in selector.select(wait):
                    if key.fd == channel:
                        self._flush(channel)
                        if not self._to_send:
                            selector.unregister(channel)
                    elif key.fd == to_stdin:
                        before, pending = len(pending), _write_some(to_stdin, pending)
                        if not pending or before - len(pending) == _PIPE_BYTES:
                            self._meter.excuse()
                        if not pending:
                            selector.unregister(to_stdin)
                            self._close_stream(to_stdin)
                    elif not (data := _read(key.fd)):
                        selector.unregister(key.fd)
                    else:
                        if len(data) == _PIPE_BYTES:
                            self._meter.excuse()
                        outputs[key.fd] += data
                        if len(outputs[key.fd]) > self._limits.output_bytes:
                            ending = "output"
        # Both outputs are closed: by its end, or by a program that closed them and goes on, which then has no more time
        if ending == "finished" and not self._sandbox_ended(clock):
            self._refuse_starved(clock)
            ending = "time"
        report = self._ended or self._end()
        self._meter.settle(report["cpu_s"])
        status = os.waitstatus_to_exitcode(report["status"])
        if "lost" in report:
            ending = "failed"
        elif ending == "finished" and self._meter.spent_s > limit_s:
            ending = "time"
        stdout, stderr = (bytes(output) for output in outputs.values())
        return RunResult(ending, status, stdout, stderr, report["seconds"], report["memory"], self._meter.spent_s)

    def _end(self) -> dict[str, Any]:
        """Kills the run; what it waited for a processor is known until then."""
        _ = self._meter.waited_s
        self._ended = report = self._sandbox.end_run(kill=True)
        return report

    def _refuse_starved(self, *clocks: Clock) -> None:
        for clock in clocks:
            if why := clock.why_starved():
                self._end()
                raise StarvedError(why)

    def _sandbox_ended(self, clock: Clock) -> bool:
        while (wait := clock.next_wait()) > 0:
            if self._sandbox.poll(wait):
                self._ended = self._sandbox.end_run(kill=False)
                return True
        return False

    def _close_stream(self, descriptor: int) -> None:
        self._streams.remove(descriptor)
        os.close(descriptor)


def ready(descriptor: int, writing: bool, limit_s: float) -> bool:
    poller = select.poll()
    poller.register(descriptor, select.POLLIN | (select.POLLOUT if writing else 0))
    return bool(poller.poll(math.ceil(max(limit_s, 0.0) * 1000)))


def _read(descriptor: int) -> bytes | None:
    """Bytes, b"" at the end, None when there is nothing yet."""
    try:
        return os.read(descriptor, _PIPE_BYTES)
    except BlockingIOError:
        return None
    except OSError:
        return b""


def _write_some(descriptor: int, pending: memoryview) -> memoryview:
    """What is left to write; nothing when the reader is gone."""
    try:
        return pending[os.write(descriptor, pending[:_PIPE_BYTES]) :]
    except BlockingIOError:
        return pending
    except OSError:
        return pending[:0]
