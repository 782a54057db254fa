"""Forward, backward and AdamW against transformers: same weights, batch, threads and dtype; the losses are compared.

python benchmarks/train_step.py [--quick] [--threads N]      prints one JSON list of rows

Each geometry runs with the scan's chunk at 64 and at 128, the released checkpoints' value: it changes no result, ours
takes it as a hint, and transformers' time depends on it. `cpu_ratio` compares processor seconds, which other work on
the machine disturbs less than wall seconds.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import time
from collections.abc import Callable

import torch

from h1r.model import HybridForCausalLM
from h1r.model.kernels import select
from h1r.model.layout import Layout
from h1r.train.losses import token_logprobs
from peers import GEOMETRIES, command_line, pair

Step = Callable[[], float]


def our_loss(model: HybridForCausalLM, ids_BT: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of every next token, as SFT computes it."""
    rows, length = ids_BT.shape
    flat, layout = ids_BT.flatten(), Layout.of([length] * rows)
    source = (layout.remaining > 0).nonzero().squeeze(-1)
    logits = model.logits(model.model(flat, layout)[source])
    return -token_logprobs(logits, flat[source + 1], kernels=model.kernels).mean()


def their_loss(model: torch.nn.Module, ids_BT: torch.Tensor) -> torch.Tensor:
    logits = model(ids_BT).logits
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids_BT[:, 1:].flatten())


def steps(geometry: str, rows: int, length: int) -> tuple[dict[str, Step], float]:
    """One training step of each model as a closure, and the difference of their losses on the first batch."""
    ours, theirs = pair(geometry)
    ours.use(select("auto"))
    ids = torch.randint(3, ours.config.vocab_size, (rows, length), generator=torch.Generator().manual_seed(0))

    def step(model: torch.nn.Module, loss: Callable[..., torch.Tensor]) -> Step:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

        def run() -> float:
            value = loss(model, ids)
            value.backward()
            optimizer.step()
            optimizer.zero_grad()
            return value.item()

        return run

    with torch.no_grad():
        gap = abs(our_loss(ours, ids).item() - their_loss(theirs, ids).item())
    return {f"h1r ({ours.kernels.name})": step(ours, our_loss), "transformers": step(theirs, their_loss)}, gap


def timed(runs: dict[str, Step], repeats: int) -> dict[str, tuple[float, float]]:
    """Median (wall, processor) seconds of each run after one warm-up, taking turns."""
    for run in runs.values():
        run()
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            wall, processor = time.perf_counter(), time.process_time()
            run()
            seconds[name].append((time.perf_counter() - wall, time.process_time() - processor))
    return {name: tuple(map(statistics.median, zip(*values, strict=True))) for name, values in seconds.items()}


def main() -> None:
    arguments = command_line(__doc__)
    cases = [("4M", 32, 128)] + ([] if arguments.quick else [("32M", 8, 1024), ("32M", 1, 8192)])
    table = []
    for geometry, rows, length in cases:
        for chunk in (64, 128):
            GEOMETRIES[geometry] = dataclasses.replace(GEOMETRIES[geometry], mamba_chunk_size=chunk)
            runs, gap = steps(geometry, rows, length)
            seconds = timed(runs, 3)
            for engine, (wall, processor) in seconds.items():
                table.append(
                    {
                        "engine": engine, "geometry": geometry, "chunk": chunk, "rows": rows, "length": length,
                        "tokens_per_s": round(rows * length / wall, 1), "threads": arguments.threads,
                        "ratio": round(seconds["transformers"][0] / wall, 2),
                        "cpu_ratio": round(seconds["transformers"][1] / processor, 2), "loss_difference": gap,
                    }
                )  # fmt: skip
    print(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
