"""One program, many processes: rank 0 runs it, the others join in when it trains.

    torchrun --nproc-per-node 4 -m h1r demo recipe.toml

    stage               rank 0                   ranks 1 to 3
    curate, eval, ...   runs it                  wait
    sft, rl             join(...), then trains   are told the stage, train along, wait again
    the end             dismisses the others     return

Rank 0 alone reads the command line, opens the run directory, writes files and prints; no other stage needs to know how
many processes there are. What the others are told travels through the store that torchrun keeps, so that waiting for
hours is no timeout of a collective, and rank 0 never waits for a process that has died.
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from h1r.common.progress import quiet
from h1r.config import Recipe
from h1r.errors import UserError
from h1r.run.directory import Run
from h1r.train.parallel.world import World, open_world
from h1r.verify import use_judge

STAGES = {"sft": ("h1r.train.sft", "sft"), "rl": ("h1r.train.rl", "rl")}
"""Stages that train on all processes: module and function, called with (recipe, run, resume)."""
PATIENCE = timedelta(days=30)
"""How long a rank waits to be called."""


class Calls:
    """What rank 0 tells the others, in order."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._count = 0

    def send(self, message: dict[str, object] | None) -> None:
        self._store.set(self._next(), json.dumps(message))

    def receive(self) -> dict[str, str] | None:
        key = self._next()
        try:
            self._store.wait([key], PATIENCE)
        except dist.DistNetworkError:  # rank 0, which may have the store, has ended
            return None
        message: dict[str, str] | None = json.loads(self._store.get(key))
        return message

    def _next(self) -> str:
        self._count += 1
        return f"call {self._count}"


_calls: Calls | None = None
"""Set on rank 0 of many, by `lead_or_follow`."""


def lead_or_follow(program: Callable[[], int]) -> int:
    """Runs `program` on rank 0 of the processes that torchrun started, and what it calls for on the others.

    Returns the exit code. One process alone makes a grid too, whose weights can be in shards (`parallel.shard`).
    """
    global _calls
    store, rank, processes = next(rendezvous("env://"))
    # After a restart (`--max-restarts`) the store still holds what the attempt before has said.
    store = PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    # No backend named: gloo for tensors on the CPU, NCCL for those on GPUs.
    dist.init_process_group(store=PrefixStore("group", store), rank=rank, world_size=processes)
    calls = Calls(PrefixStore("calls", store))
    if rank > 0:
        return _follow(calls)
    _calls = calls
    try:
        return program()
    finally:
        _calls = None
        calls.send(None)


def join(stage: str, recipe: Recipe, run: Run, resume: bool) -> World:
    """What a stage in `STAGES` does first: rank 0 calls the others into it. Returns the grid (see `open_world`)."""
    if _calls is not None:
        _calls.send(
            {"stage": stage, "recipe": recipe.model_dump_json(), "run": str(run.path.resolve()), "resume": resume}
        )
    return open_world(recipe.parallel)


def _follow(calls: Calls) -> int:
    quiet()
    try:
        while (call := calls.receive()) is not None:
            recipe = Recipe.model_validate_json(call["recipe"])
            if recipe.threads:
                torch.set_num_threads(recipe.threads)
            use_judge(recipe.judge)
            module, function = STAGES[call["stage"]]
            try:
                getattr(importlib.import_module(module), function)(recipe, Run(Path(call["run"])), call["resume"])
            except UserError:
                continue  # rank 0 has it too (`World.agreed`), and says it
    except KeyboardInterrupt:
        return 130
    return 0
