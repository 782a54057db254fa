"""Training steps beside busy neighbours: the share of a fair share that they get.

    python benchmarks/neighbours.py [--loops 0,1,3] [--seconds 10] [--shape 4M:8x128] [--json FILE]

prints one JSON list of rows:

    {"work", "engine", "loops_per_core", "threads", "waiting", "per_second", "slowdown", "share_of_fair"}

Each engine of `train_step.py` takes steps in a process of its own, with one thread and with one for each core, beside
so many endless loops a core, each loop in a session of its own, as another person's programs are. A fair share is what
the same engine makes alone, divided by 1 + loops a core. `waiting`: how threads of OpenMP wait for each other, by
GOMP_SPINCOUNT: "spin" (300,000 turns before they sleep, libgomp's default) or "sleep" (none; what
`import h1r` sets on a machine that is busy when it starts).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from loops import busy

SPINCOUNT: dict[str, dict[str, str]] = {"spin": {"GOMP_SPINCOUNT": "300000"}, "sleep": {"GOMP_SPINCOUNT": "0"}}
"""Of `--waiting`, which takes numbers too."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loops", default="0,1,3", help="busy loops for each core; 0 must be the first")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    parser.add_argument("--shape", default="4M:8x128", help="geometry:rows:length, as in train_step.py")
    parser.add_argument("--engines", default="h1r,transformers")
    parser.add_argument("--waiting", default="spin,sleep")
    parser.add_argument("--json", type=Path, help="also write the rows there")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        steps_as(arguments.child, arguments.shape, arguments.seconds)
        return
    rows = measured(arguments)
    text = json.dumps(rows, indent=1)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n", encoding="utf-8")


def measured(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    cores = len(os.sched_getaffinity(0))
    kinds = [
        (engine, threads, waiting)
        for engine in arguments.engines.split(",")
        for threads in sorted({1, cores})
        for waiting in arguments.waiting.split(",")
        if threads > 1 or waiting == arguments.waiting.split(",")[0]
    ]
    alone: dict[tuple[str, int, str], float] = {}
    rows = []
    for loops in map(int, arguments.loops.split(",")):
        with busy(loops * cores, own_sessions=True):
            for engine, threads, waiting in kinds:
                rate = per_second(engine, threads, waiting, arguments)
                best = alone.setdefault((engine, threads, waiting), rate)
                rows.append(
                    {
                        "work": f"training step {arguments.shape}",
                        "engine": engine,
                        "loops_per_core": loops,
                        "threads": threads,
                        "waiting": waiting if threads > 1 else "",
                        "per_second": rate,
                        "slowdown": best / rate if rate else None,
                        "share_of_fair": rate / (best / (1 + loops)),
                    }
                )
                print(json.dumps(rows[-1]), file=sys.stderr)
    return rows


def per_second(engine: str, threads: int, waiting: str, arguments: argparse.Namespace) -> float:
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    environment |= SPINCOUNT.get(waiting, {"GOMP_SPINCOUNT": waiting})
    command = [sys.executable, __file__, "--child", engine, "--shape", arguments.shape]
    done = subprocess.run(
        [*command, "--seconds", str(arguments.seconds)], env=environment, capture_output=True, text=True, check=True
    )
    return float(done.stdout.split()[-1])


def steps_as(engine: str, shape: str, seconds: float) -> None:
    """Takes steps for so many seconds and prints how many a second."""
    from train_step import engine_of, shape_of

    _, step, _ = engine_of(engine, *shape_of(shape))
    step()
    started, count = time.monotonic(), 0
    while time.monotonic() - started < seconds:
        step()
        count += 1
    print(count / (time.monotonic() - started))


if __name__ == "__main__":
    main()
