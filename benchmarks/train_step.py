"""Forward, backward and AdamW against transformers: same weights, batch, threads and dtype; the losses are compared.

python benchmarks/train_step.py [--quick] [--threads N] [--only PART] [--json FILE]      prints one JSON list of rows

| part | what |
|---|---|
| step | tokens/s of both, taking turns, at three shapes; the scan's chunk is 128, the released checkpoints' value |
| memory | peak resident memory of two steps, each model in a process of its own |
| sweep | our seconds for one row of 1K to 16K tokens, with attention's own share, which grows with the square |
| packing | real tokens/s on a log-normal mix of lengths: ours packed, ours padded, transformers padded |

Each engine of `step` lives in a process of its own, and they take turns. How much of a step goes to fresh pages depends
on whether freed memory is kept: ours keeps it, as our training commands do, transformers does what the C library does
by itself, or keeps it too with --keep. H1R_TILES=0 leaves out the processor's tile units; --level holds both engines to
AVX-512 (x86-64-v4) or AVX2 (x86-64-v3).

`cpu_ratio` compares processor seconds, which other work on the machine disturbs less than wall seconds. A difference of
losses above 1e-5 ends the run with an error.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import math
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from answering import Answering
from h1r.kernels.layout import Layout
from h1r.kernels.selection import select
from h1r.models.falcon_h1.hybrid import HybridForCausalLM
from h1r.train.losses import token_logprobs
from h1r.train.memory import keep_freed_memory
from peers import GEOMETRIES, HELD, hold, pair

Row = dict[str, Any]
Step = Callable[[], float]
Clocked = Callable[[], tuple[float, float]]

SHAPES = [("4M", 32, 128), ("32M", 8, 1024), ("32M", 1, 8192)]
LENGTHS = [1024, 2048, 4096, 8192, 16384]


def our_loss(model: HybridForCausalLM, documents: list[torch.Tensor]) -> torch.Tensor:
    """Mean cross-entropy of every next token of documents laid end to end, as SFT computes it."""
    flat, layout = torch.cat(documents), Layout.of([len(document) for document in documents])
    source = (layout.remaining > 0).nonzero().squeeze(-1)
    logits = model.logits(model.model(flat, layout)[source])
    return -token_logprobs(logits, flat[source + 1], kernels=model.kernels).mean()


def our_padded_loss(model: HybridForCausalLM, documents: list[torch.Tensor]) -> torch.Tensor:
    """The same in rows of equal length, where padding is computed like any token and only the loss leaves it out."""
    rows, longest = len(documents), max(map(len, documents))
    ids = torch.nn.utils.rnn.pad_sequence(documents, batch_first=True)
    hidden = model.model(ids.flatten(), Layout.of([longest] * rows)).unflatten(0, (rows, longest))
    real = torch.arange(longest - 1) < torch.tensor([len(document) - 1 for document in documents])[:, None]
    logits = model.logits(hidden[:, :-1][real])
    return -token_logprobs(logits, ids[:, 1:][real], kernels=model.kernels).mean()


def their_loss(model: torch.nn.Module, documents: list[torch.Tensor]) -> torch.Tensor:
    """transformers' own loss on rows padded on the right; no mask where there is no padding."""
    ids = torch.nn.utils.rnn.pad_sequence(documents, batch_first=True)
    labels = torch.nn.utils.rnn.pad_sequence(documents, batch_first=True, padding_value=-100)
    padded = bool((labels < 0).any())
    loss: torch.Tensor = model(ids, attention_mask=(labels >= 0).long() if padded else None, labels=labels).loss
    return loss


def training_step(model: torch.nn.Module, loss: Callable[..., torch.Tensor], documents: list[torch.Tensor]) -> Step:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def run() -> float:
        value = loss(model, documents)
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
        return value.item()

    return run


def batch(vocabulary: int, lengths: list[int]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(3, vocabulary, (n,), generator=generator) for n in lengths]


def models(geometry: str) -> tuple[HybridForCausalLM, Any]:
    GEOMETRIES[geometry] = dataclasses.replace(GEOMETRIES[geometry], mamba_chunk_size=128)
    ours, theirs = pair(geometry)
    return ours.use(select("auto")), theirs.train()


def same_loss(*losses: float) -> float:
    """The largest difference; ends the run when it is not rounding."""
    gap = max(losses) - min(losses)
    if not gap < 1e-5 * max(1.0, abs(losses[0])):
        raise SystemExit(f"the losses differ by {gap}: {losses}")
    return gap


def clocked(run: Step) -> Clocked:
    """A step that returns its own (wall, processor) seconds."""

    def measure() -> tuple[float, float]:
        wall, processor = time.perf_counter(), time.process_time()
        run()
        return time.perf_counter() - wall, time.process_time() - processor

    return measure


