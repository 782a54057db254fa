"""What the judge costs beside the servers it asks: judgements a second, their order and their number under faults.

Two servers on loopback, in processes of their own, take 50 ms over a reply, 32 at once each. `alone` asks one at a
time, `together` all at once, `again` reads the cache; with `faulty` each server fails once on one question in ten: a
status 500, a connection that breaks, or a reply that is no verdict, which alone costs its answer. Judgements are
compared with what the servers said.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from h1r.config import JudgeSection
from h1r.records import Problem, Verdict
from h1r.verify.judge.grade import Judge
from verification.common import Context

LATENCY_S = 0.05
CONCURRENCY = 32


def serve(port: Any, faulty: bool) -> None:
    """An HTTP server that says `correct` to even numbers; run in a process of its own, until it is ended."""

    seen: set[int] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            length = next(int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
            body = json.loads(await reader.readexactly(length))
            number = int(body["messages"][1]["content"].split("<answer-")[1].split("\n")[1].split()[-1])
            await asyncio.sleep(LATENCY_S)
            text, status = f"Verdict: {'correct' if number % 2 == 0 else 'incorrect'}", "200 OK"
            if faulty and number % 10 == 0 and number not in seen:
                seen.add(number)
                kind = number // 10 % 3
                if kind == 0:
                    writer.close()
                    return
                text, status = ("I cannot say.", status) if kind == 1 else ("", "500 No")
            content = json.dumps({"choices": [{"message": {"content": text}, "finish_reason": "stop"}]}).encode()
            writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content)

    async def quietly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await answer(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def main() -> None:
        server = await asyncio.start_server(quietly, "127.0.0.1", 0)
        port.value = server.sockets[0].getsockname()[1]
        await server.serve_forever()

    asyncio.run(main())


@contextmanager
def servers(faulty: bool) -> Iterator[list[str]]:
    context = multiprocessing.get_context("spawn")
    ports = [context.Value("i", 0) for _ in range(2)]
    processes = [context.Process(target=serve, args=(port, faulty), daemon=True) for port in ports]
    for process in processes:
        process.start()
    try:
        while not all(port.value for port in ports):
            time.sleep(0.01)
        yield [f"http://127.0.0.1:{port.value}/v1" for port in ports]
    finally:
        for process in processes:
            process.terminate()
            process.join()


async def ask(judge: Judge, count: int, together: bool) -> tuple[list[Verdict], float]:
    owner = Problem(id="", question="Which number?", answer="an even one", verifier="judge")
    start = time.perf_counter()
    requests = [judge.grade(owner, f"the number is {number}") for number in range(count)]
    verdicts = list(await asyncio.gather(*requests)) if together else [await request for request in requests]
    return verdicts, time.perf_counter() - start


def throughput(context: Context) -> dict[str, Any]:
    count = 400 if context.quick else 2_000

    async def sound(urls: list[str]) -> dict[str, Any]:
        section = JudgeSection(urls=urls, model="m", concurrency=CONCURRENCY)
        alone, judge = Judge(section), Judge(section)
        _, slow = await ask(alone, 40, together=False)
        used = time.process_time()
        first, fast = await ask(judge, count, together=True)
        used = time.process_time() - used
        again, cached = await ask(judge, count, together=True)
        await alone.close()
        await judge.close()
        right = [verdict.reward == float(number % 2 == 0) for number, verdict in enumerate(first)]
        return {
            "judgements": count,
            "as_the_servers_said": sum(right),
            "alone_per_s": round(40 / slow, 1),
            "together_per_s": round(count / fast, 1),
            "processor_ms_per_judgement": round(1e3 * used / count, 2),
            "the_servers_at_most_per_s": 2 * CONCURRENCY / LATENCY_S,
            "again_per_s": round(count / cached),
            "again_equal": [one.reward for one in again] == [one.reward for one in first],
        }

    async def faulty(urls: list[str]) -> dict[str, Any]:
        judge = Judge(JudgeSection(urls=urls, model="m", concurrency=CONCURRENCY))
        verdicts, spent = await ask(judge, count, together=True)
        await judge.close()
        errors = [number for number, verdict in enumerate(verdicts) if verdict.error]
        return {
            "verdicts": len(verdicts),
            "errors": len(errors),
            "replies_that_were_no_verdict": sum(number % 30 == 10 for number in range(count)),
            "errors_elsewhere": sum(number % 30 != 10 for number in errors),
            "wrong_without_error": sum(
                verdict.reward != float(number % 2 == 0) for number, verdict in enumerate(verdicts) if not verdict.error
            ),
            "per_s": round(count / spent, 1),
        }

    with servers(faulty=False) as urls:
        found = {"sound": asyncio.run(sound(urls))}
    with servers(faulty=True) as urls:
        return {**found, "faulty": asyncio.run(faulty(urls))}


SECTIONS = {"judge": throughput}
