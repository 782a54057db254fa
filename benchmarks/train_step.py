"""Forward, backward and AdamW against transformers: same weights, batch, threads and dtype; the losses are compared.

python benchmarks/train_step.py [--quick] [--threads N]      prints one JSON list of rows
"""

from __future__ import annotations

import json
from collections.abc import Callable

import torch

from h1r.model import HybridForCausalLM
from peers import alternate, command_line, pair


def steps(geometry: str, rows: int, length: int) -> tuple[dict[str, Callable[[], float]], float]:
    """One training step of each model as a closure, and the difference of their losses on the first batch."""
    ours, theirs = pair(geometry)
    ids = torch.randint(3, ours.config.vocab_size, (rows, length), generator=torch.Generator().manual_seed(0))

    def loss(model: torch.nn.Module) -> torch.Tensor:
        output = model(ids)
        logits = output if isinstance(model, HybridForCausalLM) else output.logits
        return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())

    def step(model: torch.nn.Module) -> Callable[[], float]:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

        def run() -> float:
            value = loss(model)
            value.backward()
            optimizer.step()
            optimizer.zero_grad()
            return value.item()

        return run

    with torch.no_grad():
        gap = abs(loss(ours).item() - loss(theirs).item())
    return {"h1r": step(ours), "transformers": step(theirs)}, gap


def main() -> None:
    arguments = command_line(__doc__)
    cases = [("tiny", 32, 64), ("4M", 32, 128)] + ([] if arguments.quick else [("32M", 8, 1024)])
    table = []
    for geometry, rows, length in cases:
        runs, gap = steps(geometry, rows, length)
        seconds = alternate(runs, 3 if arguments.quick else 5)
        for engine, median in seconds.items():
            table.append(
                {
                    "engine": engine, "geometry": geometry, "rows": rows, "length": length,
                    "tokens_per_s": round(rows * length / median, 1), "threads": arguments.threads,
                    "ratio": round(seconds["transformers"] / median, 2), "loss_difference": gap,
                }
            )  # fmt: skip
    print(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