def timed(runs: dict[str, Clocked], repeats: int, patience: float) -> dict[str, tuple[float, float, int]]:
    """Median (wall, processor) seconds of each run, taking turns, and how often it ran.

    After a warm-up each come as many rounds as `patience` seconds hold, `repeats` at most. Where they hold none, the
    warm-up is the measurement: first use is a small part of a step that long.
    """
    seconds = {name: [run()] for name, run in runs.items()}
    rounds = min(repeats, int(patience / sum(wall for ((wall, _),) in seconds.values())))
    if rounds:
        seconds = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            seconds[name].append(run())
    return {
        name: (*(statistics.median(clock) for clock in zip(*values, strict=True)), len(values))
        for name, values in seconds.items()
    }


def compared(
    part: str, geometry: str, runs: dict[str, Clocked], tokens: int, gap: float, patience: float = 60.0, **more: Any
) -> list[Row]:
    """Rows of runs that did the same work; ratios are to the last one."""
    seconds = timed(runs, 5, patience)
    *_, (wall_of_peer, processor_of_peer, _) = seconds.values()
    return [
        {
            "part": part, "engine": engine, "geometry": geometry, **more, "tokens_per_s": round(tokens / wall, 1),
            "ratio": round(wall_of_peer / wall, 2), "cpu_ratio": round(processor_of_peer / processor, 2),
            "seconds": round(wall, 3), "cpu_seconds": round(processor, 3), "repeats": repeats,
            "loss_difference": gap,
        }
        for engine, (wall, processor, repeats) in seconds.items()
    ]  # fmt: skip


class Worker(Answering):
    """An engine that trains in a process of its own; call it for the (wall, processor) seconds of one step."""

    def __init__(self, engine: str, geometry: str, rows: int, length: int, keep: bool) -> None:
        command = [sys.executable, __file__, "--threads", str(torch.get_num_threads()), *["--keep"] * keep]
        super().__init__(engine, [*command, "--work-as", engine, geometry, str(rows), str(length)])
        self.name, self.loss = self.ready

    def __call__(self) -> tuple[float, float]:
        wall, processor = self.ask("step")
        return wall, processor


def engine_of(engine: str, geometry: str, rows: int, length: int) -> tuple[str, Step, float]:
    """(name, training step, loss before the first) of "h1r", which keeps freed memory, or "transformers"."""
    ours, theirs = models(geometry)
    documents = batch(ours.config.vocab_size, [length] * rows)
    if engine == "h1r":
        keep_freed_memory()
        name, model, loss = f"h1r ({ours.kernels.name})", ours, our_loss
    else:
        name, model, loss = engine, theirs, their_loss
    with torch.no_grad():
        before = loss(model, documents).item()
    return name, training_step(model, loss, documents), before


def work_as(engine: str, geometry: str, rows: int, length: int, keep: bool) -> None:
    """The process of a `Worker`: a step for each line that comes in."""
    if keep:
        keep_freed_memory()
    name, run, before = engine_of(engine, geometry, rows, length)
    gc.collect()
    print(json.dumps([name + ", freed memory kept" * (keep and engine != "h1r"), before]), flush=True)
    step = clocked(run)
    for _ in sys.stdin:
        print(json.dumps(step()), flush=True)


def step_rows(geometry: str, rows: int, length: int, patience: float, keep: bool) -> list[Row]:
    workers = [Worker(engine, geometry, rows, length, keep) for engine in ("h1r", "transformers")]
    gap = same_loss(*(worker.loss for worker in workers))
    runs: dict[str, Clocked] = {worker.name: worker for worker in workers}
    try:
        return compared("step", geometry, runs, rows * length, gap, patience, rows=rows, length=length)
    finally:
        for worker in workers:
            worker.end()


def memory_row(engine: str, geometry: str, rows: int, length: int) -> Row:
    """Run in a process of its own: the most memory it held during two steps, in MB."""
    _, run, _ = engine_of(engine, geometry, rows, length)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew
    run(), run()
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return {
        "part": "memory", "engine": engine, "geometry": geometry, "rows": rows, "length": length,
        "peak_mb": round(int(peak.split()[1]) / 1024),
    }  # fmt: skip


