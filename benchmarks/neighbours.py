"""Training and decoding beside busy neighbours: the share of a fair share that they get.

    python benchmarks/neighbours.py [--loops 0,1,3] [--seconds 10] [--works train,decode] [--json FILE]

prints one JSON list of rows:

    {"work", "engine", "loops_per_core", "threads", "waiting", "per_second", "slowdown", "share_of_fair"}

Each engine takes training steps (`train_step.py`) or decodes (16 sequences, 32 new tokens) in a process of its own,
with one thread and with one for each core, beside so many endless loops a core, each loop in a session of its own, as
another person's programs are. A fair share is the most that the engine makes alone, with any number of threads and any
way of waiting, divided by 1 + loops a core. `waiting`: how threads of OpenMP wait for each other: "auto" (ours: by what
`h1r.common.thread_waits` measures), "spin" (libgomp's default, 300,000 turns before they sleep), "sleep" (no turn), or
a number of turns.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from loops import busy

NEW_TOKENS = 32
SPINCOUNT: dict[str, str] = {"spin": "300000", "sleep": "0"}
"""Of `--waiting`, which takes numbers too."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loops", default="0,1,3", help="busy loops for each core; 0 must be the first")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    parser.add_argument("--shape", default="4M:8x128", help="geometry:rows:length, as in train_step.py")
    parser.add_argument("--engines", default="h1r,transformers")
    parser.add_argument("--works", default="train,decode")
    parser.add_argument("--waiting", default="auto,spin,sleep")
    parser.add_argument("--json", type=Path, help="also write the rows there")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        work, engine = arguments.child.split(",")
        turns_of(work, engine, arguments.shape, arguments.seconds)
        return
    rows = measured(arguments)
    text = json.dumps(rows, indent=1)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n", encoding="utf-8")


def measured(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    cores = len(os.sched_getaffinity(0))
    kinds = [
        (work, engine, threads, waiting)
        for work in arguments.works.split(",")
        for engine in arguments.engines.split(",")
        for threads in sorted({1, cores})
        for waiting in (arguments.waiting.split(",") if threads > 1 else [""])
        if engine == "h1r" or waiting != "auto"
    ]
    alone: dict[tuple[str, str, int, str], float] = {}
    rows = []
    for loops in map(int, arguments.loops.split(",")):
        with busy(loops * cores, own_sessions=True):
            for kind in kinds:
                work, engine, threads, waiting = kind
                rate = per_second(work, engine, threads, waiting, arguments)
                own = alone.setdefault(kind, rate)
                rows.append(
                    {
                        "work": work if work == "decode" else f"training step {arguments.shape}",
                        "engine": engine,
                        "loops_per_core": loops,
                        "threads": threads,
                        "waiting": waiting,
                        "per_second": rate,
                        "slowdown": own / rate if rate else None,
                    }
                )
                print(json.dumps(rows[-1]), file=sys.stderr)
    for row in rows:
        best = max(one["per_second"] for one in rows if not one["loops_per_core"] and same(one, row))
        row["share_of_fair"] = row["per_second"] * (1 + row["loops_per_core"]) / best
    return rows


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(one[key] == other[key] for key in ("work", "engine"))


def per_second(work: str, engine: str, threads: int, waiting: str, arguments: argparse.Namespace) -> float:
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    if waiting in ("", "auto"):
        environment.pop("GOMP_SPINCOUNT", None)
    else:
        environment["GOMP_SPINCOUNT"] = SPINCOUNT.get(waiting, waiting)
    command = [sys.executable, __file__, "--child", f"{work},{engine}", "--shape", arguments.shape]
    done = subprocess.run(
        [*command, "--seconds", str(arguments.seconds)], env=environment, capture_output=True, text=True, check=True
    )
    return float(done.stdout.split()[-1])


def turns_of(work: str, engine: str, shape: str, seconds: float) -> None:
    """Steps or answers of 16 sequences for so many seconds, after one turn and a second for whatever adapts; prints how
    many steps, or tokens, a second."""
    turn, amount = training(engine, shape) if work == "train" else decoding(engine)
    adapted = time.monotonic() + 1.0
    turn()
    while time.monotonic() < adapted:
        turn()
    started, count = time.monotonic(), 0
    while time.monotonic() - started < seconds:
        turn()
        count += amount
    print(count / (time.monotonic() - started))


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
