"""A checkpoint of a few thousand random weights, with a tokenizer that knows the bytes and little more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from h1r.config import ChatSection
from h1r.data.tokenizer import train_tokenizer, with_chat_format
from h1r.models import build, save
from h1r.models.falcon_h1.config import preset


def small_checkpoint(path: Path, system_prompt: str | None = "", **more: Any) -> Path:
    """Saves it at `path`. more: for `save`."""
    tokenizer = with_chat_format(train_tokenizer(["What is 1 + 2?"], 300), ChatSection(system_prompt=system_prompt))
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 304}
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    return save(build(preset("tiny", **small, **ends), seed=1), path, tokenizer, **more)
