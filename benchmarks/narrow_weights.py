"""Decoding with fp32, bf16 and int8 weights (`engine.weights`): tokens/s, taking turns in one run.

python benchmarks/narrow_weights.py [--geometries 32M,100M,0.5B] [--sequences 1,4,16] [--threads 1,2] [--turns 15]
                                    [--clock processor] [--prefill] [--json]

A turn is a number of decoding steps (the model alone, no sampling) after 16 tokens, about 0.1 s with fp32 weights. The
kinds of weights take turns. A row has the median of its turns, and of its ratio to fp32 in the same turn;
`ratio_fastest` is that of the fastest turn of each, which a busy machine disturbs least.
`weights_gb_per_s`: bytes of the packed weights over the time of a step, to be held against what reading 1 GiB gives on
this machine (rows "machine"). `--clock processor` counts processor seconds, over all threads, for a machine that others
use.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from h1r.common.engines import Weights
from h1r.common.progress import quiet
from h1r.kernels.cpu.build import origin
from h1r.kernels.selection import select
from h1r.models import build
from h1r.models.falcon_h1.cache import HybridCache
from h1r.models.falcon_h1.decode import Decoder
from h1r.models.falcon_h1.hybrid import HybridForCausalLM
from peers import GEOMETRIES

CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}
KINDS: tuple[Weights, ...] = ("auto", "bfloat16", "int8")
PROMPT, LONG, STEPS = 16, 512, 256


def main() -> None:
    arguments = command_line()
    quiet()
    clock = CLOCKS[arguments.clock]
    rows: list[dict[str, Any]] = []

    def tell(**row: Any) -> None:
        rows.append(row | {"clock": arguments.clock})
        if not arguments.json:
            print(rows[-1], flush=True)

    for threads in arguments.threads:
        torch.set_num_threads(threads)
        tell(
            engine="machine", processor=processor(), kernels=origin(), cores=os.cpu_count(), threads=threads,
            load=round(os.getloadavg()[0], 1), read_gb_per_s=round(read_speed(clock), 1),
        )  # fmt: skip
    for geometry in arguments.geometries:
        model = build(GEOMETRIES[geometry], 0).use(select("native")).eval()
        assert isinstance(model, HybridForCausalLM)
        decoders = {kind: Decoder(model, LONG, kind) for kind in arguments.kinds}
        for threads in arguments.threads:
            torch.set_num_threads(threads)
            for sequences in (*arguments.sequences, *([0] if arguments.prefill else [])):
                runs = {kind: one(decoder, sequences, clock) for kind, decoder in decoders.items()}
                tokens = sequences or LONG
                for kind, taken in turns(runs, arguments.turns if sequences else 3).items():
                    stored = Decoder.weight_bytes(model.config, kind)
                    tell(
                        geometry=geometry, threads=threads, weights=kind, measure="decode" if sequences else "prefill",
                        sequences=sequences or 1, tokens_per_s=round(tokens / taken.median, 1),
                        ratio=round(taken.ratio, 2), ratio_fastest=round(taken.ratio_fastest, 2),
                        fastest=round(tokens / taken.least, 1), weights_mb=round(stored / 1e6, 1),
                        weights_gb_per_s=round(stored / taken.median / 1e9, 1),
                    )  # fmt: skip
        del decoders, model
    if arguments.json:
        print(json.dumps(rows))


def command_line() -> argparse.Namespace:
    def numbers(text: str) -> list[int]:
        return [int(one) for one in text.split(",")]

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--geometries", type=lambda text: text.split(","), default=["32M", "100M", "0.5B"])
    parser.add_argument("--sequences", type=numbers, default=[1, 4, 16])
    parser.add_argument("--threads", type=numbers, default=sorted({1, os.cpu_count() or 1}))
    parser.add_argument("--kinds", type=lambda text: text.split(","), default=list(KINDS))
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--prefill", action="store_true", help="also one prompt of 512 tokens")
    parser.add_argument("--json", action="store_true", help="one JSON list of rows")
    return parser.parse_args()


def one(decoder: Decoder, sequences: int, clock: Callable[[], float]) -> Callable[[int], float]:
    """A function of a number of steps: seconds of one, with so many sequences; 0: of a prefill of one prompt."""
    rows, length = (sequences, PROMPT + STEPS) if sequences else (1, LONG)
    cache = HybridCache.allocate(decoder.config, rows, length, torch.float32)
    bound = decoder.bind(cache)
    logits = torch.empty(rows, decoder.config.vocab_size)
    ids = torch.randint(3, decoder.config.vocab_size, (rows, LONG), generator=torch.Generator().manual_seed(0))

    def take(tokens: int, at: int) -> None:
        counts = torch.full((rows,), tokens)
        decoder.run(bound, counts, ids[:, at : at + tokens].flatten(), counts.cumsum(0) - 1, logits)

    def seconds(steps: int) -> float:
        for group in (cache.conv, cache.ssm):
            for tensor in group:
                tensor.zero_()
        cache.lengths.zero_()
        if not sequences:
            start = clock()
            take(LONG, 0)
            return clock() - start
        take(PROMPT, 0)
        start = clock()
        for step in range(steps):
            take(1, PROMPT + step)
        return (clock() - start) / steps

    return seconds


class Taken(NamedTuple):
    """Seconds of a step, and how many times shorter it is than the first kind's."""

    median: float
    least: float
    ratio: float
    ratio_fastest: float


def turns(runs: dict[Weights, Callable[[int], float]], count: int) -> dict[Weights, Taken]:
    warm = {kind: run(2) for kind, run in runs.items()}
    steps = max(1, min(STEPS, round(0.1 / warm[next(iter(warm))])))
    taken: dict[Weights, list[float]] = {kind: [] for kind in runs}
    for _ in range(count):
        for kind, run in runs.items():
            taken[kind].append(run(steps))
    first = taken[next(iter(taken))]
    return {
        kind: Taken(
            statistics.median(times),
            min(times),
            statistics.median(a / b for a, b in zip(first, times, strict=True)),
            min(first) / min(times),
        )
        for kind, times in taken.items()
    }


def read_speed(clock: Callable[[], float]) -> float:
    """GB/s of reading 1 GiB, the best of five."""
    long, times = torch.zeros(256 << 20), []
    for _ in range(5):
        start = clock()
        long.sum()
        times.append(clock() - start)
    return long.nbytes / min(times) / 1e9


def processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            told = dict(line.split(":", 1) for line in (one.replace("\t", "") for one in file) if ":" in line)
    except OSError:
        return "unknown"
    return ", ".join(f"{key} {told[key].strip()}" for key in ("model name", "cpu family", "model") if key in told)


if __name__ == "__main__":
    main()
