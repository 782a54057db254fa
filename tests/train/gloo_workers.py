"""Processes that stay up and run functions together over gloo: starting them costs more than most of what they do.

They are forked from the process that has imported what commands import (`warm`).
"""

from __future__ import annotations

import os
import socket
import sys
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing import current_process
from multiprocessing.connection import Client, Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

import warm

TIMEOUT = 60.0
"""Seconds after which a collective that not every rank has joined fails, and a call with it."""
START_LIMIT_S = 250.0
"""For the warm process, which imports torch, and its forks; less than pytest gives a test."""
Groups = dict[int, Any]
"""The process group of the first n ranks, by n."""


class Workers:
    """`call(function, *arguments)` runs `function(groups, *arguments)` on every rank and returns their results."""

    def __init__(self, world: int, directory: Path, limit: float = TIMEOUT) -> None:
        self._limit = limit
        self._pipes: list[Connection] = []
        self._processes: list[warm.Process] = []
        # Not in `directory`: the address of a socket has a hundred characters
        with tempfile.TemporaryDirectory() as place, socket.socket(socket.AF_UNIX) as asked:
            asked.bind(f"{place}/calls")
            asked.listen()
            asked.settimeout(START_LIMIT_S)
            for rank in range(world):
                key = current_process().authkey.hex()  # tensors are sent as files that only who has it is given
                words = (rank, world, directory / "rendezvous", f"{place}/calls", limit, key)
                self._processes.append(warm.start(warm.PYTHON, __file__, *words))
                connection, _ = asked.accept()
                self._pipes.append(Connection(connection.detach()))

    def call(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        for pipe in self._pipes:
            pipe.send((function, arguments))
        results = []
        for rank, pipe in enumerate(self._pipes):
            said = self._processes[rank].stderr
            assert pipe.poll(2 * self._limit), f"rank {rank} does not answer:\n{said.read_text(encoding='utf-8')}"
            done, result = pipe.recv()
            assert done, f"rank {rank}:\n{result}"
            results.append(result)
        return results

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
        for pipe in self._pipes:
            pipe.close()


def _serve(rank: int, world: int, rendezvous: str, pipe: Connection, limit: float) -> None:
    torch.set_num_threads(1)
    timeout = timedelta(seconds=limit)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=world, timeout=timeout)
    groups = {degree: dist.new_group(list(range(degree)), timeout) for degree in range(1, world + 1)}
    while True:
        function, arguments = pipe.recv()
        os.ftruncate(sys.stderr.fileno(), 0)  # what it says is of this call, and never beyond a limit on files
        try:
            pipe.send((True, function(groups, *arguments)))
        except Exception:
            pipe.send((False, traceback.format_exc()))


if __name__ == "__main__":
    _rank, _world, _rendezvous, _calls, _limit, _key = sys.argv[1:]
    current_process().authkey = bytes.fromhex(_key)
    _serve(int(_rank), int(_world), _rendezvous, Client(_calls), float(_limit))
