"""Optimisers, linear schedules and the optimiser step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from h1r.common.progress import note
from h1r.config import OptimizerSection
from h1r.errors import UserError
from h1r.models.shards import own_rows, whole
from h1r.train.lora import Adapted
from h1r.train.parallel.gradients import Trained, weights_of
from h1r.train.parallel.precision import ComputeCopy, fitting


def make_optimizer(
    trained: Trained, section: OptimizerSection, stage: Literal["sft", "rl"] = "sft"
) -> torch.optim.Optimizer:
    """The recipe's optimiser of a stage, with `vector_lr_scale` on the rate of vectors. Weight decay falls on matrices
    only: norms, biases, A_log, D and dt_bias are left alone, as is usual for Mamba; the paper does not say. Says so
    when the weights are narrower than fp32, where small updates are lost. Each step refreshes a copy that computes."""
    model = weights_of(trained)
    matrices = [p for p in model.parameters() if p.requires_grad and p.ndim >= 2]
    others = [p for p in model.parameters() if p.requires_grad and p.ndim < 2]
    places = {(p.dtype, p.device.type) for p in (*matrices, *others) if p.dtype in (torch.bfloat16, torch.float16)}
    for dtype, place in sorted(places, key=str):
        note(
            f"weights are trained in {str(dtype).removeprefix('torch.')}, which loses every update of less than about "
            f"{torch.finfo(dtype).eps / 2:.1g} of a weight; --set {stage}.compute_dtype={fitting(place)} keeps "
            "weights in float32"
        )
    hidden = _hidden(model, matrices) if section.kind == "muon" else []
    inside = {id(p) for p in hidden}
    groups = [
        {"params": [p for p in matrices if id(p) not in inside], "weight_decay": section.weight_decay, "lr_scale": 1.0},
        {"params": others, "weight_decay": 0.0, "lr_scale": section.vector_lr_scale},
    ]
    how: dict[str, Any] = {"lr": section.learning_rate, "betas": section.betas, "eps": section.eps}
    optimizer: torch.optim.Optimizer
    if section.kind == "adamw8bit":
        optimizer = _eight_bit()(groups, **how)
    else:
        optimizer = torch.optim.AdamW(groups, **how, fused=True)
        if section.kind == "muon":
            optimizer = MuonAndAdamW(hidden, optimizer, section)
    if isinstance(trained, ComputeCopy | Adapted):
        trained.follow(optimizer)
    return optimizer


def _eight_bit() -> Callable[..., torch.optim.Optimizer]:
    """torchao's AdamW with moments of 8 bits. `UserError` where torchao is not installed."""
    try:
        from torchao.optim import AdamW8bit
    except ImportError as missing:
        raise UserError(
            f'optimizer.kind = "adamw8bit" needs torchao ({missing}); run `pip install "open-h1r[torchao]"`, or leave '
            "it out"
        ) from None
    found: Callable[..., torch.optim.Optimizer] = AdamW8bit
    return found


def in_codes(tensor: Tensor) -> bool:
    """Whether these are moments of 8 bits: torchao's codes, with a scale for every block of them."""
    return hasattr(tensor, "codes")


def cut_codes(moments: Any, rows: slice) -> Tensor:
    """Some rows of moments of 8 bits, as torchao keeps a shard: in 8 bits from 4,096 numbers in whole blocks on, in
    fp32 otherwise."""
    row, block = moments.numel() // moments.shape[0], moments.block_size
    mine: Tensor = moments.dequantize()[rows]
    if mine.numel() < 4096 or mine.numel() % block:
        return mine.clone()
    kept: Tensor = type(moments).zeros(mine.shape, moments.signed, block, mine.device, dtype=mine.dtype)
    return kept.copy_(mine if rows.start * row % block else moments[rows])


