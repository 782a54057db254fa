"""Losses of RL by name: what `rl.algorithm` chooses from. Imports no torch."""

from __future__ import annotations

from typing import Any

from h1r.common.registry import Registry

LOSSES: Registry[Any] = Registry(
    "loss",
    {
        "grpo": "h1r.train.algorithms:GRPO",
        "dr_grpo": "h1r.train.algorithms:DrGRPO",
        "gspo": "h1r.train.algorithms:GSPO",
        "cispo": "h1r.train.algorithms:CISPO",
    },
)
"""Classes derived from `h1r.train.algorithms.Loss`."""

loss = LOSSES.register
"""Decorator of a class derived from `Loss`: `@h1r.loss("my_loss")`, then `rl.algorithm = "my_loss"`."""
