"""What `h1r serve` costs over the engine called directly: tokens/s at some streams, and the time to the first token.

    python benchmarks/serve_overhead.py RUN [--streams 64] [--requests 64] [--tokens 128] [--rounds 5]

requests: how many share the streams, as their `n`; 1 is what a step costs, without arrivals one after another.

The engine alone and the server are measured in turns, round by round, on the same prompts and seeds, so that a busy
machine slows both. tokens_per_s: best of the rounds, of whole replies and of streamed ones. overhead: by how much the
engine alone is faster, median of the rounds. cpu_overhead: by how much more processor time the server's process takes
for the same tokens than the engine's, which says more where others share the machine. loop_us: of that the event loop's
thread, for each token, median, microseconds: the engine's thread waits for it. pieces: chunks of text of a stream, mean
over the last round. asking_s: processor time of the
client for all requests of a round, median; it shares the machine with the server. first_ms: from a request to its first
token, median, of one request at a time, of the engine and of the server. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import selectors
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2

from h1r.common.progress import quiet
from h1r.engine.native.engine import NativeEngine
from h1r.engine.protocol import SamplingParams
from h1r.evals.answers import open_checkpoint, recipe_of

TEXT = "What is 12 + 30 - 7?"


@contextmanager
def server(run: str) -> Iterator[tuple[str, str, int]]:
    """A server of its own on this run: address, model and process."""
    command = [sys.executable, "-m", "h1r", "serve", run, "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if line.startswith("serving "):
                name, _, url = line.removeprefix("serving ").strip().partition(" at ")
                threading.Thread(target=process.stderr.read, daemon=True).start()
                yield url.removesuffix("/v1"), name, process.pid
                return
        raise SystemExit("the server did not start")
    finally:
        process.terminate()
        process.wait()


def direct(engine: NativeEngine, prompt: list[int], streams: int, requests: int, tokens: int) -> float:
    """Tokens/s of the engine."""
    each = streams // requests
    params = [
        SamplingParams(n=each, max_tokens=tokens, seed=each * number, top_p=0.95, temperature=0.6)
        for number in range(requests)
    ]
    started = time.perf_counter()
    traces = engine.generate([prompt] * requests, params)
    return sum(trace.num_tokens for trace in traces) / (time.perf_counter() - started)


class Client:
    """Asks by HTTP/1.1 over connections that stay open, all from one thread, with requests that were written before:
    what a client takes is no cost of the server's, and its processors are those of the server."""

    def __init__(self, url: str, connections: int) -> None:
        host, _, port = url.removeprefix("http://").partition(":")
        self._head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
        self._sockets = [socket.create_connection((host, int(port)), timeout=600) for _ in range(connections)]

    def request(self, body: dict[str, Any]) -> bytes:
        """As it is sent."""
        content = json.dumps(body).encode()
        return f"{self._head}Content-Length: {len(content)}\r\n\r\n".encode() + content

    def ask(self, requests: list[bytes]) -> list[bytearray]:
        """Their replies, with headers."""
        replies = [bytearray() for _ in requests]
        with selectors.DefaultSelector() as waiting:
            for at, (one, request) in enumerate(zip(self._sockets, requests, strict=False)):
                one.sendall(request)
                waiting.register(one, selectors.EVENT_READ, at)
            while waiting.get_map():
                for key, _ in waiting.select():
                    assert isinstance(key.fileobj, socket.socket)
                    replies[key.data] += key.fileobj.recv(1 << 18)
                    if is_whole(replies[key.data]):
                        waiting.unregister(key.fileobj)
        return replies


