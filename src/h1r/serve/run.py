"""`h1r serve` from its start to its end: listens, opens what is served meanwhile, and leaves in order.

What importing torch takes is spent in a thread: `loading.py` answers until there is a model. So nothing that is
imported here may import torch.

On SIGTERM or Ctrl-C no request is let in any more; those in progress may end within `Limits.drain_s`, and are then
answered with what they have. A second signal ends at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn
from starlette.types import ASGIApp

from h1r.common.progress import note
from h1r.common.servers import is_loopback
from h1r.errors import UserError
from h1r.serve.connections import bounds
from h1r.serve.gate import Gate
from h1r.serve.limits import Limits
from h1r.serve.loading import FAILED, Loading

if TYPE_CHECKING:
    from h1r.serve.app import Service

KEY_VARIABLE = "H1R_API_KEY"
BACKLOG = 2048
"""Connections that wait to be accepted, as uvicorn has it."""


@dataclass(frozen=True, slots=True)
class Listening:
    """Where the server listens. port 0: any free one. key: what clients must show; None on loopback: nothing."""

    host: str = "127.0.0.1"
    port: int = 8000
    key: str | None = field(default=None, repr=False)

    @property
    def on_loopback(self) -> bool:
        """Whether nobody else can reach it."""
        return is_loopback(self.host)

    @property
    def host_here(self) -> str:
        """Where a browser on this machine finds it: all addresses (`0.0.0.0`, `::`) are none that a link can have."""
        return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)


def address(host: str, port: int) -> str:
    """`http://HOST:PORT`, as a client needs it."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def listening(host: str, port: int) -> Listening:
    """With the key of the environment. `UserError` where others could ask without one."""
    found = Listening(host, port, os.environ.get(KEY_VARIABLE, "").strip() or None)
    if found.key is None and not found.on_loopback:
        raise UserError(
            f"--host {host} lets others in; export {KEY_VARIABLE} with a key that they must show, or listen on "
            "127.0.0.1"
        )
    return found


def serve(opened: Callable[[], AbstractContextManager[Service]], where: Listening, limits: Limits) -> None:
    """Serves until a signal what `opened` gives, which is called in a thread. `UserError` where the address is taken;
    an error of `opened` ends the server and is raised. For a program that ends with it: what was loaded is left out of
    Python's search for garbage ever after."""
    loading = Loading(limits)
    app: ASGIApp = Gate(loading, where.key, (where.host,) if where.on_loopback else None)
    family = socket.AF_INET6 if ":" in where.host else socket.AF_INET
    taken = socket.socket(family)
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    with taken, ExitStack() as things:
        try:
            taken.bind((where.host, where.port))
        except OSError as error:
            raise UserError(
                f"{where.host}:{where.port} cannot be listened on ({error.strerror}); give another --port"
            ) from None
        taken.listen(BACKLOG)  # so that nobody is refused who asks as soon as the address is told
        port = taken.getsockname()[1]
        note(f"open {address(where.host_here, port)}/ to ask it in a browser")
        opening = Opening(lambda: things.enter_context(opened()), loading, f"{address(where.host, port)}/v1")
        asyncio.run(_serve(Server(http_config(app, limits), opening, limits), opening, taken))
    gc.freeze()  # vLLM undoes the other, and a program that ends looks several times: seconds


class Opening:
    """What is served on its way. `load` runs in a thread. url: told once there is something."""

    def __init__(self, load: Callable[[], Service], loading: Loading, url: str) -> None:
        self.loading = loading
        self.service: Service | None = None
        self._load, self._url = load, url

    async def run(self, server: uvicorn.Server) -> None:
        """Opens it. An error ends the server, and is raised."""
        try:
            self.service = service = await asyncio.to_thread(self._load)
            gc.freeze()  # what stays is not looked through for garbage, which stops the engine for a tenth of a second
            self.loading.begin(service.app())
            names = ", ".join(one["id"] for one in service.served.models()[:1])
            note(f"serving {names} at {self._url}")
        except BaseException:
            self.loading.end(FAILED)
            server.should_exit = True
            raise


def http_config(app: ASGIApp, limits: Limits) -> uvicorn.Config:
    """How HTTP is spoken: by h11, which bounds headers and takes no request that could be read in two ways."""
    return uvicorn.Config(
        app, **bounds(), ws="none", lifespan="off", log_level="warning", access_log=False, server_header=False,
        h11_max_incomplete_event_size=64 << 10, timeout_keep_alive=30,
        timeout_graceful_shutdown=int(limits.drain_s + 10),
    )  # fmt: skip


class Server(uvicorn.Server):
    """Ends by SIGTERM or SIGINT as a program that has done its work: uvicorn's raises the signal once more. Once it is
    told to stop, requests have their time, and then end with what there is."""

    def __init__(self, config: uvicorn.Config, opening: Opening, limits: Limits) -> None:
        super().__init__(config)
        self._opening, self._limits = opening, limits

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handlers while it serves."""
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A second signal does not wait."""
        self.force_exit = self.should_exit
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Until no request is left."""
        drain = asyncio.create_task(self._drain())
        try:
            await super().shutdown(sockets)
        finally:
            drain.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await drain

    async def _drain(self) -> None:
        self._opening.loading.end()
        if (service := self._opening.service) is not None:
            service.drain()
            await asyncio.sleep(self._limits.drain_s)
            service.finish()


async def _serve(server: Server, opening: Opening, taken: socket.socket) -> None:
    opened = asyncio.create_task(opening.run(server))
    await server.serve([taken])
    if not opened.done():
        note("stopping once the model is loaded; a second signal does not wait")
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
    await opened  # so that it is closed in order
