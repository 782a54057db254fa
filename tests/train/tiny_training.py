"""What the trainers' tests share: a tiny model and recipe, and the log-probabilities of one sequence the slow way."""

from __future__ import annotations

import json
import math
import random
import shutil
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from h1r.config import Recipe, RLSection, resolve
from h1r.data.tokenizer import load_tokenizer
from h1r.models import build
from h1r.models.falcon_h1.config import HybridConfig
from h1r.models.falcon_h1.hybrid import HybridForCausalLM
from h1r.records import Problem, Verdict, read_jsonl
from h1r.run.checkpoints import Checkpoints
from h1r.run.directory import Run
from h1r.run.metrics import Metrics, read_metrics
from h1r.run.trackers.base import NoTracker, Tracker
from h1r.train.documents import read_samples
from h1r.train.fleet import open_fleet
from h1r.train.parallel.world import ALONE, open_world
from h1r.train.rl import train_rl
from h1r.train.sft import train_sft
from h1r.train.start import rl_policy, rl_reference, saved_tokenizer, start

CONFIG = HybridConfig(
    vocab_size=23, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=8, mamba_d_ssm=32, mamba_n_heads=4, mamba_d_head=8, mamba_d_state=8,
    mamba_chunk_size=4, initializer_range=0.25, eos_token_id=7, max_position_embeddings=200,
)  # fmt: skip
UNREPEATABLE = {"time", "tokens_per_s", "sync_seconds", "rollout_seconds", "train_seconds"}
"""Measurements of the clock, the only metrics in which two equal runs may differ."""


class Killed(BaseException):
    """Stands for the death of the process in the middle of a stage."""


def tiny_model(seed: int = 0, dtype: torch.dtype = torch.float64) -> HybridForCausalLM:
    return build(CONFIG, seed, dtype).train()


def random_ids(rng: random.Random, length: int) -> list[int]:
    return [rng.randrange(CONFIG.vocab_size) for _ in range(length)]


def sequence_logprobs(model: HybridForCausalLM, ids: list[int], temperature: float = 1.0) -> list[Tensor]:
    """log pi(ids[t] | ids[:t]) for t = 1, 2, ... from one forward pass over this sequence alone, without a cache."""
    rows = model(torch.tensor([ids]))[0] / temperature
    return [rows[t - 1][ids[t]] - torch.logsumexp(rows[t - 1], 0) for t in range(1, len(ids))]


def gradients(model: HybridForCausalLM) -> dict[str, Tensor]:
    """The accumulated gradients, which are taken away from the model."""
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def gradients_of(model: HybridForCausalLM, loss: Tensor) -> dict[str, Tensor]:
    assert not gradients(model)
    loss.backward()
    return gradients(model)


