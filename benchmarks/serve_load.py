"""`h1r serve` under load: many clients ask plain and DeepConf requests of it in front of two replicas, some hang up,
and one replica is killed and brought back.

    python benchmarks/serve_load.py RUN [--clients 200] [--seconds 300] [--hang-up 0.1] [--deepconf 0.2] [--blip]

blip: halfway, while one replica is dead, all connections to the other are broken once (`ss -K`: Linux, as root).

Each client asks again as soon as it has its answer. A replica is killed (SIGKILL) after a third of the time, and
started again on its port after two thirds. Prints JSON: requests by what came of them (ok; refused, with the status;
lost: no answer and no error, which must be none), latency of plain requests in seconds (p50, p99) in each third, traces
left running half a minute after the end, and the memory of the front server over time (MiB).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from subprocess import DEVNULL
from typing import Any

import httpx2


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def start(*arguments: str, port: int) -> subprocess.Popen[str]:
    """A server that answers already."""
    command = [sys.executable, "-m", "h1r", "serve", *arguments, "--port", str(port), "--max-requests", "1000"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("serving "):
            threading.Thread(target=process.stderr.read, daemon=True).start()
            return process
    raise SystemExit(f"{' '.join(command)} did not start")


def rss_mib(pid: int) -> float:
    with open(f"/proc/{pid}/status", encoding="ascii") as lines:
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


class Load:
    """The clients, and what came of their requests."""

    def __init__(self, url: str, model: str, options: argparse.Namespace) -> None:
        self.url, self.model, self.options = url, model, options
        self.counts: Counter[str] = Counter()
        self.plain: list[tuple[float, float]] = []
        """When a plain request began, and how long it took."""
        self.happening: list[threading.Thread] = []
        self.begun = time.monotonic()

    @property
    def left(self) -> float:
        return self.begun + self.options.seconds - time.monotonic()

    async def client(self, number: int, http: httpx2.AsyncClient) -> None:
        random_ = random.Random(number)
        while self.left > 0:
            many = random_.random() < self.options.deepconf
            body = {
                "model": f"{self.model}@deepconf-8" if many else self.model, "stream": True,
                "messages": [{"role": "user", "content": f"What is {random_.randrange(99)} + {number}?"}],
                "max_tokens": random_.randrange(8, 64),
            }  # fmt: skip
            started = time.monotonic()
            hangs_up = random_.random() < self.options.hang_up
            self.counts[await self._ask(http, body, random_.random() if hangs_up else None)] += 1
            if not many and not hangs_up:
                self.plain.append((started - self.begun, time.monotonic() - started))

    async def _ask(self, http: httpx2.AsyncClient, body: dict[str, Any], hang_up_after: float | None) -> str:
        try:
            async with (
                asyncio.timeout(hang_up_after),
                http.stream("POST", f"{self.url}/v1/chat/completions", json=body, timeout=300) as response,
            ):
                if response.status_code != 200:
                    return f"status {response.status_code}"
                last = ""
                async for line in response.aiter_lines():
                    last = line if line.startswith("data: ") else last
            if last == "data: [DONE]":
                return "ok"
            return _error_in(last) or "lost"
        except TimeoutError:
            return "hung up"
        except httpx2.HTTPError as error:
            return f"lost ({type(error).__name__})"

    async def run(self, events: list[tuple[float, Any]], front: int) -> list[float]:
        """Everything, with events at their seconds; the memory of the front server over time."""
        memory: list[float] = []
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=0)
        async with httpx2.AsyncClient(limits=limits) as http:
            clients = [asyncio.create_task(self.client(number, http)) for number in range(self.options.clients)]
            while self.left > 0:
                memory.append(round(rss_mib(front), 1))
                while events and time.monotonic() - self.begun >= events[0][0]:
                    self.happening.append(threading.Thread(target=events.pop(0)[1]))
                    self.happening[-1].start()
                await asyncio.sleep(min(5.0, self.options.seconds / 30))
            await asyncio.gather(*clients)
        return memory

    def latency(self) -> dict[str, list[float]]:
        """p50 and p99 of plain requests, in each third of the time."""
        third = self.options.seconds / 3
        found = {}
        for number, name in enumerate(("two replicas", "one killed", "back")):
            times = sorted(took for at, took in self.plain if number * third <= at < (number + 1) * third)
            found[name] = [round(times[int(len(times) * q)], 3) for q in (0.5, 0.99)] if times else []
        return found


def _error_in(last: str) -> str | None:
    """What the last line of a stream says went wrong."""
    try:
        return f"error: {json.loads(last.removeprefix('data: '))['error']['message'][:120]}"
    except (ValueError, KeyError, TypeError):
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run")
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--hang-up", type=float, default=0.1)
    parser.add_argument("--deepconf", type=float, default=0.2)
    parser.add_argument("--blip", action="store_true")
    options = parser.parse_args()
    ports = [free_port() for _ in range(3)]
    replicas = [start(options.run, port=port) for port in ports[:2]]
    front = start(*(f"http://127.0.0.1:{port}/v1" for port in ports[:2]), port=ports[2])
    url = f"http://127.0.0.1:{ports[2]}"
    try:
        load = Load(url, httpx2.get(f"{url}/v1/models").json()["data"][0]["id"], options)

        def bring_back() -> None:
            replicas.append(start(options.run, port=ports[1]))

        def blip() -> None:
            subprocess.run(["ss", "-K", "dst", "127.0.0.1", "dport", "=", str(ports[0])], check=True, stdout=DEVNULL)

        events = [(options.seconds / 3, replicas[1].kill), (2 * options.seconds / 3, bring_back)]
        if options.blip:
            events.insert(1, (options.seconds / 2, blip))
        memory = asyncio.run(load.run(events, front.pid))
        for thread in load.happening:  # a replica that was slow to come back
            thread.join()
        deadline = time.monotonic() + 30
        while (left := running(url)) and time.monotonic() < deadline:
            time.sleep(0.5)
        replicas_left = [running(f"http://127.0.0.1:{port}") for port in ports[:2]]
    finally:
        for process in (front, *replicas):
            process.terminate()
        for process in (front, *replicas):
            process.wait()
    print(json.dumps({
        "clients": options.clients, "seconds": options.seconds, "requests": dict(load.counts),
        "lost": sum(count for name, count in load.counts.items() if name.startswith("lost")),
        "plain_s": load.latency(), "traces_left": [left, *replicas_left], "memory_mib": memory,
    }))  # fmt: skip


def running(url: str) -> int:
    """Traces and requests that the server still has."""
    page = httpx2.get(f"{url}/metrics", timeout=30).text
    names = "h1r_traces_running|h1r_traces_waiting|h1r_requests_in_progress"
    return int(sum(float(value) for value in re.findall(rf"^(?:{names}) (\S+)$", page, re.MULTILINE)))


if __name__ == "__main__":
    main()
