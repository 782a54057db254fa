"""What the models of a run are called where people read of them."""

from __future__ import annotations

from pathlib import Path

from h1r.common.packaged import PREFIX

BASE = "base"
"""The stage name of a run's model before training; without training, of the checkpoint that was named."""
_PARTS = 3
"""Parts of a path that tell one checkpoint from another, as in demo/rl/model."""


def checkpoint_name(checkpoint: str) -> str:
    """`h1r:small` for the package's own model, wherever the package lies; a hub id as it is; of a path its last three
    parts."""
    parts = Path(checkpoint).expanduser().parts
    if parts[-4:-1] == ("h1r", "models", "shipped"):
        return f"{PREFIX}{parts[-1]}"
    return "/".join(part for part in parts[-_PARTS:] if part != "/") or checkpoint


def model_name(stage: str, checkpoint: str | None) -> str:
    """The name of a run's model: that of the checkpoint, in place of "base", where the recipe names one."""
    return checkpoint_name(checkpoint) if stage == BASE and checkpoint else stage
