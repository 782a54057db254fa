"""Training and decoding beside busy neighbours: the share of a fair share that they get.

    python benchmarks/neighbours.py [--loops 0,1,3] [--seconds 4] [--rounds 5] [--works train,decode] [--json FILE]

prints one JSON list of rows:

    {"work", "engine", "loops_per_core", "threads", "waiting", "per_second", "slowdown", "share_of_fair",
     "share_of_free"}

Each engine takes training steps (`train_step.py`) or decodes (16 sequences, 32 new tokens) in processes of its own,
with one thread and with one for each core, beside so many endless loops a core, each loop in a session of its own, as
another person's programs are. A fair share is the most that the engine makes alone, with any number of threads and any
way of waiting, divided by 1 + loops a core. `waiting`: how threads of OpenMP wait for each other: "auto" (ours: by what
`h1r.common.thread_waits` measures), "spin" (libgomp's default, 300,000 turns before they sleep), "sleep" (no turn), or
a number of turns.

A kernel that groups programs by session (`kernel.sched_autogroup_enabled`) gives one whose threads are on two cores a
third of each beside one loop a core, not half. So the engine "free" is measured too: a thread for each core that hashes
and never waits for another. `share_of_free` is what an engine keeps of the most it makes alone, divided by what that
one keeps.

A machine's own speed can change by half within a minute. So every round measures each process alone and beside each
number of loops, seconds apart (loops that are not wanted stop meanwhile), ratios are taken within a round, and rows are
medians over rounds.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from answering import Answering
from loops import busy

NEW_TOKENS = 32
SPINCOUNT: dict[str, str] = {"spin": "300000", "sleep": "0"}
"""Of `--waiting`, which takes numbers too."""
MEGABYTE = bytes(1 << 20)
ADAPT_S, CALM_S = 1.5, 7.0
"""Before each measurement, for whatever adapts to the neighbours, and to their absence: ours has threads spin again
after five calm seconds."""


class Kind(NamedTuple):
    """What is measured."""

    work: str
    engine: str
    threads: int
    waiting: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loops", default="0,1,3", help="busy loops for each core; 0 must be the first")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--shape", default="4M:8x128", help="geometry:rows:length, as in train_step.py")
    parser.add_argument("--engines", default="h1r,transformers")
    parser.add_argument("--works", default="train,decode")
    parser.add_argument("--waiting", default="auto,spin,sleep")
    parser.add_argument("--json", type=Path, help="also write the rows there")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        serve_turns(*arguments.child.split(","), arguments.shape)
        return
    rows = [row for work in arguments.works.split(",") for row in measured(work, arguments)]
    text = json.dumps(rows, indent=1)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n", encoding="utf-8")


def measured(work: str, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    cores = len(os.sched_getaffinity(0))
    kinds = [
        Kind(work, engine, threads, waiting)
        for engine in arguments.engines.split(",")
        for threads in sorted({1, cores})
        for waiting in (arguments.waiting.split(",") if threads > 1 else [""])
        if engine == "h1r" or waiting != "auto"
    ] + [Kind(work, "free", cores, "")]
    levels = [int(level) for level in arguments.loops.split(",")]
    workers = {kind: Worker(kind, arguments.shape) for kind in kinds}
    rounds: list[dict[tuple[Kind, int], float]] = []
    try:
        with busy(max(levels) * cores, own_sessions=True) as run:
            for _ in range(arguments.rounds):
                rates = {}
                for kind, worker in workers.items():
                    for level in levels:
                        run(level * cores)
                        rates[kind, level] = worker.per_second(arguments.seconds, ADAPT_S if level else CALM_S)
                rounds.append(rates)
                print(json.dumps([[*kind, level, rate] for (kind, level), rate in rates.items()]), file=sys.stderr)
    finally:
        for worker in workers.values():
            worker.end()
    return [row(kind, level, rounds, arguments.shape) for level in levels for kind in kinds]


def row(kind: Kind, level: int, rounds: list[dict[tuple[Kind, int], float]], shape: str) -> dict[str, Any]:
    """Medians over rounds; what is compared is compared within a round."""

    def alone(rates: dict[tuple[Kind, int], float]) -> float:
        return max(rate for (other, loops), rate in rates.items() if not loops and other.engine == kind.engine)

    def free(rates: dict[tuple[Kind, int], float]) -> float:
        kept = {loops: rate for (other, loops), rate in rates.items() if other.engine == "free"}
        return kept[level] / kept[0]

    def median(of: Callable[[dict[tuple[Kind, int], float]], float]) -> float:
        return statistics.median(of(rates) for rates in rounds)

    return {
        "work": kind.work if kind.work == "decode" else f"training step {shape}",
        "engine": kind.engine,
        "loops_per_core": level,
        "threads": kind.threads,
        "waiting": kind.waiting,
        "per_second": median(lambda rates: rates[kind, level]),
        "slowdown": median(lambda rates: rates[kind, 0] / rates[kind, level]),
        "share_of_fair": median(lambda rates: rates[kind, level] * (1 + level) / alone(rates)),
        "share_of_free": median(lambda rates: rates[kind, level] / alone(rates) / free(rates)),
    }


class Worker(Answering):
    """A process that does one kind of work whenever it is asked, and sleeps meanwhile."""

    def __init__(self, kind: Kind, shape: str) -> None:
        turns = None if kind.waiting in ("", "auto") else SPINCOUNT.get(kind.waiting, kind.waiting)
        name = f"{kind.work},{kind.engine}"
        command = [sys.executable, __file__, "--child", name, "--shape", shape]
        environment = {"OMP_NUM_THREADS": str(kind.threads), "GOMP_SPINCOUNT": turns}
        super().__init__(name, command, environment, hint=f"its error is told by {' '.join(command)}", silent=True)

    def per_second(self, seconds: float, adapts_s: float) -> float:
        return float(self.ask([seconds, adapts_s]))


def serve_turns(work: str, engine: str, shape: str) -> None:
    """For each line with seconds, and those before in which it adapts: steps, or tokens of answers of 16 sequences, a
    second for so long."""
    if engine == "free":
        print(json.dumps("ready"), flush=True)
        for line in sys.stdin:
            print(hashing(json.loads(line)[0]), flush=True)
        return
    turn, amount = training(engine, shape) if work == "train" else decoding(engine)
    turn()
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        seconds, adapts_s = json.loads(line)
        adapted = time.monotonic() + adapts_s
        turn()
        while time.monotonic() < adapted:
            turn()
        started, count = time.monotonic(), 0
        while time.monotonic() - started < seconds:
            turn()
            count += amount
        print(count / (time.monotonic() - started), flush=True)


def hashing(seconds: float) -> float:
    """Megabytes a second that threads, one a core, hash; none waits for another."""
    ends = time.monotonic() + seconds

    def hashed(_: int) -> int:
        count = 0
        while time.monotonic() < ends:
            hashlib.sha256(MEGABYTE).digest()
            count += 1
        return count

    threads = len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(hashed, range(threads))) / seconds


def training(engine: str, shape: str) -> tuple[Callable[[], Any], int]:
    from train_step import engine_of, shape_of

    return engine_of(engine, *shape_of(shape))[1], 1


def decoding(engine: str) -> tuple[Callable[[], Any], int]:
    """16 prompts of 8 tokens, each answered by `NEW_TOKENS`; 4M parameters."""
    import torch

    from decode_peers import generate
    from peers import pair

    ours, theirs = pair("4M")
    prompts = torch.randint(3, ours.config.vocab_size, (16, 8), generator=torch.Generator().manual_seed(0))
    if engine != "h1r":
        return partial(generate, theirs, prompts, NEW_TOKENS), 16 * NEW_TOKENS
    from h1r.config import EngineSection
    from h1r.engine.native.engine import NativeEngine
    from h1r.engine.protocol import SamplingParams
    from h1r.kernels.selection import select

    native = NativeEngine(ours.use(select("auto")).eval(), None, EngineSection(max_sequences=16), eos_token_ids=())
    return partial(native.generate, prompts.tolist(), SamplingParams(max_tokens=NEW_TOKENS)), 16 * NEW_TOKENS


if __name__ == "__main__":
    main()
