"""The launch files: what each starts, and that recipes, numbers of nodes and of cards agree."""

from __future__ import annotations

import importlib.util
import itertools
import os
import shlex
import subprocess
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from h1r.config import find_recipe, load_recipe
from h1r.train.parallel.world import degrees

ROOT = Path(__file__).resolve().parents[2]
LAUNCH = ROOT / "launch"
ECHO = '#!/bin/sh\nprintf \'%s\\n\' "$0" "$@" >> "$SAID"\n'
STUBS = {
    "torchrun": ECHO,
    "ray": ECHO,
    "scontrol": f'{ECHO}test "$1" = show && echo node3\ntrue\n',
    "srun": 'shift; exec "$@"\n',
}


def said_by(tmp_path: Path, script: str, arguments: list[str], **environment: str) -> list[list[str]]:
    """The commands that a script runs where these programs write down how they were called."""
    for name, text in STUBS.items():
        stub = tmp_path / name
        stub.write_text(text if text.startswith("#!") else f"#!/bin/sh\n{text}")
        stub.chmod(0o755)
    said = tmp_path / "said"
    said.write_text("")
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(
        ["bash", str(LAUNCH / script), *arguments],
        env={"PATH": path, "SAID": str(said), **environment},
        check="FAILS" not in environment,
    )
    lines = said.read_text().splitlines()
    starts = [i for i, line in enumerate(lines) if line.startswith(str(tmp_path))] + [len(lines)]
    return [[Path(lines[a]).name, *lines[a + 1 : b]] for a, b in itertools.pairwise(starts)]


def on_ray() -> ModuleType:
    pytest.importorskip("ray")
    spec = importlib.util.spec_from_file_location("on_ray", LAUNCH / "on_ray.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_torchrun_starts_a_process_a_card_and_goes_on_after_a_death(tmp_path: Path) -> None:
    (found,) = said_by(tmp_path, "torchrun.sh", ["sft", "h1r-7b-8xh200", "--out", "a b"])
    assert found == [
        *("torchrun", "--nnodes", "1", "--nproc-per-node", "gpu", "--max-restarts", "3", "--standalone"),
        *("-m", "h1r", "sft", "h1r-7b-8xh200", "--resume", "--out", "a b"),
    ]


def test_slurm_starts_torchrun_on_the_first_node_s_address_and_ends_before_its_limit(tmp_path: Path) -> None:
    job = {"SLURM_JOB_NODELIST": "node[3-34]", "SLURM_NNODES": "32", "SLURM_JOB_ID": "17"}
    _, found = said_by(tmp_path, "slurm.sbatch", ["rl", "h1r-7b-cluster"], SLURM_SUBMIT_DIR=str(ROOT), **job)
    options = dict(zip(found[1::2], found[2::2], strict=False))
    assert (options["--nnodes"], options["--nproc-per-node"], options["--rdzv-endpoint"]) == ("32", "8", "node3:29500")
    assert options["--rdzv-id"] == "17"
    assert found[-7:] == ["-m", "h1r", "rl", "h1r-7b-cluster", "--resume", "--set", "rl.time_limit_s=84600"]
    lines = [line for line in (LAUNCH / "slurm.sbatch").read_text().splitlines() if line.startswith("#SBATCH --")]
    asked = dict(line.removeprefix("#SBATCH --").split("=") for line in lines if "=" in line)
    assert int(asked["nodes"]) * int(asked["gpus-per-node"]) == 256
    assert asked["time"] == "24:00:00"  # 86,400 s


def test_slurm_queues_a_job_again_that_did_not_end_well(tmp_path: Path) -> None:
    job = {"SLURM_JOB_NODELIST": "n", "SLURM_NNODES": "1", "SLURM_JOB_ID": "17", "SLURM_SUBMIT_DIR": "/nowhere"}
    found = said_by(tmp_path, "slurm.sbatch", ["sft", "tiny"], FAILS="yes", **job)
    assert found[-1] == ["scontrol", "requeue", "17"]
    found = said_by(tmp_path, "slurm.sbatch", ["sft", "tiny"], FAILS="yes", SLURM_RESTART_COUNT="5", **job)
    assert found[-1][1] == "show"


def test_kuberay_has_a_node_for_each_that_its_entrypoint_asks_for() -> None:
    job = yaml.safe_load((LAUNCH / "kuberay.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    cluster = job["spec"]["rayClusterSpec"]
    (group,) = cluster["workerGroupSpecs"]
    python, script, *words = shlex.split(job["spec"]["entrypoint"])
    assert (python, Path(script).name) == ("python", "on_ray.py")
    arguments = on_ray().parser().parse_args(words)
    assert arguments.nodes == group["replicas"] == group["minReplicas"] == group["maxReplicas"]
    (container,) = group["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == arguments.cards
    volumes = {volume["name"] for volume in group["template"]["spec"]["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    stage, recipe, *_ = arguments.h1r
    assert stage in ("sft", "rl")
    degrees(load_recipe(find_recipe(recipe), {}).parallel, arguments.nodes * arguments.cards)


def test_a_job_of_a_ray_cluster_drives_the_trainers_and_engines_of_its_recipe(tmp_path: Path) -> None:
    (found,) = said_by(tmp_path, "ray.sh", ["rl", "h1r-7b-ray", "--out", "a b"])
    assert found == [
        *("ray", "job", "submit", "--address", "http://127.0.0.1:8265", "--"),
        *("python", "-m", "h1r", "rl", "h1r-7b-ray", "--resume", "--out", "a b"),
    ]
    recipe = load_recipe(find_recipe("h1r-7b-ray"), {})
    assert recipe.cluster.backend == "ray"
    assert degrees(recipe.parallel, recipe.cluster.trainers) == (8, 1)


def test_ray_runs_on_every_node_what_torchrun_needs() -> None:
    module = on_ray()
    arguments = module.parser().parse_args(["--nodes", "2", "--cards", "4", "--", "sft", "tiny", "--out", "x"])
    line = module.command(arguments, "10.0.0.1", "h1r-17")
    assert line[1:3] == ["-m", "torch.distributed.run"]
    options = dict(zip(line[3::2], line[4::2], strict=False))
    assert (options["--nnodes"], options["--nproc-per-node"]) == ("2", "4")
    assert (options["--rdzv-endpoint"], options["--rdzv-id"]) == ("10.0.0.1:29500", "h1r-17")
    assert line[-6:] == ["h1r", "sft", "tiny", "--out", "x", "--resume"]
