"""What a recipe's plugins register is there in the processes that others start: torchrun's, Ray's, curation's."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import torch

import warm
from h1r.config import Recipe
from h1r.records import Problem
from h1r.train.parallel.launch import Calls

LOSS = """
import os
from h1r import loss
from h1r.train.algorithms import GRPO
from h1r.train.parallel import launch
from h1r.train.registry import LOSSES

launch.STAGES["own"] = (__name__, "stage")

@loss("own_followed")
class Own(GRPO):
    pass

def stage(recipe, run, resume):
    launch.join("own", recipe, run, resume)
    (run.path / f"rank-{os.environ['RANK']}").write_text(LOSSES.require(recipe.rl.algorithm).__name__)
"""
"""A stage that asks for the loss which the recipe chooses."""
PROGRAM = """
import sys
from pathlib import Path
from h1r.config import load_recipe
from h1r.run.directory import Run
from h1r.train.parallel import launch

def program():
    recipe = load_recipe(sys.argv[1])
    import importlib
    module, function = launch.STAGES["own"]
    getattr(importlib.import_module(module), function)(recipe, Run(Path(sys.argv[2])), False)
    return 0

sys.exit(launch.lead_or_follow(program))
"""
"""Rank 0 alone reads the recipe."""
VERIFIER = """
from h1r.verify import verifier

@verifier("{name}", answer_form="Answer: %s")
def grade(problem, answer):
    return float(answer == "Answer: " + problem.answer)
"""
CURATION_WORKER = """
import sys
from pathlib import Path
from h1r.data.curate.context import close, context
from h1r.records import Problem

work, name = Path(sys.argv[1]), sys.argv[2]
verdicts = context(work).verify([Problem("p", "?", "4", name)] * 2, ["Answer: 4", "Answer: 5"])
print([verdict.reward for verdict in verdicts])
close(work)
"""


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def test_the_followers_of_torchrun_see_a_loss_of_a_plugin(tmp_path: Path) -> None:
    plugin, recipe = tmp_path / "own_loss.py", tmp_path / "own.toml"
    plugin.write_text(LOSS)
    recipe.write_text('name = "own"\nplugins = ["own_loss.py"]\n[rl]\nalgorithm = "own_followed"\n')
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
    (tmp_path / "program.py").write_text(PROGRAM)
    ranks = [
        warm.start(
            warm.PYTHON, tmp_path / "program.py", recipe, tmp_path,
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]  # fmt: skip
    for one in ranks:
        assert one.wait(timeout=240) == 0, one.stderr.read_text()
    assert [(tmp_path / f"rank-{rank}").read_text() for rank in range(2)] == ["Own", "Own"]


def test_a_worker_of_curation_sees_a_verifier_of_a_plugin(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(VERIFIER.format(name="own-curated"))
    recipe = Recipe.model_validate(
        {"name": "own", "plugins": [str(tmp_path / "own.py")], "verify": {"workers": 1}, "corpus": {"workers": 1}}
    )
    (tmp_path / "recipe.json").write_text(recipe.model_dump_json())
    (tmp_path / "worker.py").write_text(CURATION_WORKER)
    done = warm.run(warm.PYTHON, tmp_path / "worker.py", tmp_path, "own-curated", timeout=240)
    assert done.stdout.strip() == "[1.0, 0.0]", done.stderr


@pytest.mark.slow  # starts Ray
def test_an_actor_of_ray_sees_a_verifier_of_a_plugin(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    from h1r.verify.workers.ray_backend import RayBackend
    from h1r.verify.workers.ray_cluster import RayCluster

    path = tmp_path / "own.py"
    path.write_text(VERIFIER.format(name="own-in-ray"))
    Recipe.model_validate({"name": "own", "plugins": [str(path)]})
    cluster = RayCluster(num_cpus=2, object_store_memory=80 << 20)
    try:
        with RayBackend(actors=1, workers=1) as backend:
            found = backend.verify_many([Problem("p", "?", "4", "own-in-ray")] * 2, ["Answer: 4", "Answer: 5"])
    finally:
        cluster.leave()
    assert [(verdict.reward, verdict.error) for verdict in found] == [(1.0, None), (0.0, None)]


def test_who_follows_ends_with_the_leader_that_has_the_store() -> None:
    class Gone:
        def wait(self, *_: object) -> None:
            raise torch.distributed.DistNetworkError("Connection reset by peer")

    assert Calls(Gone()).receive() is None  # type: ignore[arg-type]
