"""How far context parallelism is from one process: the measurement behind the tests and `h1r parity`.

`context_error` runs inside a process group; `parity_worst_error` starts the processes itself.
"""

from __future__ import annotations

import multiprocessing
import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import start_processes

from h1r.common.prose import counted
from h1r.errors import UserError
from h1r.kernels.layout import Layout
from h1r.kernels.selection import select
from h1r.models import CausalLM, build, load
from h1r.models.checkpoint import read_config
from h1r.models.config import ModelConfig
from h1r.models.layers.exchange import share
from h1r.train.losses import token_logprobs
from h1r.train.parallel.context import check_degree, parallelize
from h1r.train.parallel.gradients import sync_gradients


@dataclass(frozen=True)
class Batch:
    """Documents laid end to end, as every rank knows them: ids [T], next tokens [T], and each one's factor in the loss
    [T], which is zero where no token of the same document follows."""

    lengths: list[int]
    ids: Tensor
    targets: Tensor
    weights: Tensor

    @classmethod
    def random(cls, vocab_size: int, lengths: Sequence[int], seed: int) -> Batch:
        """Random tokens and weights; the weights of all tokens sum to one."""
        generator = torch.Generator().manual_seed(seed)
        num_tokens = sum(lengths)
        ids = torch.randint(vocab_size, (num_tokens,), generator=generator)
        weights = torch.rand(num_tokens, generator=generator, dtype=torch.float64)
        weights[torch.tensor(lengths).cumsum(0) - 1] = 0.0
        return cls(list(lengths), ids, ids.roll(-1), weights / weights.sum().clamp_min(1e-9))


def context_error(model: CausalLM, batch: Batch, group: dist.ProcessGroup) -> dict[str, float]:
    """The relative error of the loss (under "loss") and of each parameter's gradient, over the ranks of `group`.

    Every rank of the group calls it with equal weights and the same batch; `model` becomes context-parallel. The error
    of a tensor is its largest difference from one process over its largest entry there, or over a millionth of the
    largest of all gradients where that is more: a gradient that is zero but for rounding has no relative error.
    Returns {} on all ranks but the first.
    """
    rank, degree = dist.get_rank(group), dist.get_world_size(group)
    expected = _loss_and_gradients(model, batch, slice(0, len(batch.ids))) if rank == 0 else {}
    parallelize(model, group)
    found = _loss_and_gradients(model, batch, share(len(batch.ids), rank, degree), group)
    return relative_errors(found, expected) if rank == 0 else {}


def relative_errors(found: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, float]:
    """As `context_error` measures them, of a loss under "loss" and of gradients. Raises `ValueError` when a gradient
    is missing on one side."""
    if found.keys() != expected.keys():
        raise ValueError(f"gradients differ in {sorted(found.keys() ^ expected.keys())}")
    floor = 1e-6 * max(float(tensor.abs().max()) for name, tensor in expected.items() if name != "loss")
    errors = {}
    for name, tensor in expected.items():
        difference = float((found[name] - tensor).abs().max())
        errors[name] = difference / max(float(tensor.abs().max()), floor) if difference else 0.0
    return errors


def parity_worst_error(
    source: ModelConfig | str | Path, degree: int, seed: int = 0, tokens: int = 192, kernels: str = "torch"
) -> float:
    """The worst relative error of loss and gradients between `degree` processes and one, in fp32 on the CPU.

    source: a geometry, which gets random weights, or a checkpoint directory. tokens: length of the packed batch, which
    is cut into random documents. Starts `degree` processes with one thread each; each holds the model. Raises
    `UserError` for a degree that does not fit the heads and for too few tokens, and `ProcessRaisedException` when a
    process fails.
    """
    check_degree(source if isinstance(source, ModelConfig) else read_config(Path(source)), degree)
    if tokens < 8:
        raise UserError(f"context parallelism cannot be checked on {counted(tokens, 'token')}; give at least 8")
    with tempfile.TemporaryDirectory() as directory:
        result = Path(directory) / "error"
        # A server imports torch once and forks for every call; it starts no thread before.
        multiprocessing.get_context("forkserver").set_forkserver_preload([__name__])
        arguments = (source, degree, seed, tokens, kernels, directory, str(result))
        start_processes(_worker, arguments, degree, start_method="forkserver")
        return float(result.read_text())


def random_lengths(tokens: int, seed: int) -> list[int]:
    """Document lengths that add up to `tokens`: one that holds half of them, among short ones and single tokens."""
    rng = random.Random(f"documents {seed}")
    lengths = [tokens // 2]
    while (left := tokens - sum(lengths)) > 0:
        lengths.append(min(left, rng.choice([1, rng.randint(2, 9), rng.randint(2, max(2, tokens // 4))])))
    rng.shuffle(lengths)
    return lengths


def _worker(
    rank: int,
    source: ModelConfig | str | Path,
    degree: int,
    seed: int,
    tokens: int,
    kernels: str,
    directory: str,
    result: str,
) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{directory}/rendezvous", rank=rank, world_size=degree)
    try:
        model = build(source, seed) if isinstance(source, ModelConfig) else load(source, torch.float32)
        model.use(select(kernels)).train()
        batch = Batch.random(model.config.vocab_size, random_lengths(tokens, seed), seed)
        assert dist.group.WORLD is not None
        errors = context_error(model, batch, dist.group.WORLD)
        if rank == 0:
            Path(result).write_text(repr(max(errors.values())))
    finally:
        dist.destroy_process_group()


def _loss_and_gradients(
    model: CausalLM, batch: Batch, mine: slice, group: dist.ProcessGroup | None = None
) -> dict[str, Tensor]:
    """The loss, under "loss", and every gradient: of the whole batch on each rank. Clears the model's gradients."""
    layout = Layout.of(batch.lengths)
    hidden = model.model(batch.ids[mine], layout)
    logprobs = token_logprobs(model.logits(hidden), batch.targets[mine])
    loss = -(batch.weights[mine].to(logprobs.dtype) * logprobs).sum()
    loss.backward()
    total = loss.detach()
    if group is not None:
        dist.all_reduce(total, group=group)
        sync_gradients(model, group)
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return {"loss": total, **found}