def gap(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """Largest difference of two sets of tensors, relative to the largest entry of both."""
    assert a.keys() == b.keys()
    assert a
    largest = max(float(tensor.abs().max()) for tensor in (*a.values(), *b.values()))
    assert math.isfinite(largest)
    assert largest > 0
    return max(float((a[name] - b[name]).abs().max()) for name in a) / largest


def rl_section(**changes: Any) -> RLSection:
    """The paper's constants, at a batch of two groups of four."""
    return RLSection.model_validate({"batch_size": 2, "num_generations": 4, "temperature": 1.0, **changes})


def training_recipe(**sections: dict[str, Any]) -> Recipe:
    """A recipe for the curated run, with `sections` laid over its own."""
    tree: dict[str, Any] = {
        "name": "training",
        "threads": 1,
        "verify": {"workers": 1},
        "chat": {"system_prompt": ""},
        "tokenizer": {"vocab_size": 280},
        "model": {
            "preset": "tiny",
            "overrides": {
                "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
                "num_key_value_heads": 1, "head_dim": 16, "mamba_n_heads": 2, "mamba_d_head": 16, "mamba_d_ssm": 32,
                "mamba_d_state": 8,
            },
        },
        "problems": {"train": 30, "rl": 6, "held_out": 4},
        "corpus": {
            "sources": [
                {
                    "kind": "reasoning_gym",
                    "family": "chain_sum",
                    "knobs": {"min_terms": 2, "max_terms": 3, "min_digits": 1, "max_digits": 1},
                }
            ],
            "workers": 1,
        },
        "curate": {"traces_per_problem": 1},
    }  # fmt: skip
    for name, section in sections.items():
        tree[name] = {**tree.get(name, {}), **section}
    return resolve(json.loads(json.dumps(tree)), None, "training recipe")


def run_from(curated: Path, path: Path, recipe: Recipe) -> Run:
    """A new run directory with the curated files."""
    run = Run.open(path, recipe)
    shutil.copytree(curated / "curate", path / "curate")
    return run


class DyingMetrics(Metrics):
    """The process dies after it has logged step `last`."""

    last = -1

    def log(self, step: int, values: Mapping[str, float | None]) -> None:
        super().log(step, values)
        if step == self.last:
            raise Killed


def metrics_for(stage: Path, resume: bool, last: int | None) -> Tracker:
    """The tracker of a stage that goes on, or that dies after step `last`."""
    metrics = DyingMetrics(stage / "metrics.jsonl", Checkpoints(stage).step_to_resume(resume))
    metrics.last = -1 if last is None else last
    return metrics


def checksum_verdicts(problems: Sequence[Problem], texts: Sequence[str]) -> list[Verdict]:
    """In the place of the verifiers: an untrained model solves no problem, yet a third of its texts pass here."""
    marks = [float(zlib.crc32((p.id + text).encode()) % 3 == 0) for p, text in zip(problems, texts, strict=True)]
    return [Verdict(mark, {"correct": mark, "format": 1.0}) for mark in marks]


def train_rl_in(
    run: Run,
    recipe: Recipe,
    resume: bool = False,
    dies_after: int | None = None,
    verifier: Callable[[Sequence[Problem], Sequence[str]], list[Verdict]] = checksum_verdicts,
) -> dict[str, Any]:
    """`train_rl` on the pool and sft/model of a run, with all processes that torch.distributed knows."""
    world = open_world(recipe.parallel)
    tokenizer = saved_tokenizer(recipe, run)
    source = run.path / "sft" / "model"
    model, wrapped = rl_policy(recipe, source, tokenizer, world)
    stage = run.stage("rl")
    with open_fleet(recipe, tokenizer, wrapped, world) as fleet:
        return train_rl(
            model,
            fleet,
            verifier,
            list(read_jsonl(run.path / "rl_pool" / "pool.jsonl", Problem)),
            recipe.rl,
            metrics_for(stage, resume, dies_after) if world.main else NoTracker(),
            tokenizer=tokenizer,
            directory=stage,
            system_prompt=recipe.chat.system_prompt,
            seed=recipe.seed,
            reference=rl_reference(recipe, source, tokenizer, world) if recipe.rl.kl_coef else None,
            wrapped=wrapped,
            world=world,
            resume=resume,
        )


def train_sft_in(
    run: Run, recipe: Recipe, resume: bool = False, dies_after: int | None = None, documents: Any = None
) -> dict[str, Any]:
    """`train_sft` on the samples of a run, or on other documents, in this process."""
    directory, stage = run.path / "curate", run.stage("sft")
    if documents is None:
        tokenizer = load_tokenizer(directory / "tokenizer")
        documents = read_samples(directory / "samples.jsonl", tokenizer, recipe.chat.system_prompt, recipe.sft.seq_len)
    model, wrapped = start(recipe, run, ALONE)
    return train_sft(
        model,
        documents,
        recipe.sft,
        metrics_for(stage, resume, dies_after),
        tokenizer=saved_tokenizer(recipe, run),
        directory=stage,
        seed=recipe.seed,
        wrapped=wrapped,
        resume=resume,
    )


def metrics_of(stage: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without what the clock decides."""
    lines = read_metrics(stage / "metrics.jsonl")
    return [{key: value for key, value in line.items() if key not in UNREPEATABLE} for line in lines]


def read_weights(directory: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint directory, under their stored names."""
    return {name: tensor for file in directory.glob("*.safetensors") for name, tensor in load_file(file).items()}


def assert_same_stage(one: Path, other: Path) -> None:
    """Equal weights, bit for bit, and equal metrics."""
    left, right = read_weights(one / "model"), read_weights(other / "model")
    assert left.keys() == right.keys()
    assert [name for name in left if not torch.equal(left[name], right[name])] == []
    assert metrics_of(one) == metrics_of(other)