def is_whole(reply: bytearray) -> bool:
    """Whether nothing more of it comes."""
    end = reply.find(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: (\d+)", reply[: max(end, 0)])
    if length is None:
        return reply.endswith(b"\r\n0\r\n\r\n")
    return len(reply) == end + 4 + int(length[1])


def completion_tokens(reply: bytes) -> int:
    """What it says of all its traces, in the last place where it says anything."""
    return int(re.findall(rb'"completion_tokens":(\d+)', reply)[-1])


def served(
    client: Client, body: dict[str, Any], streams: int, requests: int, stream: bool
) -> tuple[float, int, list[bytearray]]:
    """The same of the server, how many they were, and the replies."""
    each = streams // requests
    ending = {"stream": stream, "stream_options": {"include_usage": True}}
    asked = [client.request({**body, "n": each, "seed": each * seed, **ending}) for seed in range(requests)]
    started = time.perf_counter()
    replies = client.ask(asked)
    seconds = time.perf_counter() - started
    tokens = sum(completion_tokens(bytes(reply)) for reply in replies)
    return tokens / seconds, tokens, replies


def first_of_engine(engine: NativeEngine, prompt: list[int]) -> float:
    started = time.perf_counter()
    number = engine.add(prompt, SamplingParams(max_tokens=4), listen=True)
    next(engine.tokens(number))
    seconds = time.perf_counter() - started
    engine.close()
    return seconds


def first_of_server(url: str, client: httpx2.Client, body: dict[str, Any]) -> float:
    started = time.perf_counter()
    with client.stream("POST", f"{url}/v1/completions", json={**body, "stream": True, "logprobs": 0}) as response:
        next(line for line in response.iter_lines() if line.startswith("data: {"))
        return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run")
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    quiet()
    speeds: dict[str, list[float]] = {"engine": [], "whole": [], "streamed": []}
    cpu: dict[str, list[float]] = {way: [] for way in speeds}
    loop: dict[str, list[float]] = {"whole": [], "streamed": []}
    asking: list[float] = []
    firsts: dict[str, list[float]] = {"engine": [], "server": []}
    with (
        open_checkpoint(options.run, recipe_of(options.run)) as (engine, tokenizer),
        server(options.run) as (url, name, pid),
    ):
        assert isinstance(engine, NativeEngine)
        prompt = tokenizer.encode(TEXT, add_special_tokens=False)
        body = {"model": name, "prompt": TEXT, "max_tokens": options.tokens, "temperature": 0.6, "top_p": 0.95}
        client = Client(url, options.requests)
        direct(engine, prompt, options.streams, options.requests, 4)  # what is imported and allocated at first use
        served(client, {**body, "max_tokens": 4}, options.streams, options.requests, True)
        with httpx2.Client(timeout=600) as http:
            for _ in range(options.rounds):
                for way in ("engine", "whole", "streamed"):
                    before = time.process_time(), cpu_of(pid), loop_of(pid)
                    if way == "engine":
                        speeds[way].append(direct(engine, prompt, options.streams, options.requests, options.tokens))
                        cpu[way].append(time.process_time() - before[0])
                    else:
                        streamed = way == "streamed"
                        speed, tokens, replies = served(client, body, options.streams, options.requests, streamed)
                        speeds[way].append(speed)
                        cpu[way].append(cpu_of(pid) - before[1])
                        loop[way].append((loop_of(pid) - before[2]) / tokens)
                        asking.append(time.process_time() - before[0])
            for _ in range(20):
                firsts["engine"].append(first_of_engine(engine, prompt))
                firsts["server"].append(first_of_server(url, http, body))
    print(json.dumps({
        "streams": options.streams, "requests": options.requests, "tokens": options.tokens,
        "tokens_per_s": {way: round(max(found), 1) for way, found in speeds.items()},
        "overhead": {way: median_ratio(speeds["engine"], speeds[way]) for way in ("whole", "streamed")},
        "cpu_overhead": {way: median_ratio(cpu[way], cpu["engine"]) for way in ("whole", "streamed")},
        "loop_us": {way: round(1e6 * statistics.median(found), 1) for way, found in loop.items()},
        "pieces": round(sum(reply.count(b'"text":') for reply in replies) / options.streams, 1),
        "asking_s": round(statistics.median(asking), 3),
        "first_ms": {name: round(1000 * statistics.median(found), 2) for name, found in firsts.items()},
    }))  # fmt: skip


def median_ratio(more: list[float], less: list[float]) -> float:
    """By how much one is more than the other, round by round."""
    return round(statistics.median(a / b for a, b in zip(more, less, strict=True)) - 1, 4)


def loop_of(pid: int) -> float:
    """Processor time of a server's event loop so far, s: it runs in the first thread."""
    with open(f"/proc/{pid}/task/{pid}/schedstat", encoding="utf-8") as file:
        return int(file.read().split()[0]) / 1e9


def cpu_of(pid: int) -> float:
    """Processor time of a process so far, s."""
    with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
