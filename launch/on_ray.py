"""Runs torchrun on the nodes of a Ray cluster, one a node, and ends with the worst exit code.

    ray job submit --address http://HEAD:8265 -- python launch/on_ray.py --nodes 32 --cards 8 -- sft h1r-7b-cluster

Ray places the processes and tells when a node is lost; rendezvous and restarts are torchrun's. All nodes must see one
run directory (--out).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence

import ray
from ray.util.placement_group import placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy


def command(arguments: argparse.Namespace, head: str, job: str) -> list[str]:
    """What runs on every node. job: two jobs with one id on one head would wait for each other."""
    rendezvous = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"{head}:{arguments.port}", "--rdzv-id", job]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nnodes", str(arguments.nodes)]
    processes = ["--nproc-per-node", str(arguments.processes or arguments.cards), "--max-restarts", "3"]
    return [*launch, *processes, *rendezvous, "-m", "h1r", *arguments.h1r, "--resume"]


def address() -> str:
    """Of the node that this runs on, as the others see it."""
    return str(ray.util.get_node_ip_address())


def run(line: Sequence[str]) -> int:
    """The exit code of a command on this node."""
    return subprocess.run(list(line), check=False).returncode


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--nodes", type=int, default=1)
    made.add_argument("--cards", type=int, default=8, help="of a node; 0: none, and --processes on its processors")
    made.add_argument("--processes", type=int, default=0, help="on a node; 0: one a card")
    made.add_argument("--port", type=int, default=29500)
    made.add_argument("h1r", nargs="+", help="the stage, the recipe and their options, behind --")
    return made


def main() -> int:
    arguments = parser().parse_args()
    ray.init()
    needs = {"CPU": 1, **({"GPU": arguments.cards} if arguments.cards else {})}
    group = placement_group([needs] * arguments.nodes, strategy="STRICT_SPREAD")
    ray.get(group.ready())

    def on(node: int) -> dict[str, object]:
        place = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=node)
        return {"num_cpus": 1, "num_gpus": arguments.cards, "scheduling_strategy": place, "max_retries": 0}

    head = ray.get(ray.remote(address).options(**on(0)).remote())
    line = command(arguments, head, f"h1r-{ray.get_runtime_context().get_job_id()}")
    return max(ray.get([ray.remote(run).options(**on(node)).remote(line) for node in range(arguments.nodes)]))


if __name__ == "__main__":
    sys.exit(main())
