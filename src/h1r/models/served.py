"""What is known of a checkpoint of any architecture that vLLM alone runs: its sizes, what ends a sequence. No torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from h1r.errors import UserError
from h1r.models.registry import MODELS


@dataclass(frozen=True, slots=True)
class ServedConfig:
    """Of a checkpoint whose family is none of ours. `architecture` is its `model_type`."""

    architecture: str
    vocab_size: int
    max_position_embeddings: int
    eos_token_ids: tuple[int, ...]


def foreign_config(directory: Path) -> ServedConfig | None:
    """The sizes in the config.json of a checkpoint directory; None for a family of ours, or without that file.

    Models of text and pictures have theirs in `text_config`. `UserError` for a file without a vocabulary.
    """
    raw = _json(directory / "config.json")
    name = str(raw.get("model_type"))
    if not raw or name in MODELS:
        return None
    text = {**raw, **(raw.get("text_config") or {})}
    ends = _json(directory / "generation_config.json").get("eos_token_id") or text.get("eos_token_id")
    try:
        listed = ends if isinstance(ends, list) else [] if ends is None else [ends]
        return ServedConfig(
            name, int(text["vocab_size"]), int(text["max_position_embeddings"]), tuple(int(one) for one in listed)
        )
    except (KeyError, TypeError, ValueError):
        raise UserError(
            f"{directory / 'config.json'} does not say vocab_size and max_position_embeddings of a {name}"
        ) from None


def _json(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
