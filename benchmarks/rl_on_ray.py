"""RL in actors of a Ray cluster beside RL in one process: the same rollouts, and what a step costs.

    python benchmarks/rl_on_ray.py [--engine vllm] [--engines 2] [--trainers 2] [--steps 8] [--lookahead 0] [--out DIR]
                                   [--in-flight]

A tiny model is curated for and fine-tuned (`recipes/smoke.toml`, with heads that vLLM's CPU build runs), then trained
by `h1r rl` twice from there: in one process on the native engine, and on Ray. Prints a line of JSON: of each step mean
reward, accuracy, importance weight and age of tokens (of groups, where tokens do not tell; steps) of both, whether the
rollouts that are kept for reading are the same, the largest difference of weights relative to the largest weight, and
seconds a step. Needs the extra `ray`, and vLLM for its engine.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

H1R = [sys.executable, "-m", "h1r"]
SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "mamba_n_heads": 4,
    "mamba_d_head": 32,
    "mamba_d_ssm": 128,
    "mamba_d_state": 16,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=["native", "vllm"], default="vllm")
    parser.add_argument("--engines", type=int, default=2)
    parser.add_argument("--trainers", type=int, default=2)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--lookahead", type=int, default=0)
    parser.add_argument("--in-flight", action="store_true", help="rl.in_flight on Ray, so that rollouts differ")
    parser.add_argument("--out", type=Path, help="keep the runs there")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="h1r-ray-") as scratch:
        found = compare(asked, asked.out or Path(scratch))
    print(json.dumps(found))


def compare(asked: argparse.Namespace, place: Path) -> dict[str, Any]:
    """Runs both, and what the docstring says."""
    shared = {"threads": 1, "rl.steps": asked.steps, "verify.workers": 1, "engine.max_sequences": 32}
    shared |= {"model.overrides": SHAPE, "engine.max_model_len": 256}
    base = place / "base"
    if not (base / "rl_pool/pool.jsonl").exists():
        for stage in (["curate"], ["sft"], ["curate", "--pool", "rl"]):
            h1r(stage, ["smoke"], base, shared)
    alone, on_ray = place / "alone", place / "ray"
    for run in (alone, on_ray):
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(base, run)
    shared["rl.lookahead"] = asked.lookahead
    h1r(["rl"], ["smoke"], alone, shared)
    cluster: dict[str, Any] = {
        "cluster.backend": "ray",
        "cluster.trainers": asked.trainers,
        "cluster.engines": asked.engines,
    }
    cluster |= {"engine.kind": asked.engine, "rl.in_flight": asked.in_flight}
    h1r(["rl"], ["smoke"], on_ray, {**shared, **cluster})
    lines = {run.name: metrics(run) for run in (alone, on_ray)}
    return {
        "reward": {name: [round(line["reward"], 4) for line in found] for name, found in lines.items()},
        "accuracy": {name: [round(line["accuracy"], 4) for line in found] for name, found in lines.items()},
        "tis_mean": {name: [round(line["tis_mean"], 6) for line in found] for name, found in lines.items()},
        "token_staleness": {
            name: [round(line.get("token_staleness", line["staleness"]), 3) for line in found]
            for name, found in lines.items()
        },
        "same_rollouts": (alone / "rl/rollouts.jsonl").read_bytes() == (on_ray / "rl/rollouts.jsonl").read_bytes(),
        "weights_apart": apart(alone / "rl/model", on_ray / "rl/model"),
        "seconds": {
            name: {
                part: round(sum(line[f"{part}_seconds"] for line in found) / len(found), 3)
                for part in ("sync", "rollout", "train")
            }
            for name, found in lines.items()
        },
    }


def h1r(stage: list[str], recipe: list[str], out: Path, keys: dict[str, Any]) -> None:
    """One command of the program."""
    sets = [word for key, value in keys.items() for word in ("--set", f"{key}={toml(value)}")]
    subprocess.run([*H1R, *stage, *recipe, "--out", str(out), *sets], check=True, stdout=sys.stderr)


def toml(value: Any) -> str:
    """A value as `--set` reads it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {toml(one)}" for key, one in value.items()) + "}"
    return json.dumps(value)


def metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's RL."""
    return [json.loads(line) for line in (run / "rl/metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def apart(one: Path, other: Path) -> float:
    """Largest difference of two checkpoints' weights, relative to the largest weight."""
    left, right = (load_file(directory / "model.safetensors") for directory in (one, other))
    largest = max(float(tensor.abs().max()) for tensor in left.values())
    return max(float((left[name] - right[name]).abs().max()) for name in left) / largest


if __name__ == "__main__":
    main()
