"""Low-rank adapters (LoRA, arXiv 2106.09685): W + alpha / rank B A is in use, and A and B alone are trained.

    adapters  fp32            A [rank, in] and B [out, rank]: what is optimised and kept in checkpoints, and `adapter/`
    model     as it computes  the sums in the place of its matrices: what runs, and what engines and exports read

The sums are made after every step, so that fused kernels and engines see a model like any other. The backward pass
gives a matrix its gradient G, of which A and B take theirs at once, and which is dropped:

    dA = alpha / rank B^T G        dB = alpha / rank G A^T

That costs one matrix's gradient at a time, and a second copy of the matrices; gradients and moments of all weights are
not there. Our choice: no dropout; the rest as in PEFT, whose format `adapter/` has.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from h1r.config import LoraSection, Recipe
from h1r.errors import UserError
from h1r.models import CausalLM

T = TypeVar("T")
ADAPTER = "adapter"
_WEIGHTS, _CONFIG = "adapter_model.safetensors", "adapter_config.json"
_PREFIX = "base_model.model."
"""Of PEFT's names, before those of the model."""


class Adapters(nn.Module):
    """A and B of each adapted matrix, in fp32. B begins at 0 and A uniform in +-1/sqrt(in), as in PEFT: the sum is the
    model as it was."""

    def __init__(self, shapes: dict[str, tuple[int, int]], rank: int, seed: int, device: torch.device) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.names = list(shapes)
        self.A, self.B = nn.ParameterList(), nn.ParameterList()
        for rows, columns in shapes.values():
            drawn = torch.empty(rank, columns).uniform_(-1, 1, generator=generator) / math.sqrt(columns)
            self.A.append(drawn.to(device))
            self.B.append(torch.zeros(rows, rank, device=device))

    @property
    def device(self) -> torch.device:
        """Where they lie."""
        return self.A[0].device


class Adapted:
    """`adapted(function, ...)` is `function(adapted.model, ...)`; gradients arrive in `weights`, the adapters."""

    def __init__(self, model: CausalLM, section: LoraSection, seed: int) -> None:
        """Freezes `model`, whose matrices are the sums from now on. `UserError` for targets that it does not have."""
        self.model, self.section = model.requires_grad_(False), section
        chosen = adapted_matrices(model, section)
        shapes = {name: (weight.shape[0], weight.shape[1]) for name, weight in chosen.items()}
        self.weights = Adapters(shapes, section.rank, seed, model.device)
        self._matrices = list(chosen.values())
        self._before = [matrix.detach().clone() for matrix in self._matrices]
        for matrix, a, b in zip(self._matrices, self.weights.A, self.weights.B, strict=True):
            matrix.requires_grad_(True)
            matrix.register_post_accumulate_grad_hook(partial(_hand_over, a, b, self.scale))

    @property
    def scale(self) -> float:
        """Of B A."""
        return self.section.alpha / self.section.rank

    def __call__(self, function: Callable[..., T], *arguments: Any) -> T:
        return function(self.model, *arguments)

    @torch.no_grad()
    def refresh(self) -> None:
        """Makes the sums of the adapters as they are now."""
        each = zip(self._matrices, self._before, self.weights.A, self.weights.B, strict=True)
        for matrix, before, a, b in each:
            matrix.copy_(torch.addmm(before.to(b.dtype), b, a, alpha=self.scale))

    def follow(self, optimizer: torch.optim.Optimizer) -> None:
        """From now on every step of `optimizer` makes the sums anew."""
        optimizer.register_step_post_hook(lambda *_: self.refresh())

    def save(self, directory: Path) -> None:
        """Writes the adapters as PEFT reads them."""
        directory.mkdir(parents=True, exist_ok=True)
        tensors = {}
        for name, a, b in zip(self.weights.names, self.weights.A, self.weights.B, strict=True):
            tensors[f"{_PREFIX}{name}.lora_A.weight"] = a.detach().cpu().contiguous()
            tensors[f"{_PREFIX}{name}.lora_B.weight"] = b.detach().cpu().contiguous()
        save_file(tensors, directory / _WEIGHTS, metadata={"format": "pt"})
        settings = {
            "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": None,
            "r": self.section.rank, "lora_alpha": self.section.alpha, "lora_dropout": 0.0, "bias": "none",
            "fan_in_fan_out": False, "target_modules": sorted({name.rpartition(".")[2] for name in self.weights.names}),
        }  # fmt: skip
        (directory / _CONFIG).write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")

    def load(self, directory: Path) -> None:
        """Takes the adapters that `save` wrote, and makes the sums. `UserError` for those of other matrices."""
        found = load_file(directory / _WEIGHTS)
        each = zip(self.weights.names, self.weights.A, self.weights.B, strict=True)
        expected = {f"{_PREFIX}{name}.lora_{kind}.weight": t for name, a, b in each for kind, t in (("A", a), ("B", b))}
        if {name: tensor.shape for name, tensor in found.items()} != {n: t.shape for n, t in expected.items()}:
            raise UserError(f"{directory} holds adapters of other matrices or another rank than [lora] says")
        with torch.no_grad():
            for name, tensor in expected.items():
                tensor.copy_(found[name])
        self.refresh()


def adapted_matrices(model: CausalLM, section: LoraSection) -> dict[str, Tensor]:
    """The matrices that get adapters, by the names of their layers: those of `section.targets`, or all linear ones
    between embedding and head. `UserError` for a target that no layer has."""
    linear = {
        name: module.weight
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not model.lm_head
    }
    kinds = {name.rpartition(".")[2] for name in linear}
    if unknown := [one for one in section.targets if one not in kinds]:
        raise UserError(f"lora.targets: no layer is called {unknown[0]}; this model has {', '.join(sorted(kinds))}")
    wanted = section.targets or kinds
    return {name: weight for name, weight in linear.items() if name.rpartition(".")[2] in wanted}


def check_whole_weights(recipe: Recipe) -> None:
    """`UserError` for adapters of weights in shards."""
    if recipe.lora.rank and recipe.parallel.shard:
        raise UserError("adapters need whole weights; set parallel.shard = false, or lora.rank = 0")


def _hand_over(a: Tensor, b: Tensor, scale: float, matrix: Tensor) -> None:
    whole, matrix.grad = matrix.grad, None
    assert whole is not None
    whole = whole.to(a.dtype)
    for part, gradient in ((a, b.detach().T @ whole), (b, whole @ a.detach().T)):
        if part.grad is None:
            part.grad = scale * gradient
        else:
            part.grad.add_(gradient, alpha=scale)
