"""What runs in a trainer's actor: one rank of a policy, under torch.distributed as under torchrun."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import TCPStore
from torch.distributed.distributed_c10d import PrefixStore

from h1r.errors import UserError
from h1r.train.cached_arrays import Packed
from h1r.train.cluster.setting import Setting
from h1r.train.memory import keep_freed_memory
from h1r.train.parallel.world import open_world
from h1r.train.policy import LocalPolicy
from h1r.train.rollouts import unpack_groups
from h1r.train.start import rl_policy, rl_reference, rl_start


class TrainerActor:
    """One rank. The controller calls each method on all ranks at once."""

    def __init__(self, setting: Setting) -> None:
        self._recipe, self._run = setting.enter()

    def host(self) -> str:
        """The address of this rank's machine, as the others see it."""
        import ray.util

        return str(ray.util.get_node_ip_address())

    def store(self, host: str, ranks: int) -> int:
        """Opens the store that the ranks meet at, on this rank's machine, and returns its port."""
        self._store = TCPStore(host, 0, ranks, is_master=True, wait_for_workers=False)
        return self._store.port

    def join(self, host: str, port: int, rank: int, ranks: int) -> tuple[int, list[int]]:
        """Makes this rank one of `ranks`, and loads its share of the policy; its positions and end tokens. Raises
        `UserError` as `rl_policy` does, on all ranks alike."""
        recipe = self._recipe
        if torch.cuda.is_available():
            torch.cuda.set_device(0)  # Ray shows an actor its own cards alone
        if ranks > 1 or recipe.parallel.shard:
            if rank:
                self._store = TCPStore(host, port, ranks, is_master=False)
            # No backend named: gloo for tensors on the CPU, NCCL for those on GPUs.
            dist.init_process_group(store=PrefixStore("group", self._store), rank=rank, world_size=ranks)
        world = open_world(recipe.parallel)
        with world.agreed():
            source, tokenizer = rl_start(recipe, self._run)
            model, wrapped = rl_policy(recipe, source, tokenizer, world)
            keep_freed_memory(model.device)
            reference = rl_reference(recipe, source, tokenizer, world) if recipe.rl.kl_coef else None
            directory = self._run.stage("rl")
            self._policy = LocalPolicy(model, recipe.rl, tokenizer, directory, reference, wrapped, world)
        return self._policy.positions, list(self._policy.eos_token_ids)

    def step(self, groups: Packed, step: int) -> dict[str, float]:
        """See `Policy.step`."""
        return self._policy.step(unpack_groups(groups), step)

    def send_weights(self, place: str) -> dict[str, int]:
        """See `LocalPolicy.send_weights`. Raises `UserError` where the directory that the controller made for them is
        not here: what is written would be seen by nobody, and cleaned up by nobody."""
        with self._policy.world.agreed():
            if self._policy.world.main and not Path(place).parent.is_dir():
                raise UserError(
                    f"{Path(place).parent}, where weights are to go, is on another machine than the trainers; set "
                    "engine.weights_directory to a directory that all machines see"
                )
        return self._policy.send_weights(Path(place))

    def call(self, method: str, *arguments: Any) -> Any:
        """Another method of `Policy`."""
        return getattr(self._policy, method)(*arguments)
