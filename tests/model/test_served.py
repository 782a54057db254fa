"""Checkpoints of architectures that vLLM alone knows: what is read of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import LlamaConfig

from h1r.errors import UserError
from h1r.models.served import foreign_config


def test_a_llama_has_its_sizes_and_every_end_token(tmp_path: Path) -> None:
    LlamaConfig(vocab_size=500, max_position_embeddings=128, eos_token_id=2).save_pretrained(tmp_path)
    found = foreign_config(tmp_path)
    assert found is not None
    assert (found.architecture, found.vocab_size, found.max_position_embeddings) == ("llama", 500, 128)
    assert found.eos_token_ids == (2,)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 7]}))
    found = foreign_config(tmp_path)
    assert found is not None
    assert found.eos_token_ids == (2, 7)


def test_models_of_text_and_pictures_have_their_sizes_inside(tmp_path: Path) -> None:
    inner = {"vocab_size": 90, "max_position_embeddings": 64, "eos_token_id": 1}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "some_vl", "text_config": inner}))
    found = foreign_config(tmp_path)
    assert found is not None
    assert (found.vocab_size, found.max_position_embeddings, found.eos_token_ids) == (90, 64, (1,))


def test_families_of_ours_are_none_and_a_file_without_sizes_is_refused(tmp_path: Path) -> None:
    assert foreign_config(tmp_path) is None
    (tmp_path / "config.json").write_text('{"model_type": "qwen3"}')
    assert foreign_config(tmp_path) is None
    (tmp_path / "config.json").write_text('{"model_type": "other"}')
    with pytest.raises(UserError, match="vocab_size"):
        foreign_config(tmp_path)
