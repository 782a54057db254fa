"""A chat server with a number of slots that says what was recorded, breaks connections to order and keeps account: what
`benchmarks/endpoint.py` and trials of `h1r eval` ask.

    python benchmarks/recorded_server.py --replies replies.json --slots 64 --seconds 0.5 --resets 0.05

replies.json: {part of the prompt: [text, ...]}, of which the request's seed chooses, so that seeds that follow each
other hear each once and a request that comes again hears the same; without the file every answer is `\\boxed{1}`. The
address stands on the first line of standard output. GET /account returns {requests, answered, reset, again,
slot_seconds, first, last (seconds of the clock)}; again: requests with prompt and seed of an earlier one that was not
reset; slot_seconds: time that slots were busy, over all.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator


@contextlib.contextmanager
def running(**options: object) -> Iterator[str]:
    """Address of such a server, in a process of its own until the end of the block. options: its command line's."""
    given = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    process = subprocess.Popen([sys.executable, __file__, *given], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait()


def account_of(url: str) -> dict[str, float]:
    """What the server at `url` has counted so far."""
    with urllib.request.urlopen(url.removesuffix("/v1") + "/account") as reply:
        found: dict[str, float] = json.load(reply)
    return found


class Recorded:
    """The server's state. seconds: mean time of an answer, which is drawn from half to one and a half of it."""

    def __init__(self, replies: dict[str, list[str]], slots: int, seconds: float, resets: float, seed: int = 0) -> None:
        self.slots = asyncio.Semaphore(slots)
        self.seconds, self.resets = seconds, resets
        self.random = random.Random(seed)
        self.replies = replies
        self.seen: set[tuple[str, int]] = set()
        self.account: dict[str, float] = defaultdict(float)

    def text(self, prompt: str, seed: int) -> str:
        """What is said to a prompt: of the texts of the longest key that it contains, the one of the seed."""
        found = max((key for key in self.replies if key in prompt), key=len, default=None)
        return r"\boxed{1}" if found is None else self.replies[found][seed % len(self.replies[found])]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """The requests of one connection."""
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                size = next(
                    (int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0
                )
                body = await reader.readexactly(size)
                if head.startswith(b"GET"):
                    await self._say(writer, self.account if b"/account" in head else {"data": [{"id": "recorded"}]})
                elif not await self._answer(writer, json.loads(body)):
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(self, writer: asyncio.StreamWriter, body: dict) -> bool:  # type: ignore[type-arg]
        account = self.account
        account["requests"] += 1
        account.setdefault("first", time.monotonic())
        if self.random.random() < self.resets:
            account["reset"] += 1
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
            return False
        prompt, seed = body["messages"][-1]["content"], body.get("seed", 0)
        account["again"] += (prompt, seed) in self.seen
        self.seen.add((prompt, seed))
        async with self.slots:
            started = time.monotonic()
            await asyncio.sleep(self.seconds * self.random.uniform(0.5, 1.5))
            account["last"] = time.monotonic()
            account["slot_seconds"] += account["last"] - started
        account["answered"] += 1
        text = self.text(prompt, seed)
        usage = {"prompt_tokens": len(str(body["messages"])) // 4, "completion_tokens": max(1, len(text) // 4)}
        usage["total_tokens"] = sum(usage.values())
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        head = {"id": "recorded", "object": "chat.completion", "created": 0, "model": "recorded"}
        await self._say(writer, {**head, "choices": [choice], "usage": usage})
        return True

    async def _say(self, writer: asyncio.StreamWriter, value: object) -> None:
        content = json.dumps(value).encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        writer.write(head.encode() + content)
        await writer.drain()


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replies")
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--resets", type=float, default=0.0)
    given = parser.parse_args()
    replies = {}
    if given.replies:
        with open(given.replies, encoding="utf-8") as handle:
            replies = json.load(handle)
    recorded = Recorded(replies, given.slots, given.seconds, given.resets)
    server = await asyncio.start_server(recorded.serve, "127.0.0.1", 0, limit=1 << 24)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
