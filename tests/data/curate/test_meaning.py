"""Near duplicates by meaning: same numbers, same answer, other words; the embedder is made here."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from corpora import corpus_recipe, curated
from model2vec import StaticModel
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from h1r.config import Recipe
from h1r.data.curate.rules import meaning
from h1r.data.curate.rules.meaning import alike, open_embedder
from h1r.errors import UserError

GROUPS = [["total", "sum", "altogether"], ["apples", "fruits"], ["bought", "purchased"], ["difference"], ["Ann", "Bea"]]
"""Words that mean the same have the same vector."""
FIRST = "Ann bought 3 apples and then Ann bought 4 apples , how many apples in total ?"
AGAIN = "Bea purchased 3 fruits and Bea purchased 4 fruits : give the sum of fruits"
OTHER = "Ann bought 3 apples and then Ann bought 5 apples , how many apples in total ?"


@pytest.fixture
def embedder(tmp_path: Path) -> Path:
    words = ["[UNK]", *(word for group in GROUPS for word in group)]
    plain = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    plain.pre_tokenizer = Whitespace()
    vectors = np.zeros((len(words), 8), np.float32)
    for axis, group in enumerate(GROUPS):
        for word in group:
            vectors[words.index(word), axis] = 1.0
    StaticModel(vectors, plain, normalize=False).save_pretrained(tmp_path / "embedder")
    return tmp_path / "embedder"


def recipe(path: Path, **curate: object) -> Recipe:
    rows = [{"q": asked, "a": answer, "out": f"<think>{answer} it is, n {n}</think>\\boxed{{{answer}}}"}
            for n, (asked, answer) in enumerate([(FIRST, "7"), (AGAIN, "7"), (OTHER, "8")])]  # fmt: skip
    (path / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tree = corpus_recipe(path).model_dump(mode="json")
    source = {"name": "asked", "kind": "jsonl", "path": "asked.jsonl",
              "columns": {"question": "q", "answer": "a", "completion": "out"}}  # fmt: skip
    tree["corpus"] |= {"sources": [source], "benchmarks": [], "traces": {}, "max_tokens_by": {}, "mixture": {}}
    return Recipe.model_validate({**tree, "curate": {"boilerplate_share": 1.0, **curate}})


def kept(stage: Path) -> list[str]:
    return [json.loads(line)["messages"][-2]["content"] for line in (stage / "samples.jsonl").read_text().splitlines()]


def test_what_means_the_same_is_a_near_duplicate_and_other_numbers_are_not(embedder: Path, tmp_path: Path) -> None:
    _, before = curated(recipe(tmp_path), tmp_path / "without")
    assert kept(before) == [FIRST, AGAIN, OTHER]
    summary, stage = curated(recipe(tmp_path, embedder=str(embedder)), tmp_path / "with")
    assert kept(stage) == [FIRST, OTHER]
    (row,) = [row for row in summary["table"] if row["step"] == "near duplicates"]
    assert row["in"] - row["out"] == 1


def test_pairs_of_a_large_block_are_those_with_its_first_questions(
    embedder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed = open_embedder(str(embedder))
    rows = [(-1, "apples"), (0, "fruits"), (1, "difference"), (2, "apples"), (3, "nothing known"), (4, "difference")]
    assert list(alike(rows, embed, 0.9)) == [(0, -1), (2, -1), (2, 0), (4, 1)]
    monkeypatch.setattr(meaning, "MAX_BLOCK", 2)
    assert list(alike(rows, embed, 0.9)) == [(0, -1), (2, -1), (2, 0)]


def test_a_model_of_sentence_transformers_is_loaded_without_its_code_and_gives_unit_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for the library, which is optional: what it is asked for, and what becomes of its vectors."""
    asked: list[object] = []

    class SentenceTransformer:
        def __init__(self, path: str, trust_remote_code: bool) -> None:
            asked.append((path, trust_remote_code))

        def encode(self, texts: list[str], show_progress_bar: bool) -> np.ndarray:
            assert not show_progress_bar
            asked.append(texts)
            return np.array([[3.0 * text.count("a"), 4.0 * text.count("b")] for text in texts], np.float64)

    module = ModuleType("sentence_transformers")
    module.__dict__["SentenceTransformer"] = SentenceTransformer
    monkeypatch.setitem(sys.modules, "sentence_transformers", module)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    embed = open_embedder(str(tmp_path))
    vectors = embed(("ab", "aabb", "a", "?"))
    assert asked == [(str(tmp_path), False), ["ab", "aabb", "a", "?"]]
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, [[0.6, 0.8], [0.6, 0.8], [1, 0], [0, 0]], atol=1e-6)
    assert list(alike([(0, "ab"), (1, "a"), (2, "aabb"), (3, "?")], embed, 0.9)) == [(2, 0)]
    open_embedder.cache_clear()
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(UserError, match=r"needs sentence_transformers; run `pip install sentence_transformers`"):
        open_embedder(str(tmp_path))


def test_an_embedder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no checkpoint directory"):
        open_embedder(str(tmp_path / "none"))
    (tmp_path / "config.json").write_text('{"model_type": "model2vec"}')
    with pytest.raises(UserError, match="cannot be loaded"):
        open_embedder(str(tmp_path))
