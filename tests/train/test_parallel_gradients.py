"""Gradients over a grid of real processes: summed into replicas, and into FSDP2's shards."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from gloo_workers import Groups, Workers
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from h1r.config import OptimizerSection
from h1r.kernels.layout import Layout
from h1r.models import build
from h1r.models.falcon_h1.config import HybridConfig
from h1r.models.falcon_h1.hybrid import HybridForCausalLM
from h1r.train.losses import token_logprobs
from h1r.train.optim import make_optimizer, optimizer_step
from h1r.train.parallel import gradients as gradients_module
from h1r.train.parallel import parallelize, shard_parameters, share, sync_gradients
from h1r.train.parallel.parity import Batch, random_lengths, relative_errors

CONFIG = HybridConfig(
    vocab_size=48, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=1, head_dim=8, mamba_d_ssm=64, mamba_n_heads=4, mamba_d_head=16, mamba_d_state=8,
    mamba_chunk_size=8, mamba_rms_norm=True, initializer_range=0.2,
)  # fmt: skip
OPTIMIZER = OptimizerSection(learning_rate=1e-2, eps=1e-6, grad_clip=1e-2)
"""Clips whatever comes, so that the norm over all ranks counts."""
BATCHES = [Batch.random(CONFIG.vocab_size, random_lengths(80, seed), seed) for seed in (0, 1)]


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    found = Workers(4, tmp_path_factory.mktemp("gloo"))
    yield found
    found.close()


def loss_of(model: HybridForCausalLM, batch: Batch, mine: slice) -> Tensor:
    hidden = model.model(batch.ids[mine], Layout.of(batch.lengths))
    logprobs = token_logprobs(model.logits(hidden), batch.targets[mine])
    return -(batch.weights[mine].to(logprobs.dtype) * logprobs).sum()


def model_with(tied: bool) -> HybridForCausalLM:
    changes: dict[str, Any] = {**CONFIG.__dict__, "tie_word_embeddings": tied}
    return build(HybridConfig(**changes), seed=3, dtype=torch.float64).train()


def trained_alone(tied: bool) -> tuple[HybridForCausalLM, dict[str, Tensor]]:
    """The model after one step on both batches in one process, and the gradients of the step."""
    model = model_with(tied)
    torch.stack([loss_of(model, batch, slice(0, 80)) for batch in BATCHES]).sum().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    optimizer_step(model, make_optimizer(model, OPTIMIZER), OPTIMIZER, 1.0)
    return model, gradients


def error_on_grid(groups: Groups, tied: bool) -> tuple[dict[str, float], dict[str, float], float]:
    """Errors of gradients and of weights after a step, with two rows of two ranks and sharded parameters, and the
    share of the parameters that this rank holds."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "context"))
    model = parallelize(model_with(tied), mesh["context"].get_group())
    sharded = shard_parameters(model, mesh._flatten("grid"))
    row, rank = mesh["data"].get_local_rank(), mesh["context"].get_local_rank()
    sharded(loss_of, BATCHES[row], share(80, rank, 2)).backward()

    whole = {name: p.grad.full_tensor() for name, p in model.named_parameters() if isinstance(p.grad, DTensor)}
    optimizer_step(model, make_optimizer(model, OPTIMIZER), OPTIMIZER, 1.0)
    weights = {name: p.full_tensor() for name, p in model.named_parameters() if isinstance(p, DTensor)}
    held = sum(p.to_local().numel() for p in model.parameters() if isinstance(p, DTensor))
    alone, gradients = trained_alone(tied)
    expected = {name: p.detach() for name, p in alone.named_parameters()}
    total = sum(p.numel() for p in alone.parameters())
    return relative_errors(whole, gradients), relative_errors(weights, expected), held / total


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_fsdp_over_data_and_context_ranks_trains_what_one_process_trains(workers: Workers, tied: bool) -> None:
    for gradients, weights, held in workers.call(error_on_grid, tied):
        assert "model.layers.1.mamba.A_log" in gradients
        assert max(gradients.values()) < 1e-9
        assert max(weights.values()) < 1e-9
        assert held == pytest.approx(0.25, abs=0.02)


def summed(groups: Groups, bucket: int) -> bool:
    """Parameters of two types and several sizes, one of which only rank 0 has a gradient for, and one that is fixed."""
    rank = dist.get_rank()
    shapes: list[tuple[tuple[int, ...], torch.dtype]] = [
        ((3, 5), torch.float32), ((1,), torch.float32), ((7,), torch.float64), ((2, 2), torch.float32)
    ]  # fmt: skip
    model = nn.ParameterList([nn.Parameter(torch.zeros(shape, dtype=dtype)) for shape, dtype in shapes])
    fixed = nn.Parameter(torch.zeros(4), requires_grad=False)
    model.append(fixed)
    for index, p in enumerate(list(model)[:-1]):
        if index != 1 or rank == 0:
            p.grad = torch.full_like(p, float(rank + index))
    # In bfloat16 256 + 1 is 256: three ranks' ones would be lost one by one, and 259 is 260 when it is rounded once.
    narrow = nn.Parameter(torch.zeros(2, dtype=torch.bfloat16))
    narrow.grad = torch.full_like(narrow, 256.0 if rank == 0 else 1.0)
    with mock.patch.object(gradients_module, "BUCKET", bucket):
        sync_gradients(model, groups[4])
        sync_gradients(nn.ParameterList([narrow]), groups[4])
    assert narrow.grad.tolist() == [260.0] * 2
    expected = [0 + 1 + 2 + 3, 1, 6 + 4 * 2, 6 + 4 * 3]
    found = [p.grad for p in list(model)[:-1]]
    equal = [
        torch.equal(g, torch.full_like(g, float(e))) for g, e in zip(found, expected, strict=True) if g is not None
    ]
    return len(equal) == 4 and all(equal) and fixed.grad is None


@pytest.mark.parametrize("bucket", [1, 64, 1 << 20])
def test_gradients_are_summed_whatever_the_bucket(workers: Workers, bucket: int) -> None:
    assert workers.call(summed, bucket) == [True] * 4
