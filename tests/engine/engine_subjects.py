"""What the engines' tests generate with: a small geometry that every engine runs, and a tokenizer to read it by."""

from __future__ import annotations

import dataclasses

from geometries import SMALL

from h1r.config import EngineSection

CONFIG = dataclasses.replace(SMALL, head_dim=32, mamba_rms_norm=True, eos_token_id=7, max_position_embeddings=256)
"""A geometry that vLLM's CPU attention has a kernel for (head_dim)."""
SECTION = EngineSection(max_sequences=6, prefill_tokens=256)


class Letters:
    """A tokenizer of one character per token."""

    def decode(self, ids: list[int]) -> str:
        return "".join(chr(65 + i) for i in ids)