def sweep_rows(geometry: str, lengths: list[int]) -> list[Row]:
    keep_freed_memory()
    ours = models(geometry)[0]
    config, table = ours.config, []
    for length in lengths:
        step = training_step(ours, our_loss, batch(config.vocab_size, [length]))
        layout = Layout.of([length])
        q, k, v = (
            torch.randn(length, heads, config.head_dim, requires_grad=True)
            for heads in (config.num_attention_heads, *[config.num_key_value_heads] * 2)
        )

        def attend(q: torch.Tensor = q, k: torch.Tensor = k, v: torch.Tensor = v, layout: Layout = layout) -> float:
            out = ours.kernels.attention(q, k, v, layout)
            torch.autograd.grad(out, (q, k, v), torch.ones_like(out))
            return 0.0

        seconds = timed({"step": clocked(step), "attention": clocked(attend)}, 3, 40.0)
        attention, attention_cpu = (value * config.num_hidden_layers for value in seconds["attention"][:2])
        rest, rest_cpu = seconds["step"][0] - attention, seconds["step"][1] - attention_cpu
        table.append(
            {
                "part": "sweep", "engine": f"h1r ({ours.kernels.name})", "geometry": geometry, "length": length,
                "seconds": round(seconds["step"][0], 3), "attention_seconds": round(attention, 3),
                "other_us_per_token": round(rest / length * 1e6, 1),
                "other_cpu_us_per_token": round(rest_cpu / length * 1e6, 1),
            }
        )  # fmt: skip
    return table


def packing_rows(geometry: str, documents: int) -> list[Row]:
    """Lengths: log-normal with a median of 160 tokens and sigma 0.8, cut at 1,024."""
    draw = random.Random(0)
    lengths = [max(2, min(1024, round(draw.lognormvariate(math.log(160), 0.8)))) for _ in range(documents)]
    ours, theirs = models(geometry)
    batch_ = batch(ours.config.vocab_size, lengths)
    with torch.no_grad():
        losses = [
            loss.item() for loss in (our_loss(ours, batch_), our_padded_loss(ours, batch_), their_loss(theirs, batch_))
        ]
    name = f"h1r ({ours.kernels.name})"
    runs = {
        f"{name}, packed": clocked(training_step(ours, our_loss, batch_)),
        f"{name}, padded": clocked(training_step(ours, our_padded_loss, batch_)),
        "transformers, padded": clocked(training_step(theirs, their_loss, batch_)),
    }
    shape = {
        "rows": documents,
        "longest": max(lengths),
        "real_share": round(sum(lengths) / documents / max(lengths), 3),
    }
    return compared("packing", geometry, runs, sum(lengths), same_loss(*losses), **shape)


def measured(
    parts: list[str], shapes: list[tuple[str, int, int]], quick: bool, threads: int, patience: float, keep: bool
) -> list[Row]:
    table: list[Row] = []
    if "step" in parts:
        for shape in shapes:
            table += step_rows(*shape, patience, keep)
            print(json.dumps(table[-2:]), file=sys.stderr)
    if "memory" in parts:
        for shape in shapes:
            for engine in ("h1r", "transformers"):
                command = [sys.executable, __file__, "--threads", str(threads), "--memory-of", engine, *map(str, shape)]
                table.append(json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout))
    if "sweep" in parts:
        table += sweep_rows("4M" if quick else "32M", LENGTHS[:3] if quick else LENGTHS)
    if "packing" in parts:
        table += packing_rows("4M", 16)
    return [{**row, "threads": threads, "level": os.environ.get("H1R_ARCH", "")} for row in table]


def shape_of(text: str) -> tuple[str, int, int]:
    geometry, _, size = text.partition(":")
    rows, _, length = size.partition("x")
    if geometry not in GEOMETRIES:
        raise ValueError(text)
    return geometry, int(rows), int(length)


def main() -> None:
    parts = ["step", "memory", "sweep", "packing"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the smallest geometry only, in about two minutes")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", action="append", choices=parts, help="repeat for more than one; default: all")
    parser.add_argument("--shape", action="append", type=shape_of, help="of step and memory: 32M:8x1024; repeat")
    parser.add_argument("--patience", type=float, default=60.0, help="seconds of rounds at each shape")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    parser.add_argument("--keep", action="store_true", help="transformers keeps freed memory too, in step")
    parser.add_argument("--level", choices=HELD, help="both held to this instruction set; default: the machine's best")
    parser.add_argument("--work-as", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--memory-of", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    hold(arguments.level)
    torch.set_num_threads(arguments.threads)
    if arguments.memory_of:
        engine, geometry, rows, length = arguments.memory_of
        print(json.dumps(memory_row(engine, geometry, int(rows), int(length))))
        return
    if arguments.work_as:
        engine, geometry, rows, length = arguments.work_as
        work_as(engine, geometry, int(rows), int(length), arguments.keep)
        return
    shapes = arguments.shape or (SHAPES[:1] if arguments.quick else SHAPES)
    table = measured(
        arguments.only or parts, shapes, arguments.quick, arguments.threads, arguments.patience, arguments.keep
    )
    text = json.dumps(table, indent=1)
    if arguments.json:
        arguments.json.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
