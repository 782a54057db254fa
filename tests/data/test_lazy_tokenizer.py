"""The tokenizer that answers without transformers is the one of transformers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from h1r.common.hub import SHIPPED, local_directory
from h1r.data.chat import conversation_ids
from h1r.data.lazy_tokenizer import LazyTokenizer, load_lazily
from h1r.data.tokenizer import load_tokenizer
from h1r.records import Message

LAZY: Any = load_lazily(SHIPPED)
WHOLE: Any = load_tokenizer(SHIPPED)
MARKS = st.sampled_from(["<think>", "</think>", "<|im_end|>", "<|pad|>", "12 + 3", "é", "\n\n", "  x"])
TEXTS = st.lists(MARKS | st.text())


@settings(max_examples=100, deadline=None)
@given(TEXTS)
def test_it_encodes_and_decodes_alike(parts: list[str]) -> None:
    text = "".join(parts)
    ids = WHOLE.encode(text, add_special_tokens=False)
    assert LAZY.encode(text, add_special_tokens=False) == ids
    how = {"add_special_tokens": False, "return_attention_mask": False}
    assert LAZY([text, "a"], **how)["input_ids"] == WHOLE([text, "a"], **how)["input_ids"]
    for skip in (False, True):
        assert LAZY.decode(ids, skip_special_tokens=skip) == WHOLE.decode(ids, skip_special_tokens=skip)
    turns = [Message("user", text), Message("assistant", "4", thinking=text), Message("user", "why?")]
    assert conversation_ids(LAZY, turns) == conversation_ids(WHOLE, turns)
    assert "whole" not in vars(LAZY), "transformers was asked"


def test_it_has_what_the_other_has() -> None:
    lazy: Any = load_lazily(SHIPPED)
    assert isinstance(lazy, LazyTokenizer)
    for name in ("chat_template", "clean_up_tokenization_spaces"):
        assert getattr(lazy, name) == getattr(WHOLE, name)
    assert len(lazy) == len(WHOLE)
    assert {n: str(t) for n, t in lazy.added_tokens_decoder.items()} == {
        n: str(t) for n, t in WHOLE.added_tokens_decoder.items()
    }
    assert lazy.backend_tokenizer.to_str() == WHOLE.backend_tokenizer.to_str()
    assert "whole" not in vars(lazy)
    assert (lazy.eos_token_id, lazy.pad_token) == (WHOLE.eos_token_id, WHOLE.pad_token)
    assert lazy.encode("1 + 1") == WHOLE.encode("1 + 1")
    asked = [{"role": "user", "content": "1 + 1 = ?"}]
    assert lazy.apply_chat_template(asked, tokenize=False) == WHOLE.apply_chat_template(asked, tokenize=False)
    with pytest.raises(AttributeError):
        _ = lazy.nothing_like_this


@pytest.mark.parametrize(
    "changed",
    [
        {"tokenizer_class": "LlamaTokenizer"},
        {"eos_token": "<|another|>"},
        {"extra_special_tokens": ["<|another|>"]},
        {"clean_up_tokenization_spaces": True},
        {"split_special_tokens": True},
        {"add_bos_token": True},
        {"added_tokens_decoder": {}},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_what_transformers_would_change_is_loaded_by_it(tmp_path: Path, changed: dict[str, Any]) -> None:
    directory = local_directory(SHIPPED)
    assert directory is not None
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(directory / name, tmp_path)
    assert isinstance(load_lazily(tmp_path), LazyTokenizer)
    file = tmp_path / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changed}))
    assert isinstance(load_lazily(tmp_path), PreTrainedTokenizerFast)