def _hidden(model: nn.Module, matrices: list[nn.Parameter]) -> list[nn.Parameter]:
    """The matrices that Muon steps: those of the layers, or of adapters, and neither the embedding nor the head, as its
    author advises (https://kellerjordan.github.io/posts/muon/)."""
    outer = {id(p) for name, p in model.named_parameters() if name.split(".")[-2:-1] in (["embed_tokens"], ["lm_head"])}
    return [p for p in matrices if p.ndim == 2 and id(p) not in outer]


class MuonAndAdamW(torch.optim.Optimizer):
    """Muon on the matrices of the layers and AdamW on all else, as one optimiser: one list of groups, one state.

    A step of Muon moves a matrix by its momentum with all singular values made equal, at 0.2 sqrt(larger side) times
    the rate: the size of AdamW's steps (arXiv 2502.16982), so that AdamW's rate and decay hold. torch.optim.Muon does
    the same in bf16, which processors without tiles for it compute twenty times as slowly as fp32; and a matrix in
    shards is made whole here, so that it moves as one process moves it.
    """

    def __init__(self, hidden: list[nn.Parameter], adamw: torch.optim.AdamW, section: OptimizerSection) -> None:
        muon = {"params": hidden, "lr": section.learning_rate, "weight_decay": section.weight_decay, "lr_scale": 1.0}
        self._adamw, self._momentum = adamw, section.momentum
        super().__init__([muon, *adamw.param_groups], {})
        self._share()

    def _share(self) -> None:
        """Gives AdamW its groups and the state of the whole."""
        self._adamw.param_groups, self._adamw.state = self.param_groups[1:], self.state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._share()

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        with _few_threads(self.param_groups[0]["params"]):
            self._step_hidden(self.param_groups[0])
        self._adamw.step()

    def _step_hidden(self, group: dict[str, Any]) -> None:
        for p in group["params"]:
            if p.grad is None:
                continue
            momentum = self.state[p].setdefault("momentum_buffer", torch.zeros_like(p))
            momentum.lerp_(p.grad, 1 - self._momentum)
            nesterov = p.grad.lerp(momentum, self._momentum)
            update = orthogonal(whole(nesterov))
            mine, rows = own_rows(p)
            mine.mul_(1 - group["lr"] * group["weight_decay"])
            mine.sub_(update if rows is None else update[rows], alpha=group["lr"] * 0.2 * max(p.shape) ** 0.5)


@contextmanager
def _few_threads(matrices: list[nn.Parameter]) -> Iterator[None]:
    """One thread for small matrices on a CPU: threads that sleep between products so short take twice as long."""
    before = torch.get_num_threads()
    small = all(not p.is_cuda and max(p.shape) <= _SMALL for p in matrices)
    if small and before > 1:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if small and before > 1:
            torch.set_num_threads(before)


_SMALL = 1024
"""Our choice: the larger side of such a matrix."""


_QUINTIC = (3.4445, -4.7750, 2.0315)
"""Of Muon's iteration (https://kellerjordan.github.io/posts/muon/), which lets small singular values grow most."""


def orthogonal(matrix: Tensor) -> Tensor:
    """The matrix [m, n] with its singular values brought to about 0.7 to 1.2 by five steps of Newton and Schulz's
    iteration; the smallest may stay below. On CUDA in bf16, as Muon's author does it, else in the matrix's own type."""
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    if x.is_cuda:
        x = x.bfloat16()
    x = x / x.norm().clamp(min=1e-7)
    a, b, c = _QUINTIC
    for _ in range(5):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.T if matrix.shape[0] > matrix.shape[1] else x).to(matrix.dtype)


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
        rate = section.learning_rate * factor * group.get("lr_scale", 1.0)
        if isinstance(group["lr"], torch.Tensor):  # torchao's compiled step reads it there
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate
    clipped = nn.utils.clip_grad_norm_(model.parameters(), section.grad_clip)
    norm = float(whole(clipped))  # over all shards
    stepped = norm == norm and norm != float("inf")
    if stepped:
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm, stepped
