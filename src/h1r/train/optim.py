"""AdamW, linear schedules and the optimiser step."""

from __future__ import annotations

import torch
from torch import nn

from h1r.common.progress import note
from h1r.config import OptimizerSection
from h1r.train.lora import Adapted
from h1r.train.parallel.gradients import Trained, weights_of
from h1r.train.parallel.precision import ComputeCopy


def make_optimizer(trained: Trained, section: OptimizerSection) -> torch.optim.AdamW:
    """AdamW (fused), with `vector_lr_scale` on the rate of vectors. Weight decay falls on matrices only: norms, biases,
    A_log, D and dt_bias are left alone, as is usual for Mamba; the paper does not say. Says so when the weights are
    narrower than fp32, where small updates are lost. Each step refreshes a copy that computes."""
    model = weights_of(trained)
    matrices = [p for p in model.parameters() if p.requires_grad and p.ndim >= 2]
    others = [p for p in model.parameters() if p.requires_grad and p.ndim < 2]
    narrow = {p.dtype for p in (*matrices, *others)} & {torch.bfloat16, torch.float16}
    for dtype in narrow:
        note(
            f"weights are trained in {str(dtype).removeprefix('torch.')}, which loses every update of less than about "
            f"{torch.finfo(dtype).eps / 2:.1g} of a weight; set compute_dtype, which keeps weights in float32"
        )
    groups = [
        {"params": matrices, "weight_decay": section.weight_decay, "lr_scale": 1.0},
        {"params": others, "weight_decay": 0.0, "lr_scale": section.vector_lr_scale},
    ]
    optimizer = torch.optim.AdamW(groups, lr=section.learning_rate, betas=section.betas, eps=section.eps, fused=True)
    if isinstance(trained, ComputeCopy | Adapted):
        trained.follow(optimizer)
    return optimizer


def linear_schedule(step: int, warmup_steps: int, total_steps: int, min_ratio: float = 0.0) -> float:
    """The factor on the peak learning rate at step 0, 1, ...: a linear rise over `warmup_steps`, then a linear fall
    that would reach `min_ratio` at `total_steps`."""
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    left = (total_steps - step) / max(1, total_steps - warmup_steps)
    return min_ratio + (1 - min_ratio) * max(0.0, left)


def optimizer_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, section: OptimizerSection, factor: float
) -> tuple[float, bool]:
    """Clips, steps at `factor` times the peak rate and clears gradients; returns (gradient norm, whether it stepped).

    A gradient norm that is not finite skips the step: one bad batch must not end a run of days.
    """
    for group in optimizer.param_groups:
        group["lr"] = section.learning_rate * factor * group.get("lr_scale", 1.0)
    clipped = nn.utils.clip_grad_norm_(model.parameters(), section.grad_clip)
    norm = float(clipped.full_tensor() if hasattr(clipped, "full_tensor") else clipped)  # over all shards
    stepped = norm == norm and norm != float("inf")
    if stepped:
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm, stepped
