"""Does an evaluation through `engine.kind = "endpoint"` keep a server busy? A server with 64 slots in a process of its
own, an evaluation of 10,000 answers with verdicts and files as `h1r eval` keeps them; prints JSON.

    python benchmarks/endpoint.py [--problems 2500] [--samples 4] [--slots 64] [--seconds 1.0] [--requests 64]

requests: `engine.max_sequences`; with more of them than the server has slots, a slot does not wait for this process.

busy: share of the slots' time, from the first request to the last answer, in which they answered. lost: requests that
were answered and are in no file. client_cpu_ms: processor time of this process for an answer.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from h1r.common.memory import peak_rss_bytes
from h1r.common.progress import quiet
from h1r.config import EndpointSection, EngineSection, EvalSection
from h1r.engine.endpoint.engine import EndpointEngine
from h1r.evals.benchmark import evaluate
from h1r.records import Problem, Verdict
from h1r.rollout.pipeline import RolloutPipeline
from recorded_server import account_of, running


def exact(problems: Sequence[Problem], texts: Sequence[str]) -> list[Verdict]:
    """A verifier that takes no time: what is measured is the road to the server."""
    return [
        Verdict(float(problem.answer in text), extracted=text) for problem, text in zip(problems, texts, strict=True)
    ]


def measure(problems: int, samples: int, slots: int, seconds: float, requests: int) -> dict[str, float]:
    """One evaluation against a server of its own."""
    with running(slots=slots, seconds=seconds) as url:
        asked = [Problem(f"p{n}", f"What is {n} times one?", "1", verifier="exact") for n in range(problems)]
        engine = EndpointEngine(
            EngineSection(kind="endpoint", url=url, max_sequences=requests, endpoint=EndpointSection(model="recorded"))
        )
        started, cpu = time.monotonic(), time.process_time()
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "samples.jsonl"
            pipeline = RolloutPipeline(engine, None, exact)
            evaluate(pipeline, asked, EvalSection(samples=samples, max_tokens=64), 0, path=path)
            kept = sum(b'"text"' in line for line in path.open("rb"))
        wall, cpu = time.monotonic() - started, time.process_time() - cpu
        engine.close()
        account = account_of(url)
    total = problems * samples
    return {
        "answers": total,
        "slots": slots,
        "requests": requests,
        "seconds_an_answer": seconds,
        "busy": round(account["slot_seconds"] / slots / (account["last"] - account["first"]), 4),
        "answers_per_s": round(total / wall, 1),
        "lost": account["answered"] - kept,
        "client_cpu_ms": round(1000 * cpu / total, 3),
        "peak_rss_mib": round(peak_rss_bytes() / 2**20),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", type=int, default=2500)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--requests", type=int, default=64)
    quiet()
    print(json.dumps(measure(**vars(parser.parse_args()))))
