"""Processes that stay up and run functions together over gloo: starting them costs more than most of what they do."""

from __future__ import annotations

import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist

TIMEOUT = 60.0
"""Seconds after which a collective that not every rank has joined fails, and a call with it."""
Groups = dict[int, Any]
"""The process group of the first n ranks, by n."""


class Workers:
    """`call(function, *arguments)` runs `function(groups, *arguments)` on every rank and returns their results."""

    def __init__(self, world: int, directory: Path, limit: float = TIMEOUT) -> None:
        self._limit = limit
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["gloo_imports"])
        with mock.patch.dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)):  # where it finds that
            forkserver.ensure_running()
        self._pipes, self._processes = [], []
        for rank in range(world):
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(rank, world, str(directory / "rendezvous"), there, limit))
            process.start()
            self._pipes.append(here)
            self._processes.append(process)

    def call(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        for pipe in self._pipes:
            pipe.send((function, arguments))
        results = []
        for rank, pipe in enumerate(self._pipes):
            assert pipe.poll(2 * self._limit), f"rank {rank} does not answer"
            done, result = pipe.recv()
            assert done, f"rank {rank}:\n{result}"
            results.append(result)
        return results

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.join()


def _serve(rank: int, world: int, rendezvous: str, pipe: Connection, limit: float) -> None:
    torch.set_num_threads(1)
    timeout = timedelta(seconds=limit)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=world, timeout=timeout)
    groups = {degree: dist.new_group(list(range(degree)), timeout) for degree in range(1, world + 1)}
    while True:
        function, arguments = pipe.recv()
        try:
            pipe.send((True, function(groups, *arguments)))
        except Exception:
            pipe.send((False, traceback.format_exc()))
