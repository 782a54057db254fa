"""How long training stands still for a checkpoint, written at once and beside it (`parallel.async_checkpoint`).

    python benchmarks/checkpoints.py [--layers 12] [--rounds 5] [--json]
    torchrun --standalone --nproc-per-node 2 benchmarks/checkpoints.py         in shards

A model of some 40M parameters takes steps of AdamW on gradients of a small batch, and is saved now one way and now the
other. Prints, of the main process, the median seconds of `Saver.save`, of a step without a checkpoint on its way and of
one with, the seconds until the checkpoint was whole, and the bytes of one.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from h1r.common.progress import quiet
from h1r.config import OptimizerSection, ParallelSection
from h1r.data.tokenizer import train_tokenizer
from h1r.models import build
from h1r.models.registry import preset
from h1r.run.checkpoints import Checkpoints
from h1r.train.documents import Document
from h1r.train.optim import make_optimizer, optimizer_step
from h1r.train.parallel.gradients import weights_of
from h1r.train.parallel.world import World, open_world
from h1r.train.saver import Saver
from h1r.train.sft import accumulate_gradients

SHAPE = {
    "hidden_size": 384, "intermediate_size": 1536, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 64,
    "mamba_n_heads": 12, "mamba_d_head": 64, "mamba_d_ssm": 768, "vocab_size": 16384,
}  # fmt: skip
LENGTH = 64


def measure(world: World, layers: int, rounds: int, place: Path) -> dict[str, Any]:
    """Of this process."""
    section = OptimizerSection(learning_rate=1e-4)
    model = build(preset("tiny", **SHAPE, num_hidden_layers=layers), seed=0)
    trained = world.shard(model)
    optimizer = make_optimizer(trained, section)
    documents = [Document(list(range(10, 10 + LENGTH)), [1] * LENGTH, 1.0) for _ in range(2)]
    tokenizer = train_tokenizer(["a text"], 300)
    ways = {"at once": replace(world, beside=None), "beside": world}
    seconds: dict[str, list[float]] = defaultdict(list)

    def step(name: str) -> None:
        began = time.perf_counter()
        accumulate_gradients(trained, documents, [[0], [1]], 1, world)
        optimizer_step(weights_of(trained), optimizer, section, 1.0)
        seconds[name].append(time.perf_counter() - began)

    number = 0
    for _ in range(rounds):
        for way, grid in ways.items():
            saver = Saver(Checkpoints(place), tokenizer, grid)
            step("first step")
            step("step")
            number += 1
            began = time.perf_counter()
            saver.save(number, trained, optimizer, {})
            seconds[way].append(time.perf_counter() - began)
            if way == "beside":
                while not world.told((place / "checkpoints" / f"step_{number:08d}").exists()):
                    step("step meanwhile")
                saver.settle()
                seconds["until it was whole"].append(time.perf_counter() - began)
            world.sum(0)
    written = sum(path.stat().st_size for path in Checkpoints(place).at(number).rglob("*") if path.is_file())
    medians = {name: round(statistics.median(each), 3) for name, each in seconds.items() if name != "first step"}
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "bytes": written,
        "processes": world.size,
        **medians,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="one JSON object")
    options = parser.parse_args()
    quiet()
    many = "WORLD_SIZE" in os.environ
    if many:
        dist.init_process_group("gloo")
    world = open_world(ParallelSection(shard=many, async_checkpoint=True))
    with tempfile.TemporaryDirectory(prefix="h1r-checkpoints-") as own:
        place = Path(world.told(own))
        found = measure(world, options.layers, options.rounds, place)
        world.sum(0)
    if world.main:
        print(json.dumps(found) if options.json else json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
